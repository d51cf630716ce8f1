"""Sleep and wake, over and over: do times or memory drift?

Memory is what the engine holds awake and asleep by the fleet's own measure and, where the fleet
runs on this machine as a child of the benchmark, the resident set of the controller's and of the
engine's processes. One token is asked after each wake.
"""

from __future__ import annotations

import psutil

from benchmarks.result import Measure
from benchmarks.wake.drift import LEAST, Drift, drift
from benchmarks.wake.measuring import Bench
from workers.processes import MARK

_TOLD_EVERY = 10
_CONTROLLER = "controller.process"


def measure(bench: Bench, model: str, supervisor: int | None) -> None:
    """``supervisor``: the process of the fleet, if it is ours. Leaves the model stopped."""
    bench.run.say(f"{model}: start")
    bench.subject.prepare(model)
    for level in bench.options.levels:
        before = len(bench.run.measures)
        processes = _processes(supervisor, model) if supervisor else {}
        for number in range(bench.options.cycles):
            if number % max(1, bench.options.cycles // _TOLD_EVERY) == 0:
                bench.run.say(f"{model}, {level}: cycle {number + 1} of {bench.options.cycles}")
            _cycle(bench, model, level, processes)
        for series in bench.run.measures[before:]:
            _tell_drift(bench, series)
    bench.subject.stop(model)


def _cycle(bench: Bench, model: str, level: str, processes: dict[str, psutil.Process]) -> None:
    labels = {"model": model, "level": level}
    rested = bench.subject.sleep(model, level)
    raised = bench.subject.ask_asleep(model, tokens=1)
    bench.seconds("cycle_time", rested.seconds, of="sleep", **labels)
    bench.seconds("cycle_time", raised.heard.wake_s, of="wake", **labels)
    bench.seconds("cycle_time", raised.heard.first_s, of="first_token", **labels)
    for of, report in (("asleep", rested.report), ("awake", raised.report)):
        held = report.device_bytes + report.host_bytes
        bench.size("cycle_memory", held, of=of, **labels)
    for of, process in processes.items():
        bench.size("cycle_memory", process.memory_info().rss, of=of, **labels)


def _tell_drift(bench: Bench, series: Measure) -> None:
    found = drift(series.values)
    if found is None:
        bench.run.note(f"Of fewer than {LEAST} cycles no drift is told.")
        return
    for part, value in _parts(found):
        name = series.name.replace("cycle", "drift")
        bench.add(name, series.unit, value, {**series.labels, "part": part}, None)


def _parts(found: Drift) -> tuple[tuple[str, float], ...]:
    return (
        ("first tenth", found.first_tenth),
        ("last tenth", found.last_tenth),
        ("slope per cycle", found.slope),
    )


def _processes(supervisor: int, model: str) -> dict[str, psutil.Process]:
    """The controller and the engine's first process, by name."""
    found = {}
    for process in psutil.Process(supervisor).children(recursive=True):
        try:
            if _CONTROLLER in process.cmdline():
                found["controller process"] = process
            elif f"/{model}#" in process.environ().get(MARK, ""):
                found.setdefault("engine process", process)
        except psutil.Error:
            continue
    return found
