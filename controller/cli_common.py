"""What the groups of commands share: options, exit codes, every known error as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from controller.config_errors import ConfigError

if TYPE_CHECKING:
    from controller.client import FleetClient
    from controller.ports import OperationView

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed or refused; 2 wrong usage or configuration; "
    "3 no fleet answers; 130 interrupted."
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option(envvar="TORPOR_URL", help="Where the fleet answers.")]
Key = Annotated[str | None, typer.Option(envvar="TORPOR_KEY", help="API key.", show_default=False)]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once, with the operation.")]
Model = Annotated[str, typer.Argument(help="The model's name.", metavar="MODEL")]
Level = Annotated[
    int, typer.Option(min=0, max=2, help="0: KV only; 1: weights to host memory; 2: discarded.")
]
DEFAULT_URL = "http://127.0.0.1:8000"


class Commands(TyperGroup):
    """Runs a command; what it raises knowingly becomes a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(FAILED) from None
        except Exception as error:
            code = _told(error)
            if code is None:
                raise
            raise typer.Exit(code) from error


def _told(error: Exception) -> int | None:
    """Say it in a line; None if it is not an error we know."""
    from controller.client import FleetError, FleetUnreachable
    from controller.terminal import complain

    match error:
        case ConfigError():
            for problem in error.problems:
                complain(str(problem))
            return USAGE
        case FleetUnreachable():
            complain(error.message)
            return UNREACHABLE
        case FleetError():
            complain(f"{error.message} ({error.code})")
            return FAILED
        case OSError():
            complain(str(error))
            return FAILED
    return None


def connect(url: str, key: str | None) -> FleetClient:
    from controller.client import FleetClient

    return FleetClient(url, key)


def finish(operation: OperationView, json: bool) -> None:
    """Say how an order ended, or that it goes on; exits where it failed."""
    from controller.terminal import complain, operation_line, print_json, say

    if json:
        print_json(operation)
    elif operation.status == "failed":
        complain(operation_line(operation))
    else:
        say(operation_line(operation))
    if operation.status == "failed":
        raise typer.Exit(FAILED)
