"""Commands that ask a running fleet: what all of them take and do, written once.

A command is a function of the fleet and of what it takes itself. One that ``orders`` is also handed
whether to wait, and returns the operation; one that ``shows`` returns what it found. On the command
line each takes ``--json``, ``--url`` and ``--key`` beside its own, and an order ``--no-wait``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from controller.cli_common import DEFAULT_URL, Json, Key, NoWait, Url, connect, finish
from controller.cli_taking import taking

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.ports import OperationView

_LATER = {"FleetClient": Any, "OperationView": Any}
"""What commands are annotated with and do not import."""


@dataclass(frozen=True, slots=True)
class Shown:
    """``data`` for --json; otherwise ``texts``, one below the other."""

    data: Any
    texts: tuple[RenderableType | str, ...]


Order = Callable[..., "OperationView"]
Look = Callable[..., Shown]


def orders(app: typer.Typer, **told: Any) -> Callable[[Order], Order]:
    """``told``: to typer, of the command."""

    def register(order: Order) -> Order:
        def run(
            no_wait: NoWait = False,
            json: Json = False,
            url: Url = DEFAULT_URL,
            key: Key = None,
            **own: Any,
        ) -> None:
            with connect(url, key) as fleet:
                finish(order(fleet, not no_wait, **own), json)

        app.command(**told)(taking(run, order, handed=2, later=_LATER))
        return order

    return register


def shows(app: typer.Typer, **told: Any) -> Callable[[Look], Look]:
    """``told``: to typer, of the command."""

    def register(look: Look) -> Look:
        def run(json: Json = False, url: Url = DEFAULT_URL, key: Key = None, **own: Any) -> None:
            with connect(url, key) as fleet:
                _print(look(fleet, **own), json)

        app.command(**told)(taking(run, look, handed=1, later=_LATER))
        return look

    return register


def _print(shown: Shown, json: bool) -> None:
    from controller.terminal import out, print_json, say

    if json:
        print_json(shown.data)
        return
    for text in shown.texts:
        if isinstance(text, str):
            say(text)
        else:
            out.print(text)
