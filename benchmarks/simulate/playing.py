"""A run of ``torpor simulate``: a stage under each policy, scored and sized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.result import Labels, Measure
from benchmarks.running import Run
from benchmarks.simulate.policies import WHAT, Policy
from benchmarks.simulate.sizing import (
    RATES,
    always_awake,
    dedicated,
    needed,
    one_each,
    rate_met,
)
from benchmarks.simulate.stage import Played, Stage
from benchmarks.workload.residency import counted, device_time
from benchmarks.workload.scenario import Objective
from benchmarks.workload.score import good_share, score
from controller.journal import Journal


def play(
    run: Run,
    stage: Stage,
    objective: Objective,
    policies: Mapping[str, Policy],
    labels: Labels,
    kept: Path | None,
) -> None:
    """``kept``: where the journal goes of the first policy that has one."""
    for name, policy in policies.items():
        run.say(f"{name}: {WHAT[name]}")
        played = policy(stage)
        under = {**labels, "policy": name}
        run.add(*score(played.outcomes, objective, stage.duration_s, under))
        run.add(*counted(played.residency, under))
        lanes = {
            span.lane: spec.devices_per_replica
            for span in played.spans
            for spec in stage.specs
            if span.lane.partition("#")[0] == spec.name
        }
        run.add(*device_time(played.spans, lanes, under))
        run.timelines[" ".join(under.values())] = played.spans
        if kept is not None and played.journal:
            write_journal(played, kept)
            kept = None
    on = "one device" if stage.devices == 1 else f"{stage.devices} devices"
    run.note(
        f"On {on}. Goodput counts requests answered within {_told(objective)}; "
        "streams on one engine do not slow each other down, and no prefix is cached."
    )


def write_journal(played: Played, path: Path) -> None:
    """As a live fleet would have kept it; its wall clock begins in 1970."""
    path.unlink(missing_ok=True)
    book = Journal(path, max_bytes=1 << 40)
    for event, commands in played.journal:
        book.record(event, commands, unix=event.at)
    book.close()


def size(
    run: Run, stage: Stage, objective: Objective, policies: Mapping[str, Policy], labels: Labels
) -> None:
    """Devices that the objective needs, by policy and by dedicating them."""
    most = one_each(stage)
    best = good_share(always_awake(stage), objective)
    run.add(
        Measure(
            name="goodput_share",
            unit="ratio",
            values=(round(best, 5),),
            labels={**labels, "policy": "dedicated"},
            better="higher",
        )
    )
    run.say(f"devices needed for {objective.share:.0%} within {_told(objective)}")
    found: dict[str, int | None] = dict(dedicated(stage, objective))
    if not found:
        run.note("The objective is out of reach even where every model is always awake.")
        return
    found |= {name: needed(stage, policy, objective, most) for name, policy in policies.items()}
    for name, devices in found.items():
        if devices is None:
            run.note(f"{name}: {objective.share:.0%} is not reached with {most} devices either.")
            continue
        run.add(
            Measure(
                name="devices_needed",
                unit="count",
                values=(devices,),
                labels={**labels, "policy": name},
                better="lower",
            )
        )


def find_rates(
    run: Run,
    at_rate: Callable[[float], Stage],
    objective: Objective,
    policies: Mapping[str, Policy],
    labels: Labels,
) -> None:
    """The most requests a second with which the objective is met, by policy."""
    run.say(f"rates at which {objective.share:.0%} are within {_told(objective)}")
    for name, policy in policies.items():
        met = rate_met(at_rate, policy, objective)
        if met is None:
            run.note(
                f"{name}: {objective.share:.0%} is met at no rate from {RATES[0]:g} to "
                f"{RATES[-1]:g} times this one."
            )
            continue
        run.add(
            Measure(
                name="rate_met",
                unit="1/s",
                values=(round(met, 5),),
                labels={**labels, "policy": name},
                better="higher",
            )
        )


def _told(objective: Objective) -> str:
    parts = [
        f"{limit:g} s to the {what}"
        for what, limit in (("first token", objective.ttft_s), ("last token", objective.e2e_s))
        if limit is not None
    ]
    return " and ".join(parts)
