"""The allow-list: which inference routes there are, and what of a request's head is read or passed.

Nothing but these routes ever reaches an engine, so vLLM's administrative routes cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.api.errors import ApiError, Dialect
from kv_store.keys import Isolation

_LONGEST_WAIT_S = 86_400.0
_HEADERS_PASSED = (
    b"content-type",
    b"accept",
    b"traceparent",
    b"tracestate",
    b"anthropic-version",
    b"anthropic-beta",
)
"""Of the client's headers; its keys are not among them."""


@dataclass(frozen=True, slots=True)
class Route:
    """An inference route: its path at the engine, and how it is spoken."""

    upstream: str
    summary: str
    is_form: bool = False
    streams: bool = False
    is_salted: bool = False
    """Its answers depend on KV, and the engine takes a salt."""
    takes_id: bool = False
    """The engine takes a request's id from the body, as a response's; elsewhere from the head."""
    dialect: Dialect = Dialect.OPENAI


ROUTES: dict[str, Route] = {
    "/v1/chat/completions": Route(
        "/v1/chat/completions", "The next message", streams=True, is_salted=True
    ),
    "/v1/completions": Route("/v1/completions", "Text that goes on", streams=True, is_salted=True),
    "/v1/responses": Route(
        "/v1/responses",
        "A response (OpenAI's newer form)",
        streams=True,
        is_salted=True,
        takes_id=True,
    ),
    "/v1/messages": Route(
        "/v1/messages",
        "The next message (Anthropic)",
        streams=True,
        is_salted=True,
        dialect=Dialect.ANTHROPIC,
    ),
    "/v1/messages/count_tokens": Route(
        "/v1/messages/count_tokens", "Tokens of messages (Anthropic)", dialect=Dialect.ANTHROPIC
    ),
    "/v1/embeddings": Route("/v1/embeddings", "Vectors of texts"),
    "/v1/rerank": Route("/v1/rerank", "Documents in order of relevance"),
    "/v1/score": Route("/v1/score", "Scores of pairs of texts"),
    "/v1/classify": Route("/classify", "Classes of texts"),
    "/pooling": Route("/pooling", "What a pooling model gives"),
    "/tokenize": Route("/tokenize", "Text or messages to tokens"),
    "/detokenize": Route("/detokenize", "Tokens to text"),
    "/v1/audio/transcriptions": Route(
        "/v1/audio/transcriptions", "Speech to text", is_form=True, streams=True
    ),
    "/v1/audio/translations": Route(
        "/v1/audio/translations", "Speech to English text", is_form=True, streams=True
    ),
}
"""vLLM 0.32 has classification at ``/classify`` only."""


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    max_body_bytes: int = 32 << 20
    body_s: float = 60.0
    """Longest time for a body to arrive."""
    heartbeat_s: float = 1.0
    """A stream that waits longer is told how it stands, at this interval."""
    retries: int = 3
    """Fresh engines tried after the first one broke with nothing forwarded."""
    retry_backoff_s: float = 0.05
    """Before the first retry; doubled each time."""
    kv_isolation: Isolation = Isolation.TENANT
    """Who may find whose KV."""
    kv_destinations: Mapping[str, str] = field(default_factory=dict)
    """Of tenants whose KV does not go to the fleet's own durable tier."""
    kv_lossy: str = ""
    """How KV loses precision in the durable tier; empty: it does not."""
    prefix_secret: bytes = b""
    """What keys of prompts' beginnings are made with: one for all processes of a run."""
    client_stall_s: float = 300.0
    """A client that takes nothing of its answer for so long is cut off."""


def passed_headers(headers: Mapping[bytes, bytes], request_id: str) -> bytes:
    """What an engine is told of the client's headers, as it goes over the wire."""
    lines = [b"X-Request-Id: %b\r\n" % request_id.encode()]
    lines += [b"%b: %b\r\n" % (name, headers[name]) for name in _HEADERS_PASSED if name in headers]
    return b"".join(lines)


def can_freeze(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the response may be suspended for others' sake. Raises ApiError 400."""
    raw = headers.get(b"x-torpor-freeze")
    if raw not in (None, b"never"):
        raise ApiError(
            "invalid_header", "`x-torpor-freeze` can only be `never`.", param="x-torpor-freeze"
        )
    return raw is None


def max_wait_s(headers: Mapping[bytes, bytes]) -> float | None:
    """The request's own limit to its wait. Raises ApiError 400."""
    raw = headers.get(b"x-torpor-max-wait-s")
    if raw is None:
        return None
    try:
        seconds = float(raw)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_WAIT_S:
        raise ApiError(
            "invalid_header",
            f"`x-torpor-max-wait-s` must be seconds from 0 to {_LONGEST_WAIT_S:.0f}.",
            param="x-torpor-max-wait-s",
        )
    return seconds
