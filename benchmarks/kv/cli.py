"""``torpor bench kv``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli_options import Seed
from benchmarks.publishing import Outcome, published

_DEFAULT_CONFIG = Path("fleet.yaml")


@published
def command(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="A fleet.yaml with `kv`, of which fleets are started.",
            metavar="CONFIG",
            show_default="fleet.yaml",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Of CONFIG.", show_default="the first that keeps KV")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Of prefixes, in tokens.")] = "500,1000,2000,4000",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    parts: Annotated[
        str | None,
        typer.Option(
            help="Only these; agreement, which is not measured unasked, among them.",
            show_default="transfer,storing,first_token",
        ),
    ] = None,
    seed: Seed = 0,
) -> Outcome:
    """Export and prefetch against a plain copy; long prefixes restored and recomputed; the cost
    of storing; how far answers over compressed KV agree."""
    from benchmarks.kv.benchmark import measure
    from benchmarks.kv.options import Options, parse_lengths, parse_parts
    from benchmarks.running import BenchError, Run, measuring
    from controller.settings import load

    options = Options(model, parse_lengths(lengths), repeats, parse_parts(parts))
    if config is None and not _DEFAULT_CONFIG.exists():
        raise BenchError("no fleet.yaml here: name a CONFIG")
    path = config or _DEFAULT_CONFIG
    fleet = load(path)
    settings = {
        "config": str(path),
        "model": model,
        "lengths": list(options.lengths),
        "repeats": repeats,
        "parts": list(options.parts),
    }
    run = Run("kv", settings, seed)
    return Outcome(measuring(run, lambda run: measure(run, options, fleet)))
