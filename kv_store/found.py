"""What an engine says of a prompt's KV, as it stands in the response header ``x-torpor-kv``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOLD = re.compile(rb"hit=(\d+) of (\d+) tier=(\w+)")


@dataclass(frozen=True, slots=True)
class PromptFound:
    """Of a prompt's tokens, ``hit`` were not computed; ``tier``: the deepest that had a part in
    it."""

    hit: int
    tokens: int
    tier: str

    @property
    def computed(self) -> int:
        return max(0, self.tokens - self.hit)

    def told(self) -> bytes:
        return f"hit={self.hit} of {self.tokens} tier={self.tier}".encode()

    @classmethod
    def parse(cls, told: bytes) -> PromptFound | None:
        """None: that is none."""
        match = _TOLD.fullmatch(told)
        return cls(int(match[1]), int(match[2]), match[3].decode()) if match else None
