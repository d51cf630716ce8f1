"""Commands that talk to a running fleet: status, wake, sleep, switch, pin, stop, why, chat."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli_asking import Shown, orders, shows
from controller.cli_common import DEFAULT_URL, Json, Key, Level, Model, Url, connect

if TYPE_CHECKING:
    from controller.client import FleetClient
    from controller.ports import OperationView

_PANEL = "A running fleet"
_REFRESH_S = 1.0

app = typer.Typer()


@app.command(rich_help_panel=_PANEL)
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until Ctrl-C.")] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Models, what they hold, and how long a wake would take."""
    from controller.terminal import fleet_table, out, print_json

    with connect(url, key) as fleet:
        if watch:
            _watch(fleet, json)
        elif json:
            print_json(fleet.fleet())
        else:
            out.print(fleet_table(fleet.fleet()))


def _watch(fleet: FleetClient, json: bool) -> None:
    from rich.live import Live

    from controller.terminal import fleet_table, out, print_json

    if json:
        while True:
            print_json(fleet.fleet())
            time.sleep(_REFRESH_S)
    with Live(fleet_table(fleet.fleet()), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_S)
            live.update(fleet_table(fleet.fleet()), refresh=True)


@orders(app, rich_help_panel=_PANEL)
def wake(fleet: FleetClient, wait: bool, model: Model) -> OperationView:
    """Wake a model, or start it; also one that was given up on."""
    return fleet.wake(model, wait=wait)


@orders(app, rich_help_panel=_PANEL)
def sleep(fleet: FleetClient, wait: bool, model: Model, level: Level = 1) -> OperationView:
    """Put a model to sleep once its requests have ended."""
    return fleet.sleep(model, level, wait=wait)


@orders(app, rich_help_panel=_PANEL)
def switch(
    fleet: FleetClient,
    wait: bool,
    to: Annotated[str, typer.Argument(help="The model to wake.", metavar="TO")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from", help="Who goes to sleep for it.", show_default="whom eviction names"
        ),
    ] = None,
    level: Level = 1,
) -> OperationView:
    """Wake one model in the place of another, which sleeps at that level."""
    return fleet.switch(to, source, level, wait=wait)


@orders(app, rich_help_panel=_PANEL)
def stop(fleet: FleetClient, wait: bool, model: Model) -> OperationView:
    """Stop a model's engines once its requests have ended; a request starts them again."""
    return fleet.stop(model, wait=wait)


@shows(app, rich_help_panel=_PANEL)
def pin(fleet: FleetClient, model: Model) -> Shown:
    """Keep a model from being demoted."""
    fleet.pin(model)
    return Shown({"model": model, "pinned": True}, (f"{model}: pinned",))


@shows(app, rich_help_panel=_PANEL)
def unpin(fleet: FleetClient, model: Model) -> Shown:
    """Let a model be demoted again."""
    fleet.unpin(model)
    return Shown({"model": model, "pinned": False}, (f"{model}: not pinned",))


@shows(app, rich_help_panel=_PANEL)
def why(fleet: FleetClient, model: Model) -> Shown:
    """A model's story: who demoted it, when and for whom, and what a wake would take."""
    from controller.terminal import seconds, story_table

    story, view = fleet.why(model), fleet.model(model)
    wake_s = view.wake_estimate_s
    hint = "" if view.state == "awake" else f"; awake again within {seconds(wake_s)}"
    return Shown(
        {"model": model, "state": view.state, "wake_estimate_s": wake_s, "story": story},
        (story_table(story), f"\n{model} is {view.state}{hint}"),
    )


@app.command(rich_help_panel=_PANEL)
def chat(
    model: Model,
    message: Annotated[
        str | None, typer.Argument(help="Say this and end; without it: a conversation.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 512,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0: greedy.", show_default="the model's")
    ] = None,
    conversation: Annotated[
        str | None, typer.Option(help="A name under which the fleet keeps its KV.")
    ] = None,
    store: Annotated[
        bool,
        typer.Option("--store", help="Keep what is said under that name, and go on from it."),
    ] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Talk to a model; shows how it wakes."""
    from controller.chat import Chat, converse
    from controller.terminal import print_json

    if store and conversation is None:
        raise typer.BadParameter("needs --conversation: under what name", param_hint="--store")
    with connect(url, key) as fleet:
        talk = Chat(fleet, model, system, max_tokens, temperature, conversation, store)
        if message is None:
            converse(talk)
        elif json:
            print_json(talk.ask_silently(message))
        else:
            talk.ask(message)
