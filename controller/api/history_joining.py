"""What was kept and what is said in a request → what the engine is told, and what is kept of it.

A request says the next turn alone, or everything once more. It says everything if what is kept is
a prefix of it, by the marks of what was said; then only what follows is the turn. Reasoning does
not count, since clients do not send it back. A request that says what a model would have said, but
does not begin with what is kept, has another history: which one is meant cannot be known, and
neither is silently made up.

System messages at the beginning are the head. That of the first request is kept; that of a later
one stands in its place for that request, as ``instructions`` do in the Responses API. So a client
whose system message tells the time is still recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from controller.api.errors import ApiError
from controller.api.history_items import invalid, is_answer, is_head, is_reasoning, mark
from kv_store.history import Item


@dataclass(frozen=True, slots=True)
class Joined:
    whole: list[Item] = field(repr=False)
    """For the engine."""
    fresh: list[Item] = field(repr=False)
    """To be kept."""


def join(kept: Sequence[Item], said: Sequence[Item], *, has_instructions: bool = False) -> Joined:
    """``has_instructions``: the request has a head beside its items. Raises ApiError 400, 409."""
    head_kept, body_kept = _parted(kept)
    head_said, body_said = _parted(said)
    turn = _turn(body_kept, body_said)
    if not turn and (not body_kept or is_answer(body_kept[-1])):
        raise invalid("Nothing is said that was not said before.")
    head = head_said or ([] if has_instructions else head_kept)
    fresh = turn if kept else [*head_said, *turn]
    return Joined([*head, *body_kept, *turn], fresh)


def _parted(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    head = list(takewhile(is_head, items))
    return head, list(items[len(head) :])


def _turn(kept: Sequence[Item], said: Sequence[Item]) -> list[Item]:
    """What is said beyond what is kept."""
    before = [mark(item) for item in kept if not is_reasoning(item)]
    marks = [mark(item) for item in said if not is_reasoning(item)]
    if before and marks[: len(before)] == before:
        return _after(said, len(before))
    if before and any(is_answer(item) for item in said):
        raise ApiError(
            "history_differs",
            "The request says a history that is not the one kept. Send the next turn alone, the "
            "whole history as it is kept, or delete the conversation.",
        )
    return list(said)


def _after(said: Sequence[Item], count: int) -> list[Item]:
    """Of what is said, all after so many items that count."""
    for place, item in enumerate(said):
        if not count:
            return list(said[place:])
        count -= not is_reasoning(item)
    return []
