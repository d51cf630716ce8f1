"""What a run of chaos comes to: measures, and in sentences what may not be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from benchmarks.chaos.asking import Fate
from benchmarks.chaos.seen import Seen
from benchmarks.chaos.witness import Memory, Witness
from benchmarks.result import Measure, thinned
from benchmarks.running import Run

_GROWTH_SHARE = 0.2
_GROWTH_BYTES = 64 << 20
_BAD = (Fate.WRONG, Fate.FAILED, Fate.LOST)


def measures(seen: Seen, witness: Witness | None) -> Iterator[Measure]:
    tally = seen.tally
    for fate in Fate:
        count = (float(tally.fates[fate]),)
        yield Measure(
            name="requests",
            unit="count",
            values=count,
            labels={"fate": fate.value},
            better="higher" if fate is Fate.RIGHT else "lower",
        )
    yield _count("asked_again_and_right", tally.asked_again)
    for code, times in sorted(tally.codes.items()):
        yield _count("retryable_error", times, code=code)
    if tally.seconds:
        values = tuple(round(seconds, 4) for seconds in tally.seconds)
        yield Measure(name="right_answer", unit="s", values=thinned(values), better="lower")
    yield from _recoveries(seen)
    yield from _memory("before", seen.before)
    yield from _memory("after", seen.after)
    if seen.controller_bytes:
        yield Measure(
            name="memory",
            unit="bytes",
            values=tuple(seen.controller_bytes),
            labels={"of": "controller", "when": "during"},
        )
    if witness is not None:
        for what, left in _leavings(witness).items():
            yield _count("left", len(left), what=what)


def complaints(seen: Seen, witness: Witness | None) -> list[str]:
    """Empty: everything was as it must be."""
    tally = seen.tally
    said = [f"{tally.fates[fate]} requests {fate.value}" for fate in _BAD if tally.fates[fate]]
    said += tally.bad
    said += [
        f"no recovery: {over.fault.kind.name} {over.fault.model}"
        for over in seen.record.over
        if over.seconds is None
    ]
    if seen.before is not None and seen.after is not None:
        said += _grown("the controller", seen.before.controller_bytes, seen.after.controller_bytes)
        said += _grown("the fleet", seen.before.node_bytes, seen.after.node_bytes)
    if witness is not None:
        for what, left in _leavings(witness).items():
            said += [f"left behind: {what} {one}" for one in left]
    return said


def tell(run: Run, seen: Seen, witness: Witness | None) -> list[str]:
    """Into the run; what may not be is returned, and among its notes."""
    run.add(*measures(seen, witness))
    if seen.left_out:
        run.note(f"{seen.left_out} questions had no steady answer in peace and were left out.")
    wrong = complaints(seen, witness)
    for sentence in wrong:
        run.note(sentence)
    return wrong


def _recoveries(seen: Seen) -> Iterator[Measure]:
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for over in seen.record.over:
        if over.seconds is not None:
            by_kind[over.fault.kind.name].append(round(over.seconds, 3))
    for kind, seconds in sorted(by_kind.items()):
        yield Measure(
            name="recovery", unit="s", values=tuple(seconds), labels={"after": kind}, better="lower"
        )


def _memory(when: str, found: Memory | None) -> Iterator[Measure]:
    if found is not None:
        for of, held in (("controller", found.controller_bytes), ("fleet", found.node_bytes)):
            labels = {"of": of, "when": when}
            yield Measure(name="memory", unit="bytes", values=(float(held),), labels=labels)


def _grown(whose: str, before: int, after: int) -> list[str]:
    if after - before <= max(_GROWTH_BYTES, _GROWTH_SHARE * before):
        return []
    return [f"the memory of {whose} grew from {before >> 20} to {after >> 20} MiB"]


def _leavings(witness: Witness) -> dict[str, list[str]]:
    return {
        "process": witness.processes,
        "shared memory": witness.segments,
        "file": witness.files,
    }


def _count(name: str, count: int, **labels: str) -> Measure:
    return Measure(name=name, unit="count", values=(float(count),), labels=labels, better="lower")
