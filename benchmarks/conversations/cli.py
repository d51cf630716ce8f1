"""``torpor bench conversations``."""

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
            help="A fleet.yaml with `kv`, of which a fleet is started for the turns.",
            metavar="CONFIG",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Of CONFIG.", show_default="the first that keeps KV")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Of each conversation.")] = 2000,
    many: Annotated[int, typer.Option(min=200, help="Conversations on record.")] = 100_000,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    parts: Annotated[
        str | None, typer.Option(help="Only these.", show_default="records,turns")
    ] = None,
    seed: Seed = 0,
) -> Outcome:
    """Conversations on record, pages of them, and what hibernating and coming back takes."""
    from benchmarks.conversations.benchmark import measure
    from benchmarks.conversations.options import PARTS, Options
    from benchmarks.running import Run, measuring, parts_of
    from controller.settings import load

    options = Options(model, tokens, many, repeats, parts_of(parts, PARTS))
    settings = {
        "config": str(config) if config else None,
        "model": model,
        "tokens": tokens,
        "many": many,
        "repeats": repeats,
        "parts": list(options.parts),
    }
    fleet = load(config) if config else None
    run = Run("conversations", settings, seed)
    return Outcome(measuring(run, lambda run: measure(run, options, fleet)))
