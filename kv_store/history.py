"""What is kept of what was said in a conversation: plain values, without the store.

An item is one thing that was said, in the form of OpenAI's Responses API (a message, a call of a
tool, its result, reasoning), and has an ``id``. Content never stands in a ``repr``: what is logged
or raised must not tell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Item = dict[str, Any]

KEY_BYTES = 32
KEYS_VARIABLE = "TORPOR_HISTORY_KEYS"
"""Where the environment may hold the keys that it is sealed with: that of a controller, never
that of an engine."""


class HistoryUnreadable(Exception):
    """It was sealed with a key that is not there, was altered, or a part of it is missing."""


@dataclass(frozen=True, slots=True)
class History:
    """Of one conversation, oldest item first."""

    created_s: float
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    items: tuple[Item, ...] = field(default=(), repr=False)
    numbers: tuple[int, ...] = field(default=(), repr=False)
    """The items' places, which never change and never come again."""
    next_number: int = 0
    sealed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """One answer of the Responses API, and what it answered."""

    id: str
    conversation: str
    """The id of the conversation that it is part of."""
    is_chained: bool
    """It is found by its predecessors, ``ancestors``; otherwise by its conversation's history."""
    ancestors: tuple[str, ...] = ()
    """Responses that went before, the first one first."""
    first_number: int = 0
    """Of its conversation's history, where it is found by that: what came before is its context."""
    input: tuple[Item, ...] = field(default=(), repr=False)
    """What this one's request added."""
    answer: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """As its client got it."""
    sealed_bytes: int = 0
