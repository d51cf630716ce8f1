"""What is said in a chat, as the items of a history, and back.

An assistant's message with reasoning or tool calls is several items; on the way back they are one
message again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controller.api.history_items import TEXTS, are_parts, invalid, message_item, text_of
from kv_store.history import Item


def items_of_messages(said: object) -> list[Item]:
    """Raises ApiError 400."""
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise invalid("`messages` must be a list of objects.", "messages")
    return [item for message in said for item in items_of_message(message)]


def items_of_message(message: Mapping[str, Any]) -> list[Item]:
    """Raises ApiError 400."""
    role, content = message.get("role"), message.get("content")
    is_said = content is None or isinstance(content, str) or are_parts(content)
    if not isinstance(role, str) or not is_said:
        raise invalid("A message needs a `role`, and text or parts.", "messages")
    if role == "tool":
        return [_result_of(message)]
    items = list(_reasoned(message)) if role == "assistant" else []
    if message.get("refusal"):
        content = [{"type": "refusal", "refusal": message["refusal"]}]
    if content:
        name = {"name": message["name"]} if message.get("name") else {}
        items.append({**message_item(role, content), **name})
    calls = message.get("tool_calls") or []
    if not are_parts(calls):
        raise invalid("`tool_calls` must be a list of objects.", "messages")
    return items + [_call_of(call) for call in calls]


def _result_of(message: Mapping[str, Any]) -> Item:
    id, output = message.get("tool_call_id"), message.get("content")
    if not isinstance(id, str):
        raise invalid("A tool's message needs a `tool_call_id`.", "messages")
    if not isinstance(output, str):
        output = message_item("tool", output or [])["content"]
    return {"type": "function_call_output", "call_id": id, "output": output}


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
    refusals = [part for part in item["content"] if part.get("type") == "refusal"]
    if refusals:
        return {"content": None, "refusal": "".join(str(p.get("refusal", "")) for p in refusals)}
    return {"content": text_of(item["content"])}


def _content_of(parts: Any) -> Any:
    """One text as a string, as it is mostly said."""
    match parts:
        case [{"type": kind, "text": str(text)}] if kind in TEXTS:
            return text
        case list():
            return [_chat_part(part) for part in parts]
    return parts


def _chat_part(part: Any) -> Any:
    match part:
        case {"type": kind, "text": str(text)} if kind in TEXTS:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": url, **more}:
            detail = {"detail": more["detail"]} if more.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": url, **detail}}
    return part


def _reasoning_text(item: Item) -> str:
    return text_of(item.get("content") or item.get("summary") or ())
