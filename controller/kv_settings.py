"""``kv`` of fleet.yaml → what each node's KV server is started with, and who may find whose KV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from controller.config_errors import ConfigError, Problem
from controller.config_schema import KVSection
from controller.footprints import GIB
from controller.server_settings import under
from kv_store.keys import Isolation
from kv_store.settings import S3, Directory, Durable, Redis, TierSettings

_URL, _PASSWORD, _KEY = "TORPOR_REDIS_URL", "TORPOR_REDIS_PASSWORD", "TORPOR_KV_KEY"
_AMAZONS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_PORT = 6379
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KVSettings:
    """Without secrets, since settings are written to a file (``password_of``, ``tier``)."""

    host_bytes: int
    durable: Durable
    isolation: Isolation
    chunk_tokens: int
    is_encrypted: bool
    key_file: Path | None
    """None: the key is in the environment."""

    @classmethod
    def of(
        cls, section: KVSection, base: Path, state_dir: Path, environ: Mapping[str, str]
    ) -> KVSettings:
        """Raises ConfigError."""
        key_file = section.encryption_key_file
        read = cls(
            host_bytes=int(section.host_gib * GIB),
            durable=_durable(section, base, state_dir, environ),
            isolation=Isolation(section.isolation),
            chunk_tokens=section.chunk_tokens,
            is_encrypted=section.encryption == "aes_gcm",
            key_file=under(base, key_file) if key_file else None,
        )
        read._key(environ)
        return read

    def tier(self, environ: Mapping[str, str]) -> TierSettings:
        """For a pool, which gives each node's server its name. Raises ConfigError."""
        durable, key = _with_secrets(self.durable, environ), self._key(environ)
        return TierSettings("unnamed", self.host_bytes, durable, self.chunk_tokens, key=key)

    def _key(self, environ: Mapping[str, str]) -> bytes:
        if not self.is_encrypted:
            return b""
        name = f"${_KEY}" if self.key_file is None else str(self.key_file)
        try:
            told = environ.get(_KEY, "") if self.key_file is None else self.key_file.read_text()
            key = bytes.fromhex(told)
        except (OSError, UnicodeDecodeError) as error:
            raise _wrong("encryption_key_file", f"{name}: {error}") from None
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            reason = f"{name} must hold {2 * _KEY_BYTES} hexadecimal digits: openssl rand -hex 32"
            raise _wrong("encryption", reason)
        return key


def password_of(environ: Mapping[str, str]) -> str:
    return environ.get(_PASSWORD, "")


def _durable(
    section: KVSection, base: Path, state_dir: Path, environ: Mapping[str, str]
) -> Durable:
    if section.s3 and section.redis:
        raise _wrong("s3", "there is one durable tier: name s3 or redis")
    if section.s3:
        return _s3(section, base)
    if url := section.redis or environ.get(_URL):
        return _redis(url, under(base, section.redis_ca) if section.redis_ca else None)
    path = under(base, section.directory) if section.directory else state_dir / "kv"
    return Directory(path, int(section.directory_limit_gib * GIB))


def _with_secrets(durable: Durable, environ: Mapping[str, str]) -> Durable:
    match durable:
        case Redis():
            return durable.with_password(password_of(environ))
        case S3():
            told = {name: environ[name] for name in _AMAZONS if environ.get(name)}
            return replace(durable, credentials=told)
        case Directory():
            return durable


def _redis(url: str, ca: Path | None) -> Redis:
    parts, port = _split("redis", url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise _wrong("redis", "must be redis://[user@]host[:port] or rediss://…")
    if parts.password:
        raise _wrong("redis", f"must not hold the password: put it in {_PASSWORD}")
    if parts.path.strip("/") not in ("", "0") or parts.query:
        raise _wrong("redis", "must end with the port, or /0: there is one database")
    user, tls = parts.username or "", parts.scheme == "rediss"
    return Redis(parts.hostname, port or _PORT, user, tls=tls, ca=ca)


def _s3(section: KVSection, base: Path) -> S3:
    bucket, _ = _split("s3", section.s3 or "")
    if bucket.scheme != "s3" or not bucket.netloc or bucket.path.strip("/") or bucket.query:
        raise _wrong("s3", "must be s3://BUCKET")
    if set(bucket.netloc) & set("@:"):
        raise _wrong("s3", "must be s3://BUCKET: credentials are in the environment")
    if endpoint := section.s3_endpoint:
        there, _ = _split("s3_endpoint", endpoint)
        if there.scheme not in ("http", "https") or not there.hostname or "@" in there.netloc:
            raise _wrong("s3_endpoint", "must be http[s]://host[:port]")
        if there.path.strip("/") or there.query:
            raise _wrong("s3_endpoint", "must end with the port")
    ca = under(base, section.s3_ca) if section.s3_ca else None
    return S3(bucket.netloc, section.s3_region, endpoint, ca)


def _split(key: str, url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError as error:
        raise _wrong(key, str(error)) from error


def _wrong(key: str, reason: str) -> ConfigError:
    return ConfigError([Problem(f"kv.{key}", reason)])
