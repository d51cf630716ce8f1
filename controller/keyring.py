"""API keys as they are stored: hashed, named, with a tenant and roles.

A key is 256 random bits, so a plain SHA-256 is enough: there is nothing to guess by dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_urlsafe

ROLES = ("inference", "admin")


@dataclass(frozen=True, slots=True)
class ApiKey:
    name: str
    tenant: str
    roles: frozenset[str]
    """Of ``inference`` and ``admin``."""
    sha256: str
    """Of the key as sent, in hexadecimal."""


def new_key(name: str, tenant: str, roles: Iterable[str]) -> tuple[str, ApiKey]:
    """A fresh key, to be shown once, and the entry that recognises it."""
    key = f"torpor-{token_urlsafe(32)}"
    return key, ApiKey(name, tenant, frozenset(roles), sha256(key.encode()).hexdigest())
