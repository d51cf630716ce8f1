"""What ``torpor simulate`` was asked for, as a stage with its objective and its notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.simulate import journal_replay, recorded
from benchmarks.simulate.set_stage import named_by_rank, of_settings, on_own_hardware, table
from benchmarks.simulate.stage import Stage, works_of
from benchmarks.workload import scenario as scenarios
from benchmarks.workload.arrivals import arrivals
from benchmarks.workload.scenario import Objective, Replay, Scenario, faster

Limits = tuple[float | None, float | None, float | None]
"""TTFT, E2E and share, where the command line names them."""
_OF_A_JOURNAL = Objective(ttft_s=10.0)
_USUAL_TABLE = "a100"


@dataclass(frozen=True, slots=True)
class Staged:
    name: str
    stage: Stage
    objective: Objective
    settings: dict[str, Any]
    notes: tuple[str, ...]
    at_rate: Callable[[float], Stage] | None = None
    """The stage with so many times its arrivals; None: they are a list."""


def stage_for(
    scenario: str | None,
    journal: Path | None,
    config: Path | None,
    costs: str | None,
    seed: int,
    limits: Limits,
) -> Staged:
    """Raises ResultError, BenchError, ConfigError."""
    if journal is not None:
        return _of_journal(journal, config, costs, seed, limits)
    assert scenario is not None
    return _of_scenario(scenario, config, costs or _USUAL_TABLE, seed, limits)


def _of_scenario(name: str, config: Path | None, costs: str, seed: int, limits: Limits) -> Staged:
    asked, known = scenarios.read(name), table(costs)
    notes = [_costs_note(costs, known.source)]
    if config is None:

        def staged(asked: Scenario) -> Stage:
            return on_own_hardware(asked, known, seed)
    else:
        from controller.settings import load

        bare, prices = of_settings(load(config), known)
        named = named_by_rank([model.name for model in asked.models], list(prices))
        notes += [f"{one} is played by {other}." for one, other in named.items() if one != other]

        def staged(asked: Scenario) -> Stage:
            works = works_of(arrivals(asked, seed), prices, asked.max_wait_s, named)
            return replace(bare, works=works, duration_s=asked.duration_s, seed=seed)

    def at_rate(factor: float) -> Stage:
        return staged(asked.model_copy(update={"arrivals": faster(asked.arrivals, factor)}))

    stage = staged(asked)
    settings = {
        "scenario": asked.model_dump(mode="json"),
        "costs": costs,
        "config": config and str(config),
        "devices": stage.devices,
    }
    objective = _limited(asked.objective, limits)
    has_rate = not isinstance(asked.arrivals, Replay)
    return Staged(
        asked.name, stage, objective, settings, tuple(notes), at_rate if has_rate else None
    )


def _of_journal(
    journal: Path, config: Path | None, costs: str | None, seed: int, limits: Limits
) -> Staged:
    past = recorded.read(journal)
    known = table(costs) if costs else None
    configured = None
    if config is not None:
        from controller.settings import load

        configured, _ = of_settings(load(config), known or table(_USUAL_TABLE))
    stage = journal_replay.stage_of(past, known, seed, configured)
    notes = (
        _costs_note(costs, known.source) if costs and known else "Orders take what they took.",
        "A journal knows no tokens: TTFT is the wait alone."
        + ("" if config else " It knows no policy either: the default one is played."),
    )
    settings = {"journal": str(journal), "config": config and str(config), "costs": costs}
    return Staged(journal.stem, stage, _limited(_OF_A_JOURNAL, limits), settings, notes)


def _limited(objective: Objective, limits: Limits) -> Objective:
    ttft_s, e2e_s, share = limits
    if ttft_s is not None or e2e_s is not None:
        objective = Objective(ttft_s=ttft_s, e2e_s=e2e_s, share=objective.share)
    return objective.model_copy(update={"share": share}) if share is not None else objective


def _costs_note(name: str, source: str) -> str:
    return f"Costs ({name}): {source}"
