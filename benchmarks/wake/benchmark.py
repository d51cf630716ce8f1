"""The whole of ``torpor bench wake``: which fleet, which models, what of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from benchmarks.running import BenchError, Run
from benchmarks.wake import cycling, switching
from benchmarks.wake.measuring import Bench
from benchmarks.wake.notes import notes
from benchmarks.wake.options import Options
from benchmarks.wake.own_fleet import own_fleet
from benchmarks.wake.stock import Stock, engine_of
from benchmarks.wake.subject import Subject
from controller.client import FleetError
from controller.settings import Settings
from workers.engine import EngineSpec


@dataclass(frozen=True, slots=True)
class Target:
    """A fleet of our own of these settings, or else the running one at ``url``."""

    settings: Settings | None = None
    url: str = ""
    key: str | None = None

    def spec(self, model: str) -> EngineSpec:
        """Raises BenchError where stock vLLM cannot be given the same."""
        if (spec := engine_of(self.settings, model)) is None:
            raise BenchError(f"--against needs a CONFIG that has {model} on vLLM")
        return spec


def measure(run: Run, options: Options, target: Target) -> None:
    """Raises BenchError; what was measured before it stays in ``run``."""
    if target.settings:
        models = chosen(options, tuple(model.spec.name for model in target.settings.models))
        _stocks(options, target, models)
    elif options.against:
        raise BenchError("--against needs a CONFIG, to start the same model")
    try:
        with _fleet(target, run) as (url, supervisor), closing(Subject(url, target.key)) as subject:
            _measure(run, options, target, subject, supervisor)
    except FleetError as error:
        raise BenchError(error.message) from error
    finally:
        _bring_together(run)


def chosen(options: Options, known: tuple[str, ...]) -> tuple[str, ...]:
    """The models to measure. Raises BenchError for one that the fleet does not have."""
    for model in options.models:
        if model not in known:
            raise BenchError(f"no model {model!r} in the fleet: {', '.join(known) or 'none'}")
    return options.models or known


def pair(models: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, str] | None:
    """Who takes turns: the first two measured, or the only one and the next of the fleet."""
    others = [name for name in (*models[1:], *known) if name != models[0]]
    return (models[0], others[0]) if others else None


def _measure(
    run: Run, options: Options, target: Target, subject: Subject, supervisor: int | None
) -> None:
    known = subject.names()
    models = chosen(options, known)
    if options.cycles:
        bench = Bench(run, subject, options, memories=subject.memories())
        for model in models:
            cycling.measure(bench, model, supervisor)
        return
    stocks = _stocks(options, target, models)
    device = target.settings.device if target.settings else None
    for note in notes(options, device, {s.side: s.arguments() for s in stocks.values()}):
        run.note(note)
    for model in models:
        starts = {side: stocks[side, model].first_token for side in options.against}
        Bench(run, subject, options, starts, subject.memories()).measure(model)
    if (both := pair(models, known)) and options.switches:
        switching.measure(Bench(run, subject, options), *both)


def _bring_together(run: Run) -> None:
    """Measures of one name side by side, in the order in which the names came."""
    names = list(dict.fromkeys(measure.name for measure in run.measures))
    run.measures.sort(key=lambda measure: names.index(measure.name))


def _stocks(
    options: Options, target: Target, models: tuple[str, ...]
) -> dict[tuple[str, str], Stock]:
    device = target.settings.device if target.settings else ""
    return {
        (side, model): Stock(side, target.spec(model), device)
        for side in options.against
        for model in models
    }


@contextmanager
def _fleet(target: Target, run: Run) -> Iterator[tuple[str, int | None]]:
    """Its address and, if it is ours, its process."""
    if target.settings is None:
        run.note("A running fleet was measured: its idle ladder and its clients go on meanwhile.")
        yield target.url, None
        return
    run.say("starting a fleet")
    with own_fleet(target.settings) as fleet:
        yield fleet.url, fleet.process.pid
