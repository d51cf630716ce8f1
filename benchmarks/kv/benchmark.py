"""The whole of ``torpor bench kv``: its parts, one after another."""

from __future__ import annotations

from benchmarks.kv import agreement, storing, transfer
from benchmarks.kv.first_token import FirstTokens
from benchmarks.kv.fleets import chosen, only
from benchmarks.kv.notes import notes
from benchmarks.kv.options import Options
from benchmarks.running import BenchError, Run
from controller.client import FleetError
from controller.settings import Settings


def measure(run: Run, options: Options, settings: Settings) -> None:
    """Raises BenchError; what was measured before it stays in ``run``."""
    alone = only(settings, chosen(settings, options.model))
    for note in notes(options, alone):
        run.note(note)
    try:
        if "transfer" in options.parts:
            transfer.measure(run, max(options.lengths), options.repeats)
        if "storing" in options.parts:
            storing.measure(run, alone, options.repeats)
        if "first_token" in options.parts:
            FirstTokens(run, options, alone).measure()
        if "agreement" in options.parts:
            agreement.measure(run, alone)
    except FleetError as error:
        raise BenchError(error.message) from error
    finally:
        _bring_together(run)


def _bring_together(run: Run) -> None:
    """Measures of one name side by side, in the order in which the names came."""
    names = list(dict.fromkeys(measure.name for measure in run.measures))
    run.measures.sort(key=lambda measure: names.index(measure.name))
