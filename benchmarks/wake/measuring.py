"""The measurements of one model, in repeats that touch every side, so that a drift of the machine
meets all alike.

A repeat: stock vLLM from nothing to its first token (``--against``); a cold start of the fleet's
engine by the same request; two rounds down to every level and up again, each wake by request and
followed by the same question undisturbed; the stop. The *first* sleep is this engine's first to
that level. Every model was started once before its first repeat: that start is ``as_found``, the
repeats find the page cache warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.result import Measure
from benchmarks.running import Run
from benchmarks.wake.asking import Dialect, Heard
from benchmarks.wake.options import Options
from benchmarks.wake.reports import EngineReport, whole
from benchmarks.wake.subject import Raised, Rested, Subject

StartStock = Callable[[Dialect], Heard]
"""From nothing to the first token of an answer."""
Better = Literal["lower", "higher"]


@dataclass(slots=True)
class Bench:
    run: Run
    subject: Subject
    options: Options
    stock: Mapping[str, StartStock] = field(default_factory=dict)
    """What else starts the model from cold, by side."""
    memories: tuple[str, ...] = ("device", "host")
    """``device`` alone where the two are one."""

    def measure(self, model: str) -> None:
        self.run.say(f"{model}: first start, caches as they are")
        if (as_found_s := self.subject.prepare(model)) is not None:
            self.seconds("start_as_found", as_found_s, model=model)
        self.seconds("stop", self.subject.stop(model), model=model)
        for number in range(self.options.repeats):
            self.run.say(f"{model}: repeat {number + 1} of {self.options.repeats}")
            self._repeat(model)

    def _repeat(self, model: str) -> None:
        for side, start in self.stock.items():
            self.run.say(f"  {side}: cold start")
            heard = start(self.subject.dialect(model))
            self._first_token(heard, model, "cold", side)
        self.run.say("  torpor: cold start, sleeps and wakes")
        self._cold_start(model)
        self._undisturbed(model)
        self._prefill(model)
        for time in ("first", "later"):
            for level in self.options.levels:
                self._down_and_up(model, level, time)
        self.seconds("stop", self.subject.stop(model), model=model)

    def _cold_start(self, model: str) -> None:
        started = self.subject.ask_stopped(model)
        heard, report = started.heard, started.report
        self._first_token(heard, model, "cold", "torpor")
        self.seconds("start", heard.wake_s, model=model)
        phases = whole(report.phases_s, heard.wake_s, "process")
        phases["first_token"] = heard.first_s - heard.wake_s
        self._phases("cold_start_phase", phases, model=model)
        self._held(report, model, "awake")

    def _down_and_up(self, model: str, level: str, time: str) -> None:
        before = self.subject.held(model)
        rested = self.subject.sleep(model, level)
        self.seconds("sleep", rested.seconds, model=model, level=level, time=time)
        self._freed(before, rested, model, level)
        self._held(rested.report, model, level)
        self._woken(self.subject.ask_asleep(model), model, level)
        self._undisturbed(model)

    def _woken(self, raised: Raised, model: str, level: str) -> None:
        heard = raised.heard
        self.seconds("wake", heard.wake_s, model=model, level=level)
        phases = whole(raised.report.phases_s, heard.wake_s, "orders")
        self._phases("wake_phase", phases, model=model, level=level)
        self._first_token(heard, model, level, "torpor")

    def _undisturbed(self, model: str) -> None:
        heard = self.subject.ask(model)
        self._first_token(heard, model, "awake", "torpor")
        if heard.tokens_per_s:
            self.add("decode", "1/s", heard.tokens_per_s, {"model": model}, "higher")

    def _prefill(self, model: str) -> None:
        heard = self.subject.ask_at_length(model)
        if heard and heard.prompt_tokens:
            speed = heard.prompt_tokens / heard.first_s
            self.add("prefill", "1/s", speed, {"model": model}, "higher")

    def _first_token(self, heard: Heard, model: str, after: str, side: str) -> None:
        self.seconds("first_token", heard.first_s, model=model, after=after, side=side)

    def _phases(self, name: str, phases_s: Mapping[str, float], **labels: str) -> None:
        for phase, seconds in phases_s.items():
            self.seconds(name, seconds, **labels, phase=phase)

    def _held(self, report: EngineReport, model: str, at: str) -> None:
        held = {"device": report.device_bytes, "host": report.host_bytes}
        for memory in self.memories:
            self.size("held", held[memory], model=model, at=at, memory=memory)

    def _freed(self, before: tuple[int, int], rested: Rested, model: str, level: str) -> None:
        device, host = before
        report = rested.report
        freed = {"device": device - report.device_bytes, "host": host - report.host_bytes}
        for memory in self.memories:
            self.size("freed", freed[memory], model=model, level=level, memory=memory)
        for kind, size in report.freed.items():
            if kind == "remained":
                self.size("not_freed", size, model=model, level=level)
            else:
                self.size("freed_by_kind", size, model=model, level=level, kind=kind)

    def seconds(self, name: str, value: float, **labels: str) -> None:
        self.add(name, "s", value, labels, "lower")

    def size(self, name: str, value: float, **labels: str) -> None:
        self.add(name, "bytes", value, labels, None)

    def add(
        self, name: str, unit: str, value: float, labels: dict[str, str], better: Better | None
    ) -> None:
        self.run.add(Measure(name=name, unit=unit, values=(value,), labels=labels, better=better))
