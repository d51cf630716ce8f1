"""Seals what is kept of conversations: AES-256-GCM, bound to the place where it stands.

A sealed text is a version, the id of its key, a nonce and what GCM makes. The first key seals,
every key opens: a new one is put in front, and an old one may go when nothing is left that it
sealed. Bound to its place (tenant, conversation, number), a text that somebody with access to the
store moves or copies elsewhere does not open there.

Nonces are random, so one key should seal no more than 2^32 texts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kv_store.history import HistoryUnreadable

_VERSION = b"\x01"
_ID_BYTES, _NONCE_BYTES = 8, 12
_HEAD_BYTES = len(_VERSION) + _ID_BYTES + _NONCE_BYTES


class Seal:
    def __init__(self, keys: Sequence[bytes]) -> None:
        """At least one, each of KEY_BYTES."""
        self._ciphers = {_id(key): AESGCM(key) for key in keys}
        self._id = _id(keys[0])

    def seal(self, text: bytes, place: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._id].encrypt(nonce, text, place.encode())
        return _VERSION + self._id + nonce + sealed

    def open(self, sealed: bytes, place: str) -> bytes:
        """Raises HistoryUnreadable."""
        head, rest = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES:]
        cipher = self._ciphers.get(head[len(_VERSION) : -_NONCE_BYTES])
        if head[:1] != _VERSION or cipher is None:
            raise HistoryUnreadable("sealed with a key that is not configured")
        try:
            return cipher.decrypt(head[-_NONCE_BYTES:], rest, place.encode())
        except InvalidTag:
            raise HistoryUnreadable("altered, or moved from its place") from None


def _id(key: bytes) -> bytes:
    return sha256(b"torpor history key" + key).digest()[:_ID_BYTES]
