"""Commands that talk to a running fleet: status, wake, sleep, switch, pin, stop, why, chat."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli_common import (
    DEFAULT_URL,
    Json,
    Key,
    Level,
    Model,
    NoWait,
    Url,
    connect,
    finish,
)

if TYPE_CHECKING:
    from controller.client import FleetClient

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


@app.command(rich_help_panel=_PANEL)
def wake(
    model: Model,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Wake a model, or start it; also one that was given up on."""
    with connect(url, key) as fleet:
        finish(fleet.wake(model, wait=not no_wait), json)


@app.command(rich_help_panel=_PANEL)
def sleep(
    model: Model,
    level: Level = 1,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Put a model to sleep once its requests have ended."""
    with connect(url, key) as fleet:
        finish(fleet.sleep(model, level, wait=not no_wait), json)


@app.command(rich_help_panel=_PANEL)
def switch(
    to: Annotated[str, typer.Argument(help="The model to wake.", metavar="TO")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from", help="Who goes to sleep for it.", show_default="whom eviction names"
        ),
    ] = None,
    level: Level = 1,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Wake one model in the place of another, which sleeps at that level."""
    with connect(url, key) as fleet:
        finish(fleet.switch(to, source, level, wait=not no_wait), json)


@app.command(rich_help_panel=_PANEL)
def stop(
    model: Model,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Stop a model's engines once its requests have ended; a request starts them again."""
    with connect(url, key) as fleet:
        finish(fleet.stop(model, wait=not no_wait), json)


@app.command(rich_help_panel=_PANEL)
def pin(model: Model, json: Json = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Keep a model from being demoted."""
    _set_pinned(model, True, json, url, key)


@app.command(rich_help_panel=_PANEL)
def unpin(model: Model, json: Json = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Let a model be demoted again."""
    _set_pinned(model, False, json, url, key)


def _set_pinned(model: str, pinned: bool, json: bool, url: str, key: str | None) -> None:
    from controller.terminal import print_json, say

    with connect(url, key) as fleet:
        if pinned:
            fleet.pin(model)
        else:
            fleet.unpin(model)
    if json:
        print_json({"model": model, "pinned": pinned})
    else:
        say(f"{model}: {'pinned' if pinned else 'not pinned'}")


@app.command(rich_help_panel=_PANEL)
def why(model: Model, json: Json = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """A model's story: who demoted it, when and for whom, and what a wake would take."""
    from controller.terminal import out, print_json, say, seconds, story_table

    with connect(url, key) as fleet:
        story, view = fleet.why(model), fleet.model(model)
    if json:
        wake_s = view.wake_estimate_s
        print_json({"model": model, "state": view.state, "wake_estimate_s": wake_s, "story": story})
        return
    out.print(story_table(story))
    hint = "" if view.state == "awake" else f"; awake again within {seconds(view.wake_estimate_s)}"
    say(f"\n{model} is {view.state}{hint}")


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
