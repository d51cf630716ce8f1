"""Who may ask: bearer keys with roles, or, with no keys, whoever sits at this machine.

Keys are kept as plain SHA-256 (``controller.keyring``). A slow, salted hash defends what people
choose, because people choose from few; these keys are 256 random bits, so there is no list to try
and no two alike, and a slow hash would only tax every request.

``/fleet`` needs the role ``admin``, ``/v1`` and the other inference routes ``inference``.
``/fleet/conversations`` takes either, and shows a key without ``admin`` its own tenant's alone.
``/metrics`` takes any key: its figures are by model and never by tenant, and a scraper should not
have to hold a key that can stop models.

Without keys the server is reachable from loopback only (``server_settings`` sees to that), but a
browser on the same machine is on loopback too. A page from elsewhere must not reach the fleet
through it: the Host header must name loopback (against DNS rebinding), and what changes anything
must not come from a page of another origin (against cross-site requests).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from controller.api.errors import ApiError
from controller.keyring import ApiKey
from controller.loopback import is_loopback

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

OPEN = frozenset({"/healthz", "/readyz", "/health", "/version", "/docs", "/openapi.json"})
"""Answered without a key: what probes and readers of the documentation ask."""


CONVERSATIONS = "/fleet/conversations"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, once that is known."""

    name: str
    tenant: str
    roles: frozenset[str]


_AT_THIS_MACHINE = Caller("loopback", "", frozenset({"inference", "admin"}))
_ANYBODY = Caller("", "", frozenset())


def is_administrative(path: str) -> bool:
    return path == "/fleet" or path.startswith("/fleet/")


class Guard:
    """Decides who a request comes from and whether it may do what it asks for."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._callers = [
            (bytes.fromhex(key.sha256), Caller(key.name, key.tenant, key.roles)) for key in keys
        ]

    def admit(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Caller:
        """Raises ApiError: 401 for no or an unknown key, 403 for the wrong role or origin."""
        if not self._callers:
            _require_loopback_host(headers)
            if method not in _READING:
                _require_same_origin(headers)
            return _AT_THIS_MACHINE
        if path in OPEN:
            return _ANYBODY
        caller = self._known(headers)
        role = _role_for(path)
        if role is not None and role not in caller.roles:
            raise ApiError(
                "permission_denied", f"The key {caller.name!r} has not the role {role!r}."
            )
        return caller

    def _known(self, headers: Mapping[bytes, bytes]) -> Caller:
        digest = sha256(_secret(headers)).digest()
        found = None
        for kept, caller in self._callers:
            if hmac.compare_digest(kept, digest):
                found = caller
        if found is None:
            raise ApiError("invalid_api_key", "No valid API key: send `Authorization: Bearer …`.")
        return found


def _role_for(path: str) -> str | None:
    """None: any key will do."""
    if path == CONVERSATIONS or path.startswith(f"{CONVERSATIONS}/"):
        return None
    if is_administrative(path):
        return "admin"
    return None if path == "/metrics" else "inference"


def _secret(headers: Mapping[bytes, bytes]) -> bytes:
    """The bearer token, or what Anthropic's client sends in its place."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token:
        return token.strip()
    return headers.get(b"x-api-key", b"")


def _require_loopback_host(headers: Mapping[bytes, bytes]) -> None:
    if not is_loopback(_hostname(headers.get(b"host", b"").decode("latin-1"))):
        raise ApiError(
            "forbidden_origin",
            "Without API keys only requests to localhost are answered; configure keys.",
        )


def _require_same_origin(headers: Mapping[bytes, bytes]) -> None:
    origin, host = headers.get(b"origin"), headers.get(b"host", b"")
    is_foreign = origin is not None and origin.partition(b"://")[2] != host
    if is_foreign or headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        raise ApiError("forbidden_origin", "Without API keys no other site's page may ask this.")


def _hostname(host: str) -> str:
    """Without the port; empty for what no honest client sends."""
    if set(host) & set("/?#@\\"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
