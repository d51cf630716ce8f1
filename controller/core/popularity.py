"""How often each model was wanted of late.

Each time that a replica is taken from idleness counts one, and half as much with each half-life
since. All figures fade alike, so that none has to be touched as time passes: they are told in
units of what counted one at ``_epoch``, and compare with each other, not with other days.
"""

from __future__ import annotations

from controller.core.names import LONG_AGO, Instant, ModelName

MOST_HALF_LIVES = 500.0
"""After so many the unit is chosen anew, before figures grow past what a float holds."""


class Popularity:
    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._epoch = LONG_AGO
        self._wants: dict[ModelName, float] = {}

    def count(self, model: ModelName, now: Instant) -> bool:
        """Whether all figures are told in another unit from here on."""
        age = (now - self._epoch) / self._half_life_s
        is_another_unit = age > MOST_HALF_LIVES
        if is_another_unit:
            self._wants = {name: wants * 2.0**-age for name, wants in self._wants.items()}
            self._epoch, age = now, 0.0
        self._wants[model] = self._wants.get(model, 0.0) + 2.0**age
        return is_another_unit

    def of(self, model: ModelName) -> float:
        """0: never, or too long ago to tell."""
        return self._wants.get(model, 0.0)

    def forget(self, model: ModelName) -> None:
        self._wants.pop(model, None)
