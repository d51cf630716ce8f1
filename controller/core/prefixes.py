"""What the prefix cache of one engine is likely to hold: the keys of what it served last.

The engine's own cache is not asked. It evicts what was not used for longest, and so does this;
sleep empties both. Being wrong costs a request that could have gone elsewhere as well.
"""

from __future__ import annotations

MOST_KEYS = 4096


class Prefixes:
    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[int, None] = {}
        """The one used longest ago first."""

    def served(self, prefix: tuple[int, ...]) -> None:
        keys = self._keys
        for key in prefix:
            keys.pop(key, None)
            keys[key] = None
        while len(keys) > MOST_KEYS:
            del keys[next(iter(keys))]

    def matched(self, prefix: tuple[int, ...]) -> float:
        """Which share of the beginnings, from the shortest on, it has served."""
        for count, key in enumerate(prefix):
            if key not in self._keys:
                return count / len(prefix)
        return 1.0 if prefix else 0.0

    def clear(self) -> None:
        self._keys.clear()
