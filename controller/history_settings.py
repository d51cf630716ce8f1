"""``conversations.history`` of fleet.yaml → how much of what is said is kept, and its keys.

Keys are read where they are used and are in no Settings, since these are written to a file. A key
is 32 bytes, in base64 or hexadecimal; of several the first one seals, and all of them open.
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64decode
from binascii import Error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.config_errors import ConfigError, Problem
from controller.config_schema import HistorySection
from controller.history_ports import HistoryLimits
from controller.server_settings import MIB, under
from kv_store.history import KEY_BYTES, KEYS_VARIABLE

_WHERE = "conversations.history.keys_file"


@dataclass(frozen=True, slots=True)
class HistorySettings:
    limits: HistoryLimits
    keys_file: Path | None
    """None: they are in the environment."""

    @classmethod
    def of(
        cls, section: HistorySection | None, base: Path, environ: Mapping[str, str]
    ) -> HistorySettings | None:
        """None: nothing that is said is kept. Raises ConfigError."""
        if section is None and not environ.get(KEYS_VARIABLE):
            return None
        asked = section or HistorySection()
        limits = HistoryLimits(int(asked.limit_mib * MIB), asked.limit_items)
        file = under(base, asked.keys_file) if asked.keys_file else None
        settings = cls(limits, file)
        settings.keys(environ)
        return settings

    def keys(self, environ: Mapping[str, str]) -> tuple[bytes, ...]:
        """Raises ConfigError."""
        if self.keys_file is None:
            where, text = KEYS_VARIABLE, environ.get(KEYS_VARIABLE, "")
        else:
            where, text = _WHERE, _read(self.keys_file)
        lines = [line.partition("#")[0] for line in text.splitlines()]
        found = tuple(
            _key(word, where) for line in lines for word in re.split(r"[\s,]+", line) if word
        )
        if not found:
            reason = (
                f"needs a key, there or in {KEYS_VARIABLE}: `openssl rand -base64 32` makes one"
            )
            raise ConfigError([Problem(_WHERE, reason)])
        return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(_WHERE, f"cannot be read: {type(error).__name__}")]) from None


def _key(word: str, where: str) -> bytes:
    """Never says what it read."""
    try:
        if len(word) == 2 * KEY_BYTES:
            return bytes.fromhex(word)
        is_url_safe = "-" in word or "_" in word
        key = urlsafe_b64decode(word) if is_url_safe else b64decode(word, validate=True)
    except (Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        reason = f"a key must be {KEY_BYTES} bytes, in base64 or hexadecimal"
        raise ConfigError([Problem(where, reason)]) from None
    return key
