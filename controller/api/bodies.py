"""What a client sends: read within bounds, parsed once, cleaned of what is not the client's to say.

The engine sees exactly what was parsed here: the original bytes where nothing was removed and
nothing is ambiguous, a fresh serialisation otherwise (a key that comes twice could be read in
two ways).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.types import Receive

from controller.api.errors import ApiError

REMOVED = ("cache_salt", "kv_transfer_params", "ec_transfer_params")
"""Fields by which a client could steer KV (or encoder) caches or reach another tenant's."""


class ClientGone(Exception):
    """The client left before its request was complete."""


@dataclass(frozen=True, slots=True)
class Call:
    """An inference request: what of it matters here, and the bytes for the engine."""

    model: str
    is_stream: bool
    body: bytes


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


def parse_json(raw: bytes) -> Call:
    """Raises ApiError 400: not a JSON object, or no ``model`` that is a string."""
    try:
        parsed, has_duplicates = _parser.parse(raw.decode())
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError("invalid_json", f"The body is not valid JSON: {reason}") from None
    if not isinstance(parsed, dict):
        raise ApiError("invalid_json", "The body must be a JSON object.")
    model = model_name(parsed.get("model"))
    if _clean(parsed) or has_duplicates:
        raw = json.dumps(parsed, separators=(",", ":")).encode()
    return Call(model, parsed.get("stream") is True, raw)


def salted(body: bytes, salt: str) -> bytes:
    """The body of a parsed call, which has no salt, with one."""
    return b'{"cache_salt":"%b",%b' % (salt.encode(), body[body.index(b"{") + 1 :])


class _Parser:
    """Strict, and notices keys that come twice in an object."""

    def __init__(self) -> None:
        self._has_duplicates = False
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._built, parse_constant=_no_such_constant
        )

    def parse(self, text: str) -> tuple[Any, bool]:
        """Raises ValueError and RecursionError."""
        self._has_duplicates = False
        return self._decoder.decode(text), self._has_duplicates

    def _built(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            self._has_duplicates = True
        return built


def _no_such_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_parser = _Parser()


def _clean(parsed: dict[str, Any]) -> bool:
    """Remove what is not the client's to say; whether there was any. vLLM merges
    them with ``vllm_xargs``, so they are removed there as well."""
    found = False
    for holder in (parsed, parsed.get("vllm_xargs")):
        if isinstance(holder, dict):
            for name in REMOVED:
                if name in holder:
                    del holder[name]
                    found = True
    return found


def model_name(model: object) -> str:
    """Raises ApiError 400 for what cannot name a model."""
    if not isinstance(model, str) or not model:
        raise ApiError("invalid_model", "`model` must be a non-empty string.", param="model")
    return model
