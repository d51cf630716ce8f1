"""What an engine tells of a conversation's turn, as it goes over the wire.

``POST /torpor/turn`` with the turn's request id, at the engine's own server and behind its key.
The controller asks once the answer has ended. That is a route and not a part of the answer: the
answer's bytes are copied unread, a client must not see tokens of its neighbours' making, and what
was stored is known only after the last byte.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

PATH = "/torpor/turn"
_UINT32 = "I"
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class TurnTold:
    """Of a turn's ``tokens``, prompt and answer, so many ``chunks`` from the front lie in the host
    tier, in as many parts as there are ``ranks`` that hold one."""

    chunks: int
    tokens: Sequence[int] = field(repr=False)
    ranks: int = 1

    def packed(self) -> bytes:
        return _HEAD.pack(self.chunks, self.ranks) + array(_UINT32, self.tokens).tobytes()

    @classmethod
    def unpacked(cls, packed: bytes) -> TurnTold:
        """Raises ValueError, struct.error: that is none."""
        chunks, ranks = _HEAD.unpack_from(packed)
        return cls(chunks, array(_UINT32, packed[_HEAD.size :]), ranks)


def digest(tokens: Sequence[int]) -> str:
    """By which a later turn is known to go on where this one ended."""
    return blake2b(array(_UINT32, tokens).tobytes(), digest_size=16).hexdigest()


def agreement(some: Sequence[int], others: Sequence[int]) -> int:
    """So many tokens from the front are the same."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(some), len(others)))
