"""What the fake engine says in the shapes of OpenAI's Responses API, as far as vLLM has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from workers.fake_answers import Answer, sse


def response(said: Answer, body: dict[str, Any]) -> dict[str, Any]:
    return _response(said, str(body.get("request_id") or f"resp_{uuid4().hex}"), [_message(said)])


def response_chunks(said: Answer, body: dict[str, Any]) -> Iterator[bytes]:
    whole = response(said, body)
    item = whole["output"][0]
    begun = _response(said, whole["id"], []) | {"status": "in_progress", "usage": None}
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield _event("response.created", 0, response=begun)
    for number, token in enumerate(said.tokens, 1):
        yield _event("response.output_text.delta", number, delta=token, logprobs=[], **place)
    yield _event("response.completed", len(said.tokens) + 1, response=whole)


def _message(said: Answer) -> dict[str, Any]:
    part = {"type": "output_text", "text": said.text, "annotations": []}
    id = f"msg_{uuid4().hex}"
    shape = {"type": "message", "role": "assistant", "status": "completed"}
    return {"id": id, "content": [part], **shape}


def _response(said: Answer, id: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    usage = said.usage
    return {
        "id": id,
        "object": "response",
        "created_at": 0,
        "model": said.model,
        "status": "completed",
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    }


def _event(kind: str, number: int, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + sse({"type": kind, "sequence_number": number} | fields)
