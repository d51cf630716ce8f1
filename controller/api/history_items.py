"""What is said, as the items of a history: from and to chat messages, and to an engine's input.

A history has one form, the items of OpenAI's Responses API, whichever route something was said
on. An assistant's message with tool calls is several items; on the way back they are one message
again. Parts that only one route knows (audio, video) are kept as they were said.

``mark`` is what makes two items the same thing said: ids, states and the route do not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from secrets import token_hex
from typing import Any

from controller.api.errors import ApiError
from kv_store.history import Item

_TEXTS = ("text", "input_text", "output_text")
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
        case {"type": kind, "text": text} if kind in _TEXTS:
            return ["text", text]
        case {"type": "input_image", "image_url": url}:
            return ["image", url]
    return part


def identified(items: Iterable[Item], taken: Iterable[object]) -> list[Item]:
    """With an id each that is not taken; messages with a status."""
    ids = set(taken)
    found = []
    for item in items:
        id = item.get("id")
        if not isinstance(id, str) or not id or id in ids:
            prefix = "rs" if is_reasoning(item) else _PREFIXES.get(item["type"], "item")
            id = f"{prefix}_{token_hex(16)}"
        ids.add(id)
        status = {} if is_reasoning(item) else {"status": item.get("status") or "completed"}
        found.append({**item, "id": id, **status})
    return found


# Responses


def items_of_input(said: object) -> list[Item]:
    """Of ``input``, or of ``items`` of a conversation. Raises ApiError 400."""
    if isinstance(said, str):
        return [_message("user", said)]
    if not isinstance(said, list):
        raise invalid("A string or a list of items is needed.", "input")
    return [_item_of_input(item) for item in said]


def _item_of_input(item: object) -> Item:
    if not isinstance(item, dict):
        raise invalid("An item must be an object.", "input")
    kind = item.get("type")
    if kind in (None, "message"):
        role, content = item.get("role"), item.get("content")
        if not isinstance(role, str) or not isinstance(content, str | list):
            raise invalid("A message needs a `role` and a `content`.", "input")
        return {**item, **_message(role, content)}
    if not isinstance(kind, str) or kind == "item_reference":
        raise invalid(f"An item of type {kind!r} cannot be kept.", "input")
    return dict(item)


def input_of_items(items: Sequence[Item]) -> list[Item]:
    """As an engine takes it. Of an assistant's message vLLM reads the first part only."""
    return [_input_of(item) for item in items]


def _input_of(item: Item) -> Item:
    if item["type"] == "message" and item["role"] == "assistant":
        text = "".join(str(part.get("text", "")) for part in _parts(item))
        part = {"type": "output_text", "text": text, "annotations": []}
        return {**item, "content": [part]}
    if item["type"] in ("message", "function_call_output"):
        return {name: item[name] for name in item if name not in ("id", "status")}
    return item


def _message(role: str, content: str | list[Any]) -> Item:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "type": "message",
        "role": role,
        "content": [_part_of(part, role == "assistant") for part in parts],
    }


def _part_of(part: Any, is_output: bool) -> Any:
    match part:
        case {"type": kind, "text": str(text)} if kind in _TEXTS:
            if not is_output:
                return {"type": "input_text", "text": text}
            return {"annotations": [], **part, "type": "output_text"}
        case {"type": "image_url", "image_url": {"url": url, **more}}:
            return {"type": "input_image", "image_url": url, "detail": more.get("detail", "auto")}
    return part


def _parts(item: Item) -> list[Mapping[str, Any]]:
    return [part for part in item["content"] if isinstance(part, dict)]


# chat


def items_of_messages(said: object) -> list[Item]:
    """Raises ApiError 400."""
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise invalid("`messages` must be a list of objects.", "messages")
    return [item for message in said for item in items_of_message(message)]


def items_of_message(message: Mapping[str, Any]) -> list[Item]:
    """Raises ApiError 400."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str | list | None):
        raise invalid("A message needs a `role`, and text or parts.", "messages")
    if role == "tool":
        output = content if isinstance(content, str) else _message("tool", content or [])["content"]
        call_id = message.get("tool_call_id")
        return [{"type": "function_call_output", "call_id": call_id, "output": output}]
    items = list(_reasoned(message)) if role == "assistant" else []
    if message.get("refusal"):
        content = [{"type": "refusal", "refusal": message["refusal"]}]
    if content:
        name = {"name": message["name"]} if message.get("name") else {}
        items.append({**_message(role, content), **name})
    items += [_call_of(call) for call in message.get("tool_calls") or ()]
    return items


def _reasoned(message: Mapping[str, Any]) -> Iterable[Item]:
    if text := message.get("reasoning") or message.get("reasoning_content"):
        part = {"type": "reasoning_text", "text": text}
        yield {"type": "reasoning", "summary": [], "content": [part]}


def _call_of(call: Any) -> Item:
    match call:
        case {"id": str(id), "function": {"name": str(name), "arguments": str(arguments)}}:
            return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}
    raise invalid("A tool call needs an `id` and a `function`.", "messages")


def messages_of_items(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Raises ApiError 400 for what cannot be said there."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case {"type": "message", "role": "assistant"}:
                _answering(messages, "content").update(_assistant_said(item))
            case {"type": "message", "role": role, "content": content}:
                name = {"name": item["name"]} if "name" in item else {}
                messages.append({"role": role, "content": _content_of(content), **name})
            case {"type": "reasoning"}:
                _answering(messages, "reasoning")["reasoning"] = _reasoning_text(item)
            case {"type": "function_call", "call_id": id}:
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": id, "type": "function", "function": function}
                _answering(messages).setdefault("tool_calls", []).append(call)
            case {"type": "function_call_output", "call_id": id, "output": output}:
                said = output if isinstance(output, str) else _content_of(output)
                messages.append({"role": "tool", "tool_call_id": id, "content": said})
            case _:
                raise invalid(f"An item of type {item['type']!r} cannot be said in a chat.")
    return messages


def _answering(messages: list[dict[str, Any]], unless: str = "") -> dict[str, Any]:
    """The assistant's message that an item is part of: the last one, unless it has said that
    already, or has called tools."""
    last = messages[-1] if messages else {}
    is_open = last.get("role") == "assistant" and unless not in last
    if not is_open or (unless and "tool_calls" in last):
        messages.append({"role": "assistant"})
    return messages[-1]


def _assistant_said(item: Item) -> dict[str, Any]:
    refusals = [part["refusal"] for part in _parts(item) if part.get("type") == "refusal"]
    if refusals:
        return {"content": None, "refusal": "".join(refusals)}
    return {"content": "".join(str(part.get("text", "")) for part in _parts(item))}


def _content_of(parts: Any) -> Any:
    """One text as a string, as it is mostly said."""
    match parts:
        case [{"type": kind, "text": str(text)}] if kind in _TEXTS:
            return text
        case list():
            return [_chat_part(part) for part in parts]
    return parts


def _chat_part(part: Any) -> Any:
    match part:
        case {"type": kind, "text": str(text)} if kind in _TEXTS:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": url, **more}:
            detail = {"detail": more["detail"]} if more.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": url, **detail}}
    return part


def _reasoning_text(item: Item) -> str:
    parts = item.get("content") or item.get("summary") or ()
    return "".join(str(part.get("text", "")) for part in parts)
