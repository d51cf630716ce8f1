"""Typed HTTP client of the node's LMCache server, and of our module inside it.

Every call is bounded in time and raises TierUnavailable, nothing else, when it cannot be done:
the caller goes on without KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import httpx


class TierUnavailable(Exception):
    """The server is down, slow, or refuses; the message says which."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Whole chunks from the front of ``tokens``, of one model under one salt, but for those that
    lie before the token ``begin`` (which ``prefetch`` takes along).

    ``model`` is the path or name that the engine was started with; ``world_size`` the number of
    ranks that hold a part of each token's KV.
    """

    model: str
    salt: str
    tokens: Sequence[int]
    world_size: int = 1
    begin: int = 0


@dataclass(frozen=True, slots=True)
class Recalled:
    """``found`` of ``wanted`` objects (one a chunk and rank) lie in the host tier, counted from
    the front to the first that does not; ``bytes`` of them came from the durable one in
    ``seconds``. What is missing is not there, did not fit, or a request loads it itself."""

    wanted: int
    found: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Exported:
    """Where a prefix's objects (one a chunk and rank) stood when the export ended.

    ``written``: reached the durable tier during this call; ``already``: lay there before;
    ``failed``: in the host tier, not in the durable one; ``absent``: in neither.
    """

    chunks: int
    written: int
    already: int
    failed: int
    absent: int
    bytes: int
    seconds: float

    @property
    def is_complete(self) -> bool:
        return self.failed == 0 and self.absent == 0


@dataclass(frozen=True, slots=True)
class Verified:
    """``sound``: read back from the durable tier and found to be what was stored;
    ``unsound``: there, but refused or unreadable. ``None``: no engine of the model is attached,
    so chunks cannot be read back, only counted."""

    chunks: int
    in_host: int
    in_durable: int
    sound: int | None
    unsound: int | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """``left``: in use, or the durable tier did not delete; call again later."""

    from_host: int
    from_durable: int
    left: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a prefix's objects (one a chunk and rank) lie. Bytes follow from the size of one that
    the host tier holds, or held as it was released; 0 where no size is known."""

    objects: int
    in_host: int
    in_durable: int
    object_bytes: int
    moved_bytes: int = 0
    moved_s: float = 0.0
    """What an order brought into the host tier, and how long that took."""

    @property
    def host_bytes(self) -> int:
        return self.in_host * self.object_bytes

    @property
    def durable_bytes(self) -> int:
        return self.in_durable * self.object_bytes


@dataclass(frozen=True, slots=True)
class Resized:
    """``bytes``: so large the host tier may grow; ``evicted`` chunks are in it no more."""

    bytes: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Looked:
    """What one request's lookup found, by tier, in tokens."""

    wanted_tokens: int
    host_tokens: int
    durable_tokens: int
    destination: str = ""
    """Whose durable tier that is; empty: the fleet's own."""


class LMCacheClient:
    def __init__(self, url: str, *, limit_s: float = 5.0) -> None:
        self._url = url
        self._limit_s = limit_s
        self._http: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Connections end; another call opens them again."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def is_healthy(self, *, limit_s: float | None = None) -> bool:
        answer = await self._ask("GET", "/healthcheck", limit_s=limit_s)
        return bool(answer["status"] == "healthy")

    async def status(self) -> dict[str, Any]:
        """LMCache's own report, as it is."""
        return await self._ask("GET", "/status")

    async def recall(self, prefix: Prefix, *, limit_s: float, attach_s: float = 0.0) -> Recalled:
        """From the durable tier into the host tier, as much as fits; returns by ``limit_s`` with
        what was done, and the server goes on loading what it had begun. Needs an engine of the
        model attached, asleep or awake, and waits for one as long as ``attach_s``."""
        body = _body(prefix, limit_s) | {"attach_s": attach_s}
        return Recalled(**await self._ask("POST", "/torpor/recall", body, limit_s + self._limit_s))

    async def export(self, prefix: Prefix, *, limit_s: float) -> Exported:
        """From the host tier to the durable one; returns by ``limit_s`` with what was done."""
        answer = await self._module("export", prefix, limit_s)
        return Exported(**answer)

    async def settle(self, model: str, *, limit_s: float) -> Exported:
        """Everything of a model that the host tier holds, to the durable one: before its engine
        sleeps. Objects are counted as chunks."""
        body = {"model": model, "limit_s": limit_s}
        answer = await self._ask("POST", "/torpor/settle", body, limit_s + self._limit_s)
        return Exported(**answer)

    async def verify(self, prefix: Prefix, *, limit_s: float) -> Verified:
        return Verified(**await self._module("verify", prefix, limit_s))

    async def delete(self, prefix: Prefix, *, limit_s: float = 30.0) -> Deleted:
        """From both tiers; chunks that other prefixes share go with it."""
        return Deleted(**await self._module("delete", prefix, limit_s))

    async def where(self, prefix: Prefix, *, limit_s: float) -> Placed:
        return Placed(**await self._module("where", prefix, limit_s))

    async def release(self, prefix: Prefix, *, limit_s: float) -> Placed:
        """From the host tier what lies in the durable one too; where it all lies then. What a
        request uses at the moment stays."""
        return Placed(**await self._module("release", prefix, limit_s))

    async def withdraw(self, prefix: Prefix, *, limit_s: float) -> Placed:
        """From the durable tier what lies in the host tier too; where it all lies then."""
        return Placed(**await self._module("withdraw", prefix, limit_s))

    async def resize(self, to_bytes: int, *, limit_s: float) -> Resized:
        """The host tier, as near to that as can be had by ``limit_s``; what it gives up is the
        system's again when this returns."""
        body = {"to_bytes": to_bytes, "limit_s": limit_s}
        return Resized(**await self._ask("POST", "/torpor/resize", body, limit_s + self._limit_s))

    async def looked(self, request: str) -> Looked | None:
        """What the lookup of a request (vLLM's id, or its beginning) found; None: not known."""
        path = f"/torpor/lookups/{quote(request, safe='')}"
        answer = await self._ask("GET", path)
        try:
            looked = answer["looked"]
            return Looked(**looked) if looked is not None else None
        except (KeyError, TypeError) as error:
            raise TierUnavailable(f"GET {path}: a strange answer: {error!r}") from error

    async def _module(self, order: str, prefix: Prefix, limit_s: float) -> dict[str, Any]:
        path = f"/torpor/{order}"
        return await self._ask("POST", path, _body(prefix, limit_s), limit_s + self._limit_s)

    async def _ask(
        self, method: str, path: str, body: object = None, limit_s: float | None = None
    ) -> dict[str, Any]:
        if self._http is None:
            is_tls = self._url.startswith("https:")  # Otherwise no certificates need be read.
            self._http = httpx.AsyncClient(base_url=self._url, trust_env=False, verify=is_tls)
        try:
            answer = await self._http.request(
                method, path, json=body, timeout=limit_s or self._limit_s
            )
        except httpx.HTTPError as error:
            raise TierUnavailable(f"{method} {path}: {type(error).__name__}") from error
        if answer.is_error:
            raise TierUnavailable(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        try:
            return dict(answer.json())
        except (TypeError, ValueError) as error:
            raise TierUnavailable(f"{method} {path}: a strange answer: {error!r}") from error


def _body(prefix: Prefix, limit_s: float) -> dict[str, Any]:
    return asdict(prefix) | {"tokens": list(prefix.tokens), "limit_s": limit_s}
