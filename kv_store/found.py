"""What an engine says of a prompt's KV, as it stands in the response header ``x-torpor-kv``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOLD = re.compile(rb"hit=(\d+) of (\d+) tier=(\w+)(?: why=(\w+))?")


class Why:
    """Reasons to compute KV that may lie in a tier."""

    AWAY = "away"
    """The tier's server did not answer."""
    SLOW = "slow"
    """The durable tier took longer than a request waits for it."""
    FAILED = "failed"
    """It was found, and could not be loaded."""
    NEAR = "near"
    """Computing was measured to be sooner: the durable tier was not asked."""


@dataclass(frozen=True, slots=True)
class PromptFound:
    """Of a prompt's tokens, ``hit`` were not computed; ``tier``: the deepest that had a part in
    it. ``why`` (of ``Why``) the others were; empty: they lie in no tier."""

    hit: int
    tokens: int
    tier: str
    why: str = ""

    @property
    def computed(self) -> int:
        return max(0, self.tokens - self.hit)

    def told(self) -> bytes:
        why = f" why={self.why}" if self.why else ""
        return f"hit={self.hit} of {self.tokens} tier={self.tier}{why}".encode()

    @classmethod
    def parse(cls, told: bytes) -> PromptFound | None:
        """None: that is none."""
        match = _TOLD.fullmatch(told)
        if match is None:
            return None
        return cls(int(match[1]), int(match[2]), match[3].decode(), (match[4] or b"").decode())
