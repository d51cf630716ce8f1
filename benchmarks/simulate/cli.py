"""``torpor simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli_options import Seed, complaining
from benchmarks.publishing import Outcome, published


@published
def command(
    scenario: Annotated[
        str | None, typer.Argument(help="A shipped scenario's name, or a file.", metavar="SCENARIO")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Instead: what a fleet's journal says was asked.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The fleet: a fleet.yaml.")] = None,
    costs: Annotated[
        str | None,
        typer.Option(
            help="a100, h100, h200, or a file of `bench wake --export-costs`. "
            "None: a100; for a journal, what orders took there."
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="torpor, torpor-lru, torpor-lfu, fifo-swap, fifo-sleep, ready-first, "
            "no-sleep, or all."
        ),
    ] = "torpor",
    ttft: Annotated[
        float | None, typer.Option(help="Objective: seconds to the first token.", min=0.001)
    ] = None,
    e2e: Annotated[
        float | None, typer.Option(help="Objective: seconds to the last token.", min=0.001)
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Objective: of the requests.", min=0.001, max=1)
    ] = None,
    devices: Annotated[int | None, typer.Option(help="So many instead.", min=1)] = None,
    gpus: Annotated[bool, typer.Option(help="Find out how many the objective needs.")] = True,
    rates: Annotated[
        bool, typer.Option(help="Find out the highest rate of requests at which it is met.")
    ] = False,
    write_journal: Annotated[
        Path | None, typer.Option(help="Keep the journal of the run here.")
    ] = None,
    timelines: Annotated[
        bool, typer.Option(help="Keep who was where when, for plots: most of the file.")
    ] = True,
    seed: Seed = 0,
) -> Outcome:
    """What a fleet would do: a scenario, or a journal, on the same core with simulated engines."""
    with complaining():
        from benchmarks.running import BenchError, Run, measuring
        from benchmarks.simulate.playing import find_rates, play, size
        from benchmarks.simulate.policies import chosen
        from benchmarks.simulate.staging import stage_for

        if (scenario is None) == (journal is None):
            raise BenchError("give a SCENARIO, or --journal FILE")
        staged = stage_for(scenario, journal, config, costs, seed, (ttft, e2e, share))
        stage = staged.stage.resized(devices) if devices else staged.stage
        policies, labels = chosen(policy), {"scenario": staged.name}

        def simulate(run: Run) -> None:
            for note in staged.notes:
                run.note(note)
            play(run, stage, staged.objective, policies, labels, write_journal)
            if gpus:
                size(run, stage, staged.objective, policies, labels)
            if rates and staged.at_rate is not None:
                find_rates(run, staged.at_rate, staged.objective, policies, labels)
            if not timelines:
                run.timelines.clear()

        return Outcome(measuring(Run("simulate", staged.settings, seed), simulate))
