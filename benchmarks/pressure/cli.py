"""``torpor bench pressure``."""

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
        typer.Argument(
            help="A fleet.yaml, of which a fleet is started; with room for one model.",
            metavar="CONFIG",
        ),
    ] = None,
    fake: Annotated[
        bool, typer.Option("--fake", help="Engines without a model instead of CONFIG's.")
    ] = False,
    models: Annotated[
        str | None,
        typer.Option(
            help="Only these; the first one's answers are frozen for the second.", metavar="A,B"
        ),
    ] = None,
    kills: Annotated[int, typer.Option(help="Of each kind of process of each engine.", min=1)] = 5,
    freezes: Annotated[int, typer.Option(help="And as many switches before.", min=1)] = 5,
    maximum: Annotated[
        float, typer.Option(help="Seconds that a model waits behind answers that run.", min=0.1)
    ] = 3.0,
    parts: Annotated[
        str | None, typer.Option(help="Only these.", show_default="deaths,freeze")
    ] = None,
    seed: Seed = 0,
) -> Outcome:
    """How soon the death of an engine is noticed, and how long a model waits behind a long answer
    that is frozen for it."""
    from benchmarks.pressure.benchmark import complaint, measure
    from benchmarks.pressure.grounds import fake_settings
    from benchmarks.pressure.options import PARTS, Options
    from benchmarks.running import BenchError, Run, measuring, parts_of
    from benchmarks.wake.options import parse_models
    from controller.settings import load

    if (config is None) is not fake:
        raise BenchError("give one of CONFIG and --fake")
    options = Options(parse_models(models), kills, freezes, maximum, parts_of(parts, PARTS))
    settings = {
        "config": "fake engines" if fake else str(config),
        "models": list(options.models),
        "kills": kills,
        "freezes": freezes,
        "maximum_wait_behind_s": maximum,
        "parts": list(options.parts),
    }
    fleet = fake_settings() if config is None else load(config)
    run = Run("pressure", settings, seed)
    result = measuring(run, lambda run: measure(run, options, fleet))
    return Outcome(result, complaint(run))
