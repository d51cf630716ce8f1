"""The whole of ``torpor bench pressure``: its parts, one after another, on one fleet."""

from __future__ import annotations

import os
from contextlib import closing

import psutil

from benchmarks.kv.asking import client_of
from benchmarks.pressure.deaths import Deaths
from benchmarks.pressure.freezes import Freezes
from benchmarks.pressure.grounds import Grounds, arranged
from benchmarks.pressure.options import Options, chosen
from benchmarks.running import BenchError, Run
from benchmarks.wake.own_fleet import own_fleet
from controller.client import FleetClient, FleetError
from controller.settings import Settings

_NOTES = {
    "deaths": (
        "noticed: from the kill of an idle engine's process to the time, by the controller's own "
        "clock, at which its story of the model says that the engine failed; killed engine: the "
        "process of its actor; core: the topmost one below it, vLLM's EngineCore.",
        "held_when_killed: resident memory of that process. The kernel takes it back before it "
        "tells of the process's end, but not before it tells of a thread's.",
        "answered_again: from the kill to the end of the next answer, which is asked for when the "
        "death was noticed; the engine starts anew in it. right_after_death: 1 where it is the "
        "answer from before the kill.",
    ),
    "freeze": (
        "switch: both models idle, the awake one for longer than the policy's minimum_awake_s and "
        "than its wake took; from asking the one that sleeps to its first token.",
        "frozen_after: from asking the model that waits to the freeze, by the controller's clock.",
        "first_token: of the model that waits, from asking while the other's long answer is "
        "going; after_maximum: less the maximum that the fleet is configured to wait; "
        "of_maximum_and_switch: divided by that maximum and the median switch to this model; at "
        "most 1 is within them.",
        "same_answer: 1 where the frozen answer is the undisturbed one, to the letter.",
    ),
}


def measure(run: Run, options: Options, settings: Settings) -> None:
    """Raises BenchError; what was measured before it stays in ``run``."""
    names = chosen(settings, options)
    run.note(f"When the run began, the machine's load average was {os.getloadavg()[0]:.1f}.")
    for part in options.parts:
        for note in _NOTES[part]:
            run.note(note)
    run.say("starting a fleet")
    try:
        with (
            own_fleet(settings, lambda told, at: arranged(told, at, options.maximum_s)) as own,
            FleetClient(own.url) as client,
            closing(client_of(own.url)) as http,
        ):
            turn_s = settings.policy.minimum_awake_s
            grounds = Grounds(client, http, psutil.Process(own.process.pid), turn_s)
            parts(run, options, grounds, names)
    except FleetError as error:
        raise BenchError(error.message) from error


def parts(run: Run, options: Options, grounds: Grounds, names: tuple[str, ...]) -> None:
    if "deaths" in options.parts:
        for name in names:
            Deaths(run, grounds, name).measure(options.kills)
    if "freeze" in options.parts:
        Freezes(run, options, grounds, *names[:2]).measure()


def complaint(run: Run) -> str | None:
    """What may not be: another answer than the undisturbed one."""
    for name, when in (("right_after_death", "after a death"), ("same_answer", "frozen")):
        wrong = sum(m.values.count(0.0) for m in run.measures if m.name == name)
        if wrong:
            return f"{wrong} answers were others than undisturbed: {when}"
    return None
