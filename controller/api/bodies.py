"""What a client sends: read within bounds, parsed once, cleaned of what is not the client's to say.

The engine sees exactly what was parsed here, in a fresh serialisation: of the original bytes it
could make something else (a key that comes twice can be read in two ways).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.types import Receive

from controller.api.errors import ApiError
from controller.core.names import Priority

REMOVED = ("cache_salt", "kv_transfer_params", "ec_transfer_params")
"""Fields by which a client could steer KV (or encoder) caches or reach another tenant's."""


HISTORY_FIELDS = ("store", "previous_response_id")
CONVERSATION_FIELDS = ("conversation", "conversation_id")
_CONVERSATION = re.compile(r"[A-Za-z0-9._:+=@-]{1,128}")


_TIERS = {"priority": Priority.PRIORITY, "flex": Priority.FLEX}
"""OpenAI's ``service_tier``; whatever else it says is the usual one. Engines read it too."""

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()


class ClientGone(Exception):
    """The client left before its request was complete."""


@dataclass(slots=True)
class Call:
    """An inference request: what of it matters here, and the bytes for the engine."""

    model: str
    is_stream: bool
    body: bytes
    conversation: str = ""
    """As its body names it: ``conversation_id``, or OpenAI's ``conversation``; empty: it does
    not."""
    priority: Priority = Priority.DEFAULT
    said: dict[str, Any] | None = field(default=None, repr=False)
    """All of it, where it may ask something of a history."""


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int, within_s: float
) -> bytes:
    """The whole body. Raises ApiError 413 or 408, and ClientGone."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large(max_bytes)
    try:
        async with asyncio.timeout(within_s):
            return await _read(receive, max_bytes)
    except TimeoutError:
        raise ApiError("body_too_slow", f"The body did not arrive in {within_s:g} s.") from None


async def _read(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while (message := await receive())["type"] != "http.disconnect":
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise too_large(max_bytes)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise ClientGone


def too_large(max_bytes: int) -> ApiError:
    return ApiError("body_too_large", f"The body is larger than {max_bytes} bytes.")


def parse_json(raw: bytes, *, is_named: bool = False) -> Call:
    """``is_named``: a header names its conversation. Raises ApiError 400: not a JSON object, or
    no ``model`` that is a string."""
    try:
        parsed = _decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError("invalid_json", f"The body is not valid JSON: {reason}") from None
    if not isinstance(parsed, dict):
        raise ApiError("invalid_json", "The body must be a JSON object.")
    model = model_name(parsed.get("model"))
    conversation = _conversation(parsed)
    _clean(parsed)
    body = _encoder.encode(parsed)
    tier = _TIERS.get(str(parsed.get("service_tier")), Priority.DEFAULT)
    is_named = is_named or conversation is not None
    said = parsed if is_named or any(name in parsed for name in HISTORY_FIELDS) else None
    return Call(model, parsed.get("stream") is True, body, conversation or "", tier, said)


def _conversation(parsed: dict[str, Any]) -> str | None:
    """Taken out: it is not the engine's. Raises ApiError 400."""
    named = None
    for name in CONVERSATION_FIELDS:
        found = parsed.pop(name, None)
        if isinstance(found, dict):
            found = found.get("id")
        if found is None:
            continue
        if not isinstance(found, str) or not _CONVERSATION.fullmatch(found):
            raise invalid_conversation(name)
        named = found
    return named


def conversation_id(headers: Mapping[bytes, bytes], call: Call) -> str:
    """Which conversation a request belongs to: the header's word, or the body's; empty: none.
    Raises ApiError 400."""
    raw = headers.get(b"x-conversation-id", b"").decode("latin-1")
    if raw and not _CONVERSATION.fullmatch(raw):
        raise invalid_conversation("x-conversation-id")
    if raw and call.conversation not in ("", raw):
        raise ApiError(
            "invalid_conversation",
            "Header and body name two conversations.",
            param="x-conversation-id",
        )
    return raw or call.conversation


def is_conversation_id(text: str) -> bool:
    return _CONVERSATION.fullmatch(text) is not None


def invalid_conversation(param: str) -> ApiError:
    return ApiError(
        "invalid_conversation",
        f"`{param}` must be 1 to 128 of the characters A-Z a-z 0-9 . _ : + = @ -",
        param=param,
    )


def salted(body: bytes, salt: str, request_id: str = "") -> bytes:
    """The body of a parsed call, which has neither salt nor id, with one, or with both."""
    said = {"cache_salt": salt, "request_id": request_id} if request_id else {"cache_salt": salt}
    return b"%b,%b" % (_encoder.encode(said)[:-1], body[1:])


def _clean(parsed: dict[str, Any]) -> None:
    """Remove what is not the client's to say. vLLM merges it with ``vllm_xargs``, so it is removed
    there as well. Ids are given by the gateway."""
    parsed.pop("request_id", None)
    for holder in (parsed, parsed.get("vllm_xargs")):
        if isinstance(holder, dict):
            for name in REMOVED:
                holder.pop(name, None)


def model_name(model: object) -> str:
    """Raises ApiError 400 for what cannot name a model."""
    if not isinstance(model, str) or not model:
        raise ApiError("invalid_model", "`model` must be a non-empty string.", param="model")
    return model
