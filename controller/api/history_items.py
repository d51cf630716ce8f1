"""What is said, as the items of a history, from a request's input and to an engine's.

A history has one form, the items of OpenAI's Responses API, whichever route something was said on
(``history_chat``). Parts that only one route knows (audio, video) are kept as they were said.

``mark`` is what makes two items the same thing said: ids, states and the route do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from secrets import token_hex
from typing import Any, TypeGuard

from controller.api.errors import ApiError
from kv_store.history import Item

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TEXTS = ("text", "input_text", "output_text")
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}
_ANSWERS = ("function_call", "custom_tool_call", "reasoning")
_HEAD_ROLES = ("system", "developer")


def invalid(message: str, param: str | None = None) -> ApiError:
    return ApiError("invalid_history", message, param=param)


def is_head(item: Item) -> bool:
    return item.get("type") == "message" and item.get("role") in _HEAD_ROLES


def is_reasoning(item: Item) -> bool:
    return item.get("type") == "reasoning"


def is_answer(item: Item) -> bool:
    """A model said it."""
    return item.get("role") == "assistant" or item.get("type") in _ANSWERS


def mark(item: Item) -> bytes:
    match item:
        case {"type": "message", "role": role, "content": list(parts)}:
            said: Any = [role, [_part_said(part) for part in parts]]
        case {"type": "function_call"}:
            said = ["call", item.get("call_id"), item.get("name"), item.get("arguments")]
        case {"type": "function_call_output", "output": output}:
            parts = output if isinstance(output, list) else [{"type": "text", "text": output}]
            said = ["output", item.get("call_id"), [_part_said(part) for part in parts]]
        case _:
            said = {name: item[name] for name in item if name not in ("id", "status")}
    return sha256(json.dumps(said, sort_keys=True).encode()).digest()


def _part_said(part: Any) -> Any:
    match part:
        case {"type": kind, "text": text} if kind in TEXTS:
            return ["text", text]
        case {"type": "input_image", "image_url": url}:
            return ["image", url]
    return part


def identified(items: Iterable[Item], taken: Iterable[object]) -> list[Item]:
    """With an id each that can stand in a path and is not taken; with a status."""
    ids = set(taken)
    found = []
    for item in items:
        id = item.get("id")
        if not isinstance(id, str) or not _ID.fullmatch(id) or id in ids:
            prefix = "rs" if is_reasoning(item) else _PREFIXES.get(item["type"], "item")
            id = f"{prefix}_{token_hex(16)}"
        ids.add(id)
        status = {} if is_reasoning(item) else {"status": item.get("status") or "completed"}
        found.append({**item, "id": id, **status})
    return found


def items_of_input(said: object) -> list[Item]:
    """Of ``input``, or of ``items`` of a conversation. Raises ApiError 400."""
    if isinstance(said, str):
        return [message_item("user", said)]
    if not isinstance(said, list):
        raise invalid("A string or a list of items is needed.", "input")
    return [_item_of_input(item) for item in said]


def _item_of_input(item: object) -> Item:
    if not isinstance(item, dict):
        raise invalid("An item must be an object.", "input")
    kind = item.get("type")
    if kind in (None, "message"):
        role, content = item.get("role"), item.get("content")
        if not isinstance(role, str) or not (isinstance(content, str) or are_parts(content)):
            raise invalid("A message needs a `role` and a `content`.", "input")
        return {**item, **message_item(role, content)}
    if not isinstance(kind, str) or kind == "item_reference":
        raise invalid("An item of that type cannot be kept.", "input")
    _check_shape(kind, item)
    return dict(item)


def _check_shape(kind: str, item: Item) -> None:
    """Of what is said in another form on the other route. Raises ApiError 400."""
    if kind == "function_call":
        named = ("call_id", "name", "arguments")
        is_whole = all(isinstance(item.get(name), str) for name in named)
    elif kind == "function_call_output":
        has_output = isinstance(item.get("output"), str | list)
        is_whole = has_output and isinstance(item.get("call_id"), str)
    elif kind == "reasoning":
        is_whole = all(are_parts(item.get(name) or []) for name in ("content", "summary"))
    else:
        return
    if not is_whole:
        raise invalid(f"An item of type {kind!r} is not whole.", "input")


def are_parts(said: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(said, list) and all(isinstance(part, dict) for part in said)


def input_of_items(items: Sequence[Item]) -> list[Item]:
    """As an engine takes it. Of an assistant's message vLLM reads the first part only."""
    return [_input_of(item) for item in items]


def _input_of(item: Item) -> Item:
    if item["type"] == "message" and item["role"] == "assistant":
        part = {"type": "output_text", "text": text_of(item["content"]), "annotations": []}
        return {**item, "content": [part]}
    if item["type"] in ("message", "function_call_output"):
        return {name: item[name] for name in item if name not in ("id", "status")}
    return item


def message_item(role: str, content: str | list[Any]) -> Item:
    """Of text, or of parts as either route has them."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "type": "message",
        "role": role,
        "content": [_part_of(part, role == "assistant") for part in parts],
    }


def _part_of(part: Any, is_output: bool) -> Any:
    match part:
        case {"type": kind, "text": str(text)} if kind in TEXTS:
            if not is_output:
                return {"type": "input_text", "text": text}
            return {"annotations": [], **part, "type": "output_text"}
        case {"type": "image_url", "image_url": {"url": url, **more}}:
            return {"type": "input_image", "image_url": url, "detail": more.get("detail", "auto")}
    return part


def text_of(parts: Iterable[Mapping[str, Any]]) -> str:
    return "".join(str(part.get("text", "")) for part in parts)
