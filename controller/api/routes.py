"""The allow-list: which inference routes there are, and what of a request's head is read or passed.

Nothing but these routes ever reaches an engine, so vLLM's administrative routes cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from controller.api.errors import ApiError, Dialect

_LONGEST_WAIT_S = 86_400.0
_HEADERS_PASSED = {
    b"content-type": "Content-Type",
    b"accept": "Accept",
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
    b"anthropic-version": "anthropic-version",
    b"anthropic-beta": "anthropic-beta",
}
"""Of the client's headers; its keys are not among them."""


@dataclass(frozen=True, slots=True)
class Route:
    """An inference route: its path at the engine, and how it is spoken."""

    upstream: str
    is_form: bool = False
    streams: bool = False
    dialect: Dialect = Dialect.OPENAI


ROUTES: dict[str, Route] = {
    "/v1/chat/completions": Route("/v1/chat/completions", streams=True),
    "/v1/completions": Route("/v1/completions", streams=True),
    "/v1/responses": Route("/v1/responses", streams=True),
    "/v1/messages": Route("/v1/messages", streams=True, dialect=Dialect.ANTHROPIC),
    "/v1/messages/count_tokens": Route("/v1/messages/count_tokens", dialect=Dialect.ANTHROPIC),
    "/v1/embeddings": Route("/v1/embeddings"),
    "/v1/rerank": Route("/v1/rerank"),
    "/v1/score": Route("/v1/score"),
    "/v1/classify": Route("/classify"),
    "/pooling": Route("/pooling"),
    "/tokenize": Route("/tokenize"),
    "/detokenize": Route("/detokenize"),
    "/v1/audio/transcriptions": Route("/v1/audio/transcriptions", is_form=True, streams=True),
    "/v1/audio/translations": Route("/v1/audio/translations", is_form=True, streams=True),
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
    client_stall_s: float = 300.0
    """A client that takes nothing of its answer for so long is cut off."""


def passed_headers(headers: Mapping[bytes, bytes], request_id: str) -> dict[str, str]:
    """What an engine is told of the client's headers."""
    passed = {"X-Request-Id": request_id}
    for name, raw in headers.items():
        if (shown := _HEADERS_PASSED.get(name)) is not None:
            passed[shown] = raw.decode("latin-1")
    return passed


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
