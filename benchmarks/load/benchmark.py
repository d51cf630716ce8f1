"""A run of ``torpor bench load``: the fleet found or started, the requests sent when they are due,
the fleet's events followed, all of it scored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from benchmarks.load.fake_fleet import NOTE, fake_fleet
from benchmarks.load.policies import AS_IT_IS, Policy
from benchmarks.load.sending import Load, run_load
from benchmarks.load.watching import seen
from benchmarks.result import Labels, Measure
from benchmarks.running import BenchError, Run
from benchmarks.simulate.set_stage import named_by_rank
from benchmarks.wake.own_fleet import own_fleet
from benchmarks.workload.arrivals import Arrival, arrivals
from benchmarks.workload.residency import counted, device_time
from benchmarks.workload.scenario import Objective, Scenario
from benchmarks.workload.score import score
from controller.cli_common import DEFAULT_URL
from controller.client import FleetClient
from controller.core.names import ModelName
from controller.ports import FleetView
from controller.settings import Settings, load


@dataclass(frozen=True, slots=True)
class Options:
    models: tuple[str, ...] = ()
    duration_s: float | None = None
    speed: float = 1.0
    tokens: float = 1.0
    seed: int = 0
    policies: Mapping[str, Policy] = field(default_factory=dict)
    """By name, one after the other, each with a fleet of its own. None: the fleet as it is."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running fleet's address, or the settings of one to start."""

    url: str
    key: str | None = None
    settings: Settings | None = None
    is_fake: bool = False


def target_of(
    scenario: Scenario,
    config: Path | None,
    url: str | None,
    key: str | None,
    fake_costs: str | None,
    options: Options,
) -> Target:
    """Raises BenchError where two fleets are named, or none that could have another policy."""
    if sum((config is not None, url is not None, fake_costs is not None)) > 1:
        raise BenchError("give one of CONFIG, --url and --fake")
    if options.policies and config is None and fake_costs is None:
        raise BenchError("--policy needs CONFIG or --fake: a running fleet has the policy it has")
    if fake_costs is not None:
        return Target("", None, fake_fleet(scenario, fake_costs, options.speed), is_fake=True)
    return Target(url or DEFAULT_URL, key, load(config) if config else None)


def measure(run: Run, scenario: Scenario, options: Options, target: Target) -> None:
    if not options.policies:
        _under(run, scenario, options, target, "live", AS_IT_IS)
    for name, policy in options.policies.items():
        run.say(f"{name}: {policy.what}")
        run.note(f"{name}: {policy.what}.")
        _under(run, scenario, options, target, name, policy)


def _under(
    run: Run, scenario: Scenario, options: Options, target: Target, name: str, policy: Policy
) -> None:
    with _fleet(target, policy, run) as url, FleetClient(url, target.key) as fleet:
        if target.settings is not None:
            _wake_each(fleet, run)
        view = fleet.fleet()
        objective, max_wait_s = scenario.objective, scenario.max_wait_s
        if target.is_fake:
            run.note(NOTE)
            objective, max_wait_s = _hastened(objective, options.speed), max_wait_s / options.speed
        if options.speed != 1:
            what = "Everything, the objective too, passes" if target.is_fake else "Arrivals come"
            run.note(f"{what} {options.speed:g} times as fast.")
        due = _due(scenario, options)
        named = _named(scenario, options, view)
        for one, other in named.items():
            if one != other:
                run.note(f"{one} is played by {other}.")
        most = {model.model: model.max_model_len for model in view.models}
        load_ = Load(due, named, most, max_wait_s, options.seed, seen(view))
        load_.turns = asyncio.Lock() if policy.in_order else None
        length_s = _length(scenario, options)
        run.say(f"{len(due)} requests in {length_s:.0f} s")
        try:
            asyncio.run(run_load(load_, url, target.key))
        finally:
            labels = {"scenario": scenario.name, "policy": name}
            _score(run, labels, objective, load_, view, length_s)


def _length(scenario: Scenario, options: Options) -> float:
    """Over which requests arrive, in real seconds."""
    return min(scenario.duration_s, options.duration_s or inf) / options.speed


def _due(scenario: Scenario, options: Options) -> list[Arrival]:
    """In real seconds."""
    length_s = _length(scenario, options)
    hastened = (
        replace(
            arrival,
            at_s=arrival.at_s / options.speed,
            prompt_tokens=max(1, round(arrival.prompt_tokens * options.tokens)),
            answer_tokens=max(1, round(arrival.answer_tokens * options.tokens)),
        )
        for arrival in arrivals(scenario, options.seed)
    )
    return [arrival for arrival in hastened if arrival.at_s < length_s]


def _hastened(objective: Objective, speed: float) -> Objective:
    limits = {"ttft_s": objective.ttft_s, "e2e_s": objective.e2e_s}
    return objective.model_copy(update={k: v and v / speed for k, v in limits.items()})


def _named(scenario: Scenario, options: Options, view: FleetView) -> dict[str, ModelName]:
    there = [model.model for model in view.models]
    if unknown := set(options.models) - set(there):
        raise BenchError(f"the fleet has no model {sorted(unknown)[0]!r}: {', '.join(there)}")
    chosen = [ModelName(name) for name in options.models or there]
    if not chosen:
        raise BenchError("the fleet has no models")
    return named_by_rank([model.name for model in scenario.models], chosen)


@contextmanager
def _fleet(target: Target, policy: Policy, run: Run) -> Iterator[str]:
    if target.settings is None:
        yield target.url
        return
    run.say("starting a fleet")
    with own_fleet(policy.applied(target.settings), _placed) as fleet:
        yield fleet.url


def _placed(settings: Settings, directory: Path) -> Settings:
    """As configured, but with an address and a directory of its own; the file is not read again."""
    return replace(
        settings,
        server=replace(settings.server, host="127.0.0.1", port=0, keys=()),
        state_dir=directory / "state",
        log_dir=directory / "state" / "logs",
        source=None,
    )


def _wake_each(fleet: FleetClient, run: Run) -> None:
    """So that nobody is judged by a first start, and the fleet knows what each takes; the most
    popular come last and stay awake."""
    for model in reversed(fleet.models()):
        run.say(f"starting {model.model}")
        if error := fleet.wake(model.model).error:
            raise BenchError(f"{model.model} does not start: {error}")


def _score(
    run: Run,
    labels: Labels,
    objective: Objective,
    load_: Load,
    view: FleetView,
    length_s: float,
) -> None:
    if not load_.outcomes:
        return
    asked_s = min(length_s, load_.ended_s or length_s)
    run.add(*score(load_.outcomes, objective, asked_s, labels))
    late = tuple(round(seconds, 5) for seconds in load_.late_s)
    run.add(Measure(name="sent_late", unit="s", values=late, labels=labels, better="lower"))
    load_.residency.end(load_.ended_s)
    spans = load_.residency.since(0.0)
    devices = {r.replica: max(1, len(r.devices)) for m in view.models for r in m.replicas}
    run.add(*counted(load_.residency, labels), *device_time(spans, devices, labels))
    run.timelines[" ".join(labels.values())] = spans
