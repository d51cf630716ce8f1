"""What stands between a chunk and its place in the durable tier: a digest, or encryption.

LMCache's adapters check lengths only, and its checksums do not work on a CPU. So each chunk lies
there with a *head* that opens it. A chunk that has changed, or that lies under another chunk's
name, does not open, which makes it a miss. Two seals:

- ``DigestSeal``: the chunk as it is, with a BLAKE3 digest of its key and its bytes. It guards
  against decay and mix-ups, not against somebody who can write to the store.
- ``CipherSeal``: AES-256-GCM, with a key for each salt derived from the master key as LMCache does
  it (``HkdfKeyProvider``). LMCache's own serde ``aesgcm`` is not used: it does not bind a chunk to
  its name, so one chunk of a tenant is served as another, and one that does not open fails the
  whole load it is part of.

What another seal or another key wrote has another name (``Seal.name``): it is not found, and
nobody takes it for decayed. A sealed body is as long as its chunk, and opens in place.
"""

from __future__ import annotations

import os
from typing import Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.serde.key_provider import HkdfKeyProvider

_CHUNK = "torpor 2025 kv chunk"
_KEY_NAME = "torpor 2026 name of a kv key"
_KEYS = b"torpor kv chunk aes-256-gcm "
_NONCE_BYTES, _TAG_BYTES = 12, 16

Sealed = tuple[bytes, bytes | bytearray | memoryview]
"""Head and body."""


class Seal(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def head_bytes(self) -> int: ...

    def close(self, key: ObjectKey, chunk: memoryview) -> Sealed: ...

    def open(self, key: ObjectKey, head: bytes, body: memoryview) -> bool:
        """Where it is the body of ``key``, it is the chunk afterwards; else it is nothing."""
        ...


class DigestSeal:
    name = "plain"
    head_bytes = 32

    def close(self, key: ObjectKey, chunk: memoryview) -> Sealed:
        return _digest(key, chunk), chunk

    def open(self, key: ObjectKey, head: bytes, body: memoryview) -> bool:
        return head == _digest(key, body)


class CipherSeal:
    head_bytes = _NONCE_BYTES + _TAG_BYTES

    def __init__(self, master: bytes) -> None:
        self.name = f"aes-{blake3(master, derive_key_context=_KEY_NAME).hexdigest()[:16]}"
        self._keys = HkdfKeyProvider(master, key_len=32, info_prefix=_KEYS)

    def close(self, key: ObjectKey, chunk: memoryview) -> Sealed:
        nonce, body = os.urandom(_NONCE_BYTES), bytearray(len(chunk))
        cipher = Cipher(self._cipher(key), GCM(nonce)).encryptor()
        cipher.authenticate_additional_data(_named(key))
        cipher.update_into(chunk, body)
        cipher.finalize()
        return nonce + cipher.tag, body

    def open(self, key: ObjectKey, head: bytes, body: memoryview) -> bool:
        if len(head) != self.head_bytes:
            return False
        nonce, tag = head[:_NONCE_BYTES], head[_NONCE_BYTES:]
        cipher = Cipher(self._cipher(key), GCM(nonce, tag)).decryptor()
        cipher.authenticate_additional_data(_named(key))
        try:
            cipher.update_into(body, body)
            cipher.finalize()
        except InvalidTag:
            return False
        return True

    def _cipher(self, key: ObjectKey) -> AES256:
        return AES256(self._keys.get_key(key.cache_salt))


def _digest(key: ObjectKey, chunk: memoryview) -> bytes:
    hasher = blake3(derive_key_context=_CHUNK)
    return hasher.update(_named(key)).update(chunk).digest()


def _named(key: ObjectKey) -> bytes:
    named = f"{key.model_name}\0{key.kv_rank}\0{key.object_group_id}\0{key.cache_salt}\0"
    return named.encode() + bytes(key.chunk_hash)
