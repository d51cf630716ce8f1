"""``kv`` of fleet.yaml → what each node's KV server is started with, and who may find whose KV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controller.config_errors import ConfigError, Problem
from controller.config_schema import KVSection
from controller.footprints import GIB
from controller.server_settings import under
from kv_store.keys import Isolation
from kv_store.settings import Directory, Redis, TierSettings

_URL, _PASSWORD = "TORPOR_REDIS_URL", "TORPOR_REDIS_PASSWORD"
_PORT = 6379


@dataclass(frozen=True, slots=True)
class KVSettings:
    """Without the store's password, since settings are written to a file (``password_of``)."""

    host_bytes: int
    durable: Directory | Redis
    isolation: Isolation
    chunk_tokens: int

    @classmethod
    def of(
        cls, section: KVSection, base: Path, state_dir: Path, environ: Mapping[str, str]
    ) -> KVSettings:
        """Raises ConfigError."""
        url = section.redis or environ.get(_URL)
        durable: Directory | Redis
        if url:
            ca = under(base, section.redis_ca) if section.redis_ca else None
            durable = _redis(url, ca)
        else:
            path = under(base, section.directory) if section.directory else state_dir / "kv"
            durable = Directory(path, int(section.directory_limit_gib * GIB))
        return cls(
            host_bytes=int(section.host_gib * GIB),
            durable=durable,
            isolation=Isolation(section.isolation),
            chunk_tokens=section.chunk_tokens,
        )

    def tier(self, password: str) -> TierSettings:
        """For a pool, which gives each node's server its name."""
        durable = self.durable
        if isinstance(durable, Redis):
            durable = durable.with_password(password)
        return TierSettings("unnamed", self.host_bytes, durable, self.chunk_tokens)


def password_of(environ: Mapping[str, str]) -> str:
    return environ.get(_PASSWORD, "")


def _redis(url: str, ca: Path | None) -> Redis:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
    except ValueError as error:
        raise _wrong(str(error)) from error
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise _wrong("must be redis://[user@]host[:port] or rediss://…")
    if parts.password:
        raise _wrong(f"must not hold the password: put it in {_PASSWORD}")
    if parts.path.strip("/") or parts.query:
        raise _wrong("must end with the port: there is one database")
    return Redis(parts.hostname, port, parts.username or "", tls=parts.scheme == "rediss", ca=ca)


def _wrong(reason: str) -> ConfigError:
    return ConfigError([Problem("kv.redis", reason)])
