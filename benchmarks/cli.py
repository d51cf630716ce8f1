"""``torpor bench …`` and ``torpor simulate``, as the ``torpor`` command finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos.cli import command as chaos
from benchmarks.cli_options import GateFile, Html, Plots, complaining
from benchmarks.conversations.cli import command as conversations
from benchmarks.gateway.cli import command as gateway
from benchmarks.kv.cli import command as kv
from benchmarks.load.cli import command as load
from benchmarks.pressure.cli import command as pressure
from benchmarks.publishing import publish
from benchmarks.simulate.cli import command as simulate
from benchmarks.wake.cli import command as wake
from controller.cli_common import Commands, Json


class Benchmarks(Commands):
    def invoke(self, ctx: Any) -> Any:
        with complaining():
            return super().invoke(ctx)


app = typer.Typer()
"""Merged into the command line as it is: it names its own groups."""
bench = typer.Typer(
    cls=Benchmarks,
    help="Measure: cold start against wake, what the controller adds, a fleet under load.",
    no_args_is_help=True,
)
app.add_typer(bench, name="bench")
bench.command("chaos")(chaos)
bench.command("conversations")(conversations)
bench.command("gateway")(gateway)
bench.command("kv")(kv)
bench.command("load")(load)
bench.command("pressure")(pressure)
bench.command("wake")(wake)
app.command("simulate")(simulate)


@bench.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A result, the base.")],
    second: Annotated[Path, typer.Argument(help="Another result.")],
    json: Json = False,
) -> None:
    """Two results, measure by measure: ratios with their spread."""
    from benchmarks.compare import compare as compare_results
    from benchmarks.compare import differences
    from benchmarks.result import read
    from benchmarks.running import BenchError
    from benchmarks.tables import compared_table
    from controller.terminal import out, print_json

    before, after = read(first), read(second)
    rows = compare_results(before, after)
    if not rows:
        raise BenchError(f"{first} and {second} share no measure")
    if json:
        print_json(
            [
                {
                    **row.measure.model_dump(include={"name", "labels", "unit"}),
                    "first": row.before,
                    "second": row.after,
                    "ratio": row.ratio,
                    "verdict": row.verdict,
                }
                for row in rows
            ]
        )
    else:
        out.print(compared_table(rows, differences(before, after)))


@bench.command()
def report(
    result: Annotated[Path, typer.Argument(help="A result.")],
    plots: Plots = None,
    html: Html = None,
    gate: GateFile = None,
    json: Json = False,
) -> None:
    """Show a result again: table, plots, page, gate."""
    from benchmarks.result import read

    publish(read(result), None, plots, html, gate, json)
