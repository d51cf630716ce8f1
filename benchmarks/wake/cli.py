"""``torpor bench wake``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.publishing import Outcome, published
from controller.cli_common import Key

if TYPE_CHECKING:
    from benchmarks.wake.benchmark import Target

_DEFAULT_CONFIG = Path("fleet.yaml")


@published
def command(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="A fleet.yaml, of which a fleet is started.",
            metavar="CONFIG",
            show_default="fleet.yaml",
        ),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running fleet instead.")] = None,
    key: Key = None,
    models: Annotated[str | None, typer.Option(help="Only these.", metavar="A,B")] = None,
    levels: Annotated[str, typer.Option(help="How deep to sleep.")] = "kv_released,1,2",
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Start stock vllm serve in the same run: vllm (the fleet's arguments) or "
            "vllm-defaults; both: give it again.",
            metavar="SIDE",
        ),
    ] = None,
    switches: Annotated[
        int, typer.Option(min=0, help="So many in a row, with sleep and without; 0: none at all.")
    ] = 5,
    cycles: Annotated[
        int, typer.Option(min=0, help="Only so many sleeps and wakes, and their drift.")
    ] = 0,
    fake: Annotated[bool, typer.Option("--fake", help="Engines without a model.")] = False,
    export_costs: Annotated[
        Path | None,
        typer.Option(help="Write the costs for torpor simulate, as YAML.", metavar="FILE"),
    ] = None,
) -> Outcome:
    """Cold start, sleep, wake, first token after each, switches; bytes and seconds by phase."""
    from benchmarks.running import Run, measuring
    from benchmarks.wake.benchmark import measure
    from benchmarks.wake.export import cost_table
    from benchmarks.wake.options import Options, parse_against, parse_levels, parse_models

    options = Options(
        models=parse_models(models),
        levels=parse_levels(levels),
        repeats=repeats,
        against=parse_against(against or ()),
        cycles=cycles,
        switches=switches,
    )
    target = _target(config, url, key, fake)
    settings = {
        "config": "fake engines" if fake else str(config or url or _DEFAULT_CONFIG),
        "models": list(options.models),
        "levels": list(options.levels),
        "repeats": repeats,
        "against": list(options.against),
        "cycles": cycles,
        "switches": switches,
    }
    result = measuring(Run("wake", settings), lambda run: measure(run, options, target))
    if export_costs:
        cost_table(result).write(export_costs)
    return Outcome(result)


def _target(config: Path | None, url: str | None, key: str | None, fake: bool) -> Target:
    from benchmarks.running import BenchError
    from benchmarks.wake.benchmark import Target
    from benchmarks.wake.own_fleet import fake_settings
    from controller.settings import load

    if sum((config is not None, url is not None, fake)) > 1:
        raise BenchError("give one of CONFIG, --url and --fake")
    if url:
        return Target(url=url, key=key)
    if fake:
        return Target(fake_settings())
    if config is None and not _DEFAULT_CONFIG.exists():
        raise BenchError("no fleet.yaml here: name a CONFIG, or give --url or --fake")
    return Target(load(config or _DEFAULT_CONFIG))
