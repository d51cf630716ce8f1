"""What the fake engine says: a deterministic function of model and prompt, in OpenAI's shapes."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

EMBEDDING_DIMENSIONS = 8
DEFAULT_TOKENS = 16
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished text, by token, and how to address it."""

    id: str
    model: str
    tokens: tuple[str, ...]
    prompt_tokens: int

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def usage(self) -> dict[str, int]:
        said = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": said,
            "total_tokens": self.prompt_tokens + said,
        }


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def words_of(prompt: Any) -> list[str]:
    """The words of a prompt in any of the API's shapes: text, token ids, messages, parts."""
    match prompt:
        case str():
            return prompt.split()
        case {"content": content}:
            return words_of(content)
        case {"text": text}:
            return words_of(text)
        case list() | tuple():
            return [word for part in prompt for word in words_of(part)]
        case None | dict():
            return []
    return [str(prompt)]


def prompt_of(body: dict[str, Any]) -> Any:
    return next((body[name] for name in ("messages", "prompt", "input") if name in body), None)


def answer(model: str, body: dict[str, Any]) -> Answer:
    """A hash of model and prompt, then the prompt's words over and over: one word a token."""
    prompt = prompt_of(body)
    heard = words_of(prompt)
    mark = digest(model, json.dumps(prompt, sort_keys=True))[:8]
    wanted = next((body[name] for name in _LIMITS if body.get(name)), DEFAULT_TOKENS)
    said = [mark, *(heard or ["nothing"])]
    tokens = tuple(("" if i == 0 else " ") + said[i % len(said)] for i in range(int(wanted)))
    return Answer(f"fake-{mark}", model, tokens, len(heard))


def embedding(model: str, text: Any, encoding: str) -> str | list[float]:
    raw = bytes.fromhex(digest(model, json.dumps(text)))
    values = [byte / 255 for byte in raw[:EMBEDDING_DIMENSIONS]]
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return values


def embeddings(model: str, body: dict[str, Any]) -> dict[str, Any]:
    texts = body.get("input")
    if not isinstance(texts, list):
        texts = [texts]
    encoding = str(body.get("encoding_format", "float"))
    rows = [
        {"object": "embedding", "index": i, "embedding": embedding(model, text, encoding)}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(words_of(texts)), "total_tokens": len(words_of(texts))}
    return {"object": "list", "model": model, "data": rows, "usage": usage}


def tokenized(body: dict[str, Any], max_model_len: int) -> dict[str, Any]:
    heard = words_of(body.get("messages", body.get("prompt")))
    ids = [int(digest(word)[:6], 16) for word in heard]
    return {"tokens": ids, "count": len(ids), "max_model_len": max_model_len}


def chat(said: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.text}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
    return _envelope(said, "chat.completion", [choice]) | {"usage": said.usage}


def completion(said: Answer) -> dict[str, Any]:
    choice = {"index": 0, "text": said.text, "finish_reason": "length", "logprobs": None}
    return _envelope(said, "text_completion", [choice]) | {"usage": said.usage}


def message(said: Answer) -> dict[str, Any]:
    """Anthropic's Messages API."""
    return _message(said, [{"type": "text", "text": said.text}], len(said.tokens))


def chat_chunks(said: Answer, with_usage: bool) -> Iterator[bytes]:
    for i, token in enumerate(said.tokens):
        delta = {"content": token} if i else {"role": "assistant", "content": token}
        finish = "length" if i + 1 == len(said.tokens) else None
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        yield sse(_envelope(said, "chat.completion.chunk", [choice]))
    yield from _ending(said, "chat.completion.chunk", with_usage)


def completion_chunks(said: Answer, with_usage: bool) -> Iterator[bytes]:
    for i, token in enumerate(said.tokens):
        finish = "length" if i + 1 == len(said.tokens) else None
        choice = {"index": 0, "text": token, "finish_reason": finish, "logprobs": None}
        yield sse(_envelope(said, "text_completion", [choice]))
    yield from _ending(said, "text_completion", with_usage)


def message_chunks(said: Answer) -> Iterator[bytes]:
    yield _event("message_start", message=_message(said, [], 0))
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for token in said.tokens:
        delta = {"type": "text_delta", "text": token}
        yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    stop = {"stop_reason": "max_tokens", "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage={"output_tokens": len(said.tokens)})
    yield _event("message_stop")


def sse(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def _ending(said: Answer, kind: str, with_usage: bool) -> Iterator[bytes]:
    if with_usage:
        yield sse(_envelope(said, kind, []) | {"usage": said.usage})
    yield b"data: [DONE]\n\n"


def _envelope(said: Answer, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": said.id, "object": kind, "created": 0, "model": said.model, "choices": choices}


def _message(said: Answer, content: list[dict[str, Any]], output_tokens: int) -> dict[str, Any]:
    return {
        "id": said.id,
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": content,
        "stop_reason": "max_tokens" if content else None,
        "stop_sequence": None,
        "usage": {"input_tokens": said.prompt_tokens, "output_tokens": output_tokens},
    }


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + sse({"type": kind} | fields)
