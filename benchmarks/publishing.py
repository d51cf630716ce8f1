"""What becomes of a result: where it is shown, and the files that were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from benchmarks.cli_options import GateFile, Html, Out, Plots
from controller.cli_common import FAILED, Json
from controller.cli_taking import taking

if TYPE_CHECKING:
    from benchmarks.result import Result


@dataclass(frozen=True, slots=True)
class Outcome:
    result: Result
    complaint: str | None = None
    """Why the command has failed though it has measured."""


def published(command: Callable[..., Outcome]) -> Callable[..., None]:
    """A command whose caller says, beside its own options, where its result goes."""

    def run(
        out: Out = None,
        plots: Plots = None,
        html: Html = None,
        gate: GateFile = None,
        json: Json = False,
        **own: Any,
    ) -> None:
        outcome = command(**own)
        publish(outcome.result, out, plots, html, gate, json)
        if outcome.complaint:
            from controller.terminal import complain

            complain(outcome.complaint)
            raise typer.Exit(FAILED)

    return taking(run, command)


def publish(
    result: Result,
    out_file: Path | None,
    plots: Path | None,
    html: Path | None,
    gate: Path | None,
    json: bool,
) -> None:
    """Everything that was asked for, of one result. Exits with 1 if it breaks a limit."""
    from benchmarks.gate import breaches, read_gate
    from benchmarks.tables import result_table
    from controller.terminal import complain, out, print_json

    limits = read_gate(gate) if gate else None
    if out_file:
        result.write(out_file)
    if plots:
        from benchmarks.plots import save_all

        save_all(result, plots)
    if html:
        from benchmarks.report import write_page

        write_page(result, html)
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        out.print(result_table(result))
    broken = breaches(limits, result) if limits else []
    for sentence in broken:
        complain(sentence)
    if broken or not result.is_complete:
        raise typer.Exit(FAILED)
