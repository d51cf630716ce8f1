"""``torpor bench gateway``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.publishing import Outcome, published

if TYPE_CHECKING:
    from benchmarks.gateway.options import Options
    from benchmarks.running import Run


@published
def command(
    engine: Annotated[
        str,
        typer.Option(
            help="quick: fixed answers, never the bottleneck; fake: a fake engine on uvicorn; "
            "CONFIG: of a fleet.yaml, stock vLLM with --model; or the URL of a running one.",
            metavar="quick|fake|CONFIG|URL",
        ),
    ] = "quick",
    engine_key: Annotated[str, typer.Option(help="The running engine's key.")] = "",
    model: Annotated[str, typer.Option(help="The real engine's model.")] = "bench",
    warm_up: Annotated[int, typer.Option(min=1, help="Requests, not measured.")] = 2_000,
    requests: Annotated[
        int, typer.Option(min=0, help="One at a time, to each side. 0: not measured.")
    ] = 3_000,
    rounds: Annotated[int, typer.Option(min=1, help="Of each measurement, sides by turns.")] = 5,
    round_s: Annotated[float, typer.Option(min=0.01, help="At full load.")] = 2.0,
    connections: Annotated[
        str, typer.Option(help="At full load; empty: not measured.", metavar="N,N")
    ] = "1,16,64,256",
    streams: Annotated[
        str, typer.Option(help="At once; empty: not measured.", metavar="N,N")
    ] = "1,16,64,256",
    events: Annotated[int, typer.Option(min=2, help="Of each stream.")] = 200,
    event_interval: Annotated[
        float, typer.Option(min=0.0, help="Seconds between the events of quick and fake.")
    ] = 0.02,
    workers: Annotated[
        str,
        typer.Option(
            help="Carriers before the controller, compared; empty: not measured.", metavar="N,N"
        ),
    ] = "",
    memory_requests: Annotated[
        int, typer.Option(min=0, help="While memory is watched. 0: not measured.")
    ] = 100_000,
) -> Outcome:
    """What the controller adds to a request: time, CPU, memory; the engine asked by turns
    directly and through it."""
    from benchmarks.gateway.options import Options, parse_counts
    from benchmarks.running import Run, measuring

    options = Options(
        engine=engine,
        engine_key=engine_key,
        model=model,
        connections=parse_counts(connections),
        rounds=rounds,
        warm_up=warm_up,
        round_s=round_s,
        requests=requests,
        streams=parse_counts(streams),
        events=events,
        event_interval_s=event_interval,
        workers=parse_counts(workers, least=0),
        memory_requests=memory_requests,
    )
    settings = {name: value for name, value in asdict(options).items() if name != "engine_key"}
    return Outcome(measuring(Run("gateway", settings), lambda run: _measure(run, options)))


def _measure(run: Run, options: Options) -> None:
    import os

    from benchmarks.gateway.measuring import measures

    run.note(
        "direct asks the engine's own port, gateway the controller before it, by turns in one "
        "run; added is the difference of neighbours. Load generator, controller and engine "
        "share the machine."
    )
    run.note(f"Processes that wanted a core in the minute before: {os.getloadavg()[0]:.1f}.")
    for measure in measures(options, run.say):
        run.add(measure)
    run.note(f"In the run's last minute, its own three among them: {os.getloadavg()[0]:.1f}.")
