"""What OpenAI's routes of histories take and give: items, pages of them, metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import Query
from fastapi.responses import JSONResponse

from controller.api.errors import ApiError
from controller.api.history_items import identified, invalid, items_of_input
from kv_store.conversations import ConversationKey
from kv_store.history import History, Item

_AT_ONCE = 20
_PAIRS, _NAME_LENGTH, _VALUE_LENGTH = 16, 64, 512
Json = dict[str, Any]


class Kept(JSONResponse):
    """Clients may have said halves of characters, which are no UTF-8."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


After = Annotated[str | None, Query(description="The id of an item: begin behind it.")]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query()]


def fresh_items(said: list[Any], before: Sequence[Item]) -> list[Item]:
    """Raises ApiError 400."""
    if len(said) > _AT_ONCE:
        raise invalid(f"At most {_AT_ONCE} items at a time.", "items")
    return identified(items_of_input(said), (item["id"] for item in before))


def metadata_of(said: Mapping[str, Any] | None) -> dict[str, str]:
    """Raises ApiError 400."""
    pairs = dict(said or {})
    is_fit = len(pairs) <= _PAIRS and all(
        len(name) <= _NAME_LENGTH and isinstance(value, str) and len(value) <= _VALUE_LENGTH
        for name, value in pairs.items()
    )
    if not is_fit:
        raise invalid(
            f"At most {_PAIRS} pairs, of names up to {_NAME_LENGTH} and strings up to "
            f"{_VALUE_LENGTH} characters.",
            "metadata",
        )
    return pairs


def item_of(history: History, id: str) -> Item:
    for item in history.items:
        if item["id"] == id:
            return item
    raise ApiError("item_not_found", f"There is no item {id[:128]!r} in this conversation.")


def page_of(items: Sequence[Item], after: str | None, limit: int, order: str) -> Json:
    """Raises ApiError 404: there is nothing behind an item that is not there."""
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        ids = [item.get("id") for item in ordered]
        if after not in ids:
            raise ApiError("item_not_found", f"There is no item {after[:128]!r}.", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    return list_of(ordered[:limit], has_more=len(ordered) > limit)


def list_of(items: Sequence[Item], *, has_more: bool) -> Json:
    ends = (items[0].get("id"), items[-1].get("id")) if items else (None, None)
    return {
        "object": "list",
        "data": list(items),
        "first_id": ends[0],
        "last_id": ends[1],
        "has_more": has_more,
    }


def conversation_view(key: ConversationKey, history: History) -> Json:
    return {
        "id": key.id,
        "object": "conversation",
        "created_at": int(history.created_s),
        "metadata": dict(history.metadata),
    }
