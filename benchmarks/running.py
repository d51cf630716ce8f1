"""A benchmark while it runs: what it has measured so far, what it tells, and how it ends.

``measuring`` runs a benchmark, which hands in measures as they come. Whether it ends, is
interrupted or fails on the way, the result holds what was measured, and says whether it is all.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from benchmarks.result import Measure, Result, Span, read_machine, read_versions

Say = Callable[[str], None]

_progress = Console(stderr=True, highlight=False)


class BenchError(Exception):
    """The benchmark cannot run as asked; the message is for the user."""


def parts_of(written: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Of ``--parts``, in the order in which they are measured. Raises BenchError."""
    if written is None:
        return known
    words = {word.strip() for word in written.split(",") if word.strip()}
    if unknown := sorted(words - set(known)):
        raise BenchError(f"{unknown[0]!r} is no part: {', '.join(known)}")
    if not words:
        raise BenchError("--parts names none")
    return tuple(part for part in known if part in words)


def to_terminal(line: str) -> None:
    _progress.print(line, style="dim", markup=False, soft_wrap=True)


@dataclass(slots=True)
class Run:
    """What one run has measured. ``say`` tells its progress."""

    kind: str
    settings: dict[str, Any]
    seed: int | None = None
    say: Say = to_terminal
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timelines: dict[str, tuple[Span, ...]] = field(default_factory=dict)
    is_complete: bool = False
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.monotonic)

    def add(self, *measures: Measure) -> None:
        """A measure of the same name and labels as an earlier one prolongs that one."""
        for measure in measures:
            for index, known in enumerate(self.measures):
                if known.key == measure.key:
                    longer = known.values + measure.values
                    self.measures[index] = known.model_copy(update={"values": longer})
                    break
            else:
                self.measures.append(measure)

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def result(self) -> Result:
        return Result(
            kind=self.kind,
            command=shlex.join(["torpor", *sys.argv[1:]]),
            began=self._began,
            took_s=round(time.monotonic() - self._clock, 3),
            is_complete=self.is_complete,
            seed=self.seed,
            machine=read_machine(),
            versions=read_versions(),
            settings=self.settings,
            notes=tuple(self.notes),
            measures=tuple(self.measures),
            timelines=self.timelines,
        )


def measuring(run: Run, benchmark: Callable[[Run], None]) -> Result:
    """The result, of as much as was measured. Raises BenchError if that is nothing."""
    failure: BaseException | None = None
    try:
        benchmark(run)
        run.is_complete = True
    except (KeyboardInterrupt, Exception) as error:
        failure = error
        run.note(
            "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {_told(error)}"
        )
    if not run.measures:
        if failure is not None:
            raise failure
        raise BenchError("there was nothing to measure")
    if failure is not None:
        run.say(f"stopped early ({run.notes[-1]}): what was measured until then is kept")
    return run.result()


def _told(error: BaseException) -> str:
    """What went wrong at once is told one by one; a mistake of ours with its kind."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_told(one) for one in error.exceptions)
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
