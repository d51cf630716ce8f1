"""What orders take, in seconds: guessed first, then learned from what was measured.

The figure is the median of the last few measurements, so that one slow start (a cold page
cache, a neighbour compiling) does not turn requests away for the rest of the day. How long an
order may take before its engine is taken to hang follows from the slowest of them.
"""

from __future__ import annotations

from collections import deque

from controller.core.lifecycle import Action
from controller.core.names import CostGuess, Depth, ModelName, OrderTimes

REMEMBERED = 5

Key = tuple[ModelName, Action, Depth]
"""A model's action; SLEEP by where to, WAKE by where from."""


class CostTable:
    def __init__(self, guess: CostGuess) -> None:
        self.guess = guess
        self.measured: dict[Key, deque[float]] = {}

    def learn(self, model: ModelName, action: Action, depth: Depth, seconds: float) -> None:
        key = (model, action, depth)
        self.measured.setdefault(key, deque(maxlen=REMEMBERED)).append(seconds)

    def forget(self, model: ModelName) -> None:
        for key in [key for key in self.measured if key[0] == model]:
            del self.measured[key]

    def seconds(self, model: ModelName, action: Action, depth: Depth = Depth.STOPPED) -> float:
        if known := self.measured.get((model, action, depth)):
            return sorted(known)[len(known) // 2]
        return self._guessed(action, depth)

    def patience_s(
        self, times: OrderTimes, model: ModelName, action: Action, depth: Depth
    ) -> float:
        """How long such an order may go without an answer."""
        most_s = _longest(times, action)
        known = self.measured.get((model, action, depth))
        if action is Action.STOP or not known:
            return most_s
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

    def _guessed(self, action: Action, depth: Depth) -> float:
        guess = self.guess
        match action:
            case Action.START:
                return guess.start_s
            case Action.EXPORT:
                return guess.export_s
            case Action.SLEEP:
                return guess.sleep_s
            case Action.STOP:
                return guess.stop_s
            case Action.WAKE:
                return {
                    Depth.KV_RELEASED: guess.wake_kv_released_s,
                    Depth.LEVEL_1: guess.wake_level_1_s,
                }.get(depth, guess.wake_level_2_s)


def _longest(times: OrderTimes, action: Action) -> float:
    match action:
        case Action.START:
            return times.start_s
        case Action.EXPORT:
            return times.export_s
        case Action.SLEEP:
            return times.sleep_s
        case Action.WAKE:
            return times.wake_s
        case Action.STOP:
            return times.stop_s
