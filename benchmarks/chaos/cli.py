"""``torpor bench chaos``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli_options import Seed
from benchmarks.publishing import Outcome, published


@published
def command(
    config: Annotated[
        Path | None,
        typer.Argument(help="A fleet.yaml, of which a fleet is started.", metavar="CONFIG"),
    ] = None,
    fake: Annotated[
        bool, typer.Option("--fake", help="Engines without a model instead of CONFIG's.")
    ] = False,
    requests: Annotated[int, typer.Option(help="At least so many.", min=1)] = 200,
    rounds: Annotated[
        int, typer.Option(help="At least so often every fault; 0: as the requests last.", min=0)
    ] = 1,
    clients: Annotated[int, typer.Option(help="As many requests at a time.", min=1)] = 16,
    each: Annotated[int, typer.Option(help="So many different ones of each model.", min=1)] = 12,
    faults: Annotated[
        str | None,
        typer.Option(
            help="Only these: kill, stop or slow, and engine, core, controller, carrier, kv, "
            "store or agent.",
            metavar="KILL-ENGINE,STOP-KV,…",
        ),
    ] = None,
    hold: Annotated[
        float, typer.Option(help="Seconds for which a part is stopped or slowed.", min=0.1)
    ] = 2.0,
    calm: Annotated[
        float, typer.Option(help="Seconds between a fault and the next, at most.", min=0.0)
    ] = 1.0,
    max_wait: Annotated[
        float, typer.Option(help="Seconds that a request may wait for its model.", min=1.0)
    ] = 60.0,
    recovers: Annotated[
        float, typer.Option(help="Seconds after which a part is taken for broken.", min=1.0)
    ] = 120.0,
    carriers: Annotated[
        int, typer.Option(help="For --fake: processes that carry bytes.", min=0)
    ] = 0,
    own_store: Annotated[
        bool,
        typer.Option(
            help="KV and records lie in a Valkey of the benchmark's, not in a directory and the "
            "fleet's own.",
        ),
    ] = True,
    keep: Annotated[
        Path | None, typer.Option(help="Leave the fleet's journal and logs here.")
    ] = None,
    seed: Seed = 0,
) -> Outcome:
    """Kill, stop and slow the parts of a fleet of its own while it is asked, and see whether
    anything is lost, wrong or left."""
    from benchmarks.chaos.benchmark import measure
    from benchmarks.chaos.faults import parse
    from benchmarks.chaos.grounds import fake_settings
    from benchmarks.chaos.options import Options
    from benchmarks.running import BenchError, Run, measuring
    from controller.settings import load

    if (config is None) is not fake:
        raise BenchError("give one of CONFIG and --fake")
    options = Options(
        requests=requests,
        rounds=rounds,
        clients=clients,
        each=each,
        faults=tuple(faults.split(",")) if faults else (),
        hold_s=hold,
        calm_s=calm,
        max_wait_s=max_wait,
        recovers_s=recovers,
        keeps_store=own_store,
        kept=keep,
        seed=seed,
    )
    parse(options.faults)
    settings = {
        "config": "fake engines" if fake else str(config),
        "requests": requests,
        "rounds": rounds,
        "clients": clients,
        "each": each,
        "faults": faults,
        "hold_s": hold,
        "calm_s": calm,
        "carriers": carriers,
        "own_store": own_store,
    }
    fleet = fake_settings(carriers) if config is None else load(config)
    wrong: list[str] = []
    result = measuring(
        Run("chaos", settings, seed), lambda run: measure(run, options, fleet, wrong)
    )
    complaint = f"{len(wrong)} complaints; the first: {wrong[0]}" if wrong else None
    return Outcome(result, complaint)
