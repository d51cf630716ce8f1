"""What orders take, in seconds: guessed first, then learned from what was measured.

The figure is the median of the last few measurements, so that one slow start (a cold page
cache, a neighbour compiling) does not turn requests away for the rest of the day. How long an
order may take before its engine is taken to hang follows from the slowest of them. What was
measured before a controller started is told it (``CostsFound``), and gives way to what it measures
itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from controller.core.lifecycle import Action
from controller.core.names import CostGuess, Depth, ModelName, OrderTimes

REMEMBERED = 5

Key = tuple[ModelName, Action, Depth]
"""A model's action; SLEEP by where to, WAKE by where from."""


@dataclass(frozen=True, slots=True)
class Took:
    """What one of a model's actions took, the last few times."""

    action: Action
    depth: Depth
    seconds: tuple[float, ...]
    """Oldest first."""


class CostTable:
    def __init__(self, guess: CostGuess, times: OrderTimes) -> None:
        self.guess = guess
        self.measured: dict[Key, deque[float]] = {}
        self._times = times
        self._unmeasured: dict[Action, tuple[float, float]] = {
            Action.START: (guess.start_s, times.start_s),
            Action.EXPORT: (guess.export_s, times.export_s),
            Action.SLEEP: (guess.sleep_s, times.sleep_s),
            Action.WAKE: (guess.wake_level_2_s, times.wake_s),
            Action.STOP: (guess.stop_s, times.stop_s),
        }
        """What each is guessed to take, and how long it may at the most."""
        self._quicker_wakes = {
            Depth.KV_RELEASED: guess.wake_kv_released_s,
            Depth.LEVEL_1: guess.wake_level_1_s,
        }

    def learn(self, model: ModelName, action: Action, depth: Depth, seconds: float) -> None:
        key = (model, action, depth)
        self.measured.setdefault(key, deque(maxlen=REMEMBERED)).append(seconds)

    def remember(self, model: ModelName, took: Took) -> None:
        """From before this run; nothing where it has been measured since."""
        key = (model, took.action, took.depth)
        self.measured.setdefault(key, deque(took.seconds, maxlen=REMEMBERED))

    def of(self, model: ModelName) -> tuple[Took, ...]:
        """All that was measured of it."""
        return tuple(
            Took(action, depth, tuple(seconds))
            for (name, action, depth), seconds in self.measured.items()
            if name == model
        )

    def forget(self, model: ModelName) -> None:
        for key in [key for key in self.measured if key[0] == model]:
            del self.measured[key]

    def seconds(self, model: ModelName, action: Action, depth: Depth = Depth.STOPPED) -> float:
        if known := self.measured.get((model, action, depth)):
            return sorted(known)[len(known) // 2]
        guessed_s, _ = self._unmeasured[action]
        return self._quicker_wakes.get(depth, guessed_s) if action is Action.WAKE else guessed_s

    def patience_s(self, model: ModelName, action: Action, depth: Depth) -> float:
        """How long such an order may go without an answer."""
        _, most_s = self._unmeasured[action]
        known = self.measured.get((model, action, depth))
        if action is Action.STOP or not known:
            return most_s
        times = self._times
        least_s = times.least_start_s if action is Action.START else times.least_s
        return min(most_s, max(least_s, times.factor * max(known)))

    def raising(self, model: ModelName, depth: Depth) -> float:
        """From resting at ``depth`` to awake."""
        if depth is Depth.STOPPED:
            return self.seconds(model, Action.START)
        return self.seconds(model, Action.WAKE, depth) if depth is not Depth.AWAKE else 0.0

    def lowering(self, model: ModelName, depth: Depth) -> float:
        """From awake to resting at ``depth``."""
        if depth is Depth.STOPPED:
            return self.seconds(model, Action.STOP)
        return self.seconds(model, Action.SLEEP, depth)
