"""``torpor bench load``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli_options import Seed
from benchmarks.publishing import Outcome, published
from controller.cli_common import Key


@published
def command(
    scenario: Annotated[
        str, typer.Argument(help="A shipped scenario's name, or a file.", metavar="SCENARIO")
    ],
    config: Annotated[
        Path | None,
        typer.Argument(help="A fleet.yaml, of which a fleet is started.", metavar="CONFIG"),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running fleet instead.")] = None,
    key: Key = None,
    fake: Annotated[
        bool,
        typer.Option("--fake", help="A fleet of fake engines that take what --costs says."),
    ] = False,
    costs: Annotated[str, typer.Option(help="For --fake: a100, h100, h200, or a file.")] = "a100",
    models: Annotated[
        str | None, typer.Option(help="The fleet's, most popular first.", metavar="A,B")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Only so many seconds of the scenario.", min=0.1)
    ] = None,
    speed: Annotated[
        float,
        typer.Option(help="The scenario's time passes so many times as fast.", min=0.01),
    ] = 1.0,
    tokens: Annotated[
        float, typer.Option(help="Prompts and answers so many times as long.", min=0.001)
    ] = 1.0,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Compare on the same arrivals: torpor, fifo-swap, fifo-sleep, no-sleep, or all; "
            "each with a fleet of its own.",
            metavar="A,B",
        ),
    ] = None,
    seed: Seed = 0,
) -> Outcome:
    """Open-loop load on a live fleet: arrivals never wait for answers."""
    from benchmarks.load.benchmark import Options, measure, target_of
    from benchmarks.load.policies import chosen
    from benchmarks.running import Run, measuring
    from benchmarks.workload.scenario import read

    options = Options(
        models=tuple(models.split(",")) if models else (),
        duration_s=duration,
        speed=speed,
        tokens=tokens,
        seed=seed,
        policies=chosen(policy) if policy else {},
    )
    asked = read(scenario)
    target = target_of(asked, config, url, key, costs if fake else None, options)
    settings = {
        "scenario": asked.model_dump(mode="json"),
        "fleet": f"fake engines, costs {costs}" if fake else str(config or url),
        "duration_s": duration,
        "speed": speed,
        "tokens": tokens,
        "policies": list(options.policies),
    }
    run = Run("load", settings, seed)
    return Outcome(measuring(run, lambda run: measure(run, asked, options, target)))
