"""``kv`` of fleet.yaml → what each node's KV server is started with, and who may find whose KV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from controller.config_schema import KVSection
from controller.durable_settings import durable_of, wrong
from controller.footprints import GIB
from controller.server_settings import under
from kv_store.keys import Isolation
from kv_store.settings import (
    LOSSY,
    S3,
    Compression,
    Directory,
    Durable,
    Redis,
    TierSettings,
    named,
)

_URL, _PASSWORD, _KEY = "TORPOR_REDIS_URL", "TORPOR_REDIS_PASSWORD", "TORPOR_KV_KEY"
_AMAZONS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KVSettings:
    """Without secrets, since settings are written to a file (``password_of``, ``tier``)."""

    host_bytes: int
    durable: Durable
    isolation: Isolation
    chunk_tokens: int
    compression: Compression
    is_encrypted: bool
    key_file: Path | None
    """None: the key is in the environment."""
    destinations: Mapping[str, Durable] = field(default_factory=dict)
    tenants: Mapping[str, str] = field(default_factory=dict)
    """The destination of those whose KV does not go to ``durable``."""

    @classmethod
    def of(
        cls, section: KVSection, base: Path, state_dir: Path, environ: Mapping[str, str]
    ) -> KVSettings:
        """Raises ConfigError."""
        key_file = section.encryption_key_file
        own = _own(section, base, state_dir, environ)
        read = cls(
            host_bytes=int(section.host_gib * GIB),
            durable=own,
            destinations=_destinations(section, base, own),
            tenants=_tenants(section),
            isolation=Isolation(section.isolation),
            chunk_tokens=section.chunk_tokens,
            compression=section.compression,
            is_encrypted=section.encryption == "aes_gcm",
            key_file=under(base, key_file) if key_file else None,
        )
        read._key(environ)
        return read

    def tier(self, environ: Mapping[str, str]) -> TierSettings:
        """For a pool, which gives each node's server its name. Raises ConfigError."""
        return TierSettings(
            "unnamed",
            self.host_bytes,
            _with_secrets(self.durable, environ),
            self.chunk_tokens,
            key=self._key(environ),
            destinations={
                name: _with_secrets(durable, environ, name)
                for name, durable in self.destinations.items()
            },
            compression=self.compression,
        )

    @property
    def lossy(self) -> str:
        """What compression that loses precision is called, for salts; else empty."""
        return self.compression if self.compression in LOSSY else ""

    def _key(self, environ: Mapping[str, str]) -> bytes:
        if not self.is_encrypted:
            return b""
        name = f"${_KEY}" if self.key_file is None else str(self.key_file)
        try:
            told = environ.get(_KEY, "") if self.key_file is None else self.key_file.read_text()
            key = bytes.fromhex(told)
        except (OSError, UnicodeDecodeError) as error:
            raise wrong("kv.encryption_key_file", f"{name}: {error}") from None
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            reason = f"{name} must hold {2 * _KEY_BYTES} hexadecimal digits: openssl rand -hex 32"
            raise wrong("kv.encryption", reason)
        return key


def password_of(environ: Mapping[str, str], destination: str = "") -> str:
    return environ.get(named(_PASSWORD, destination), "")


def _own(section: KVSection, base: Path, state_dir: Path, environ: Mapping[str, str]) -> Durable:
    """The fleet's own: all KV goes there that is sent nowhere else."""
    if section.s3 or section.redis:
        return durable_of(section, base, "kv")
    if url := environ.get(_URL):
        return durable_of(section.model_copy(update={"redis": url}), base, "kv")
    directory = section.directory or str(state_dir / "kv")
    return durable_of(section.model_copy(update={"directory": directory}), base, "kv")


def _destinations(section: KVSection, base: Path, own: Durable) -> dict[str, Durable]:
    found, taken = dict[str, Durable](), [own]
    for name, described in section.destinations.items():
        where = f"kv.destinations.{name}"
        found[name] = durable = durable_of(described, base, where)
        if any(_is_same(durable, other) for other in taken):
            raise wrong(where, "is where other KV goes: name another place, or a prefix")
        taken.append(durable)
    return found


def _is_same(one: Durable, other: Durable) -> bool:
    """Files count against the bound of the directory in which they lie, whosever they are."""
    if isinstance(one, Directory) and isinstance(other, Directory):
        return one.path == other.path
    return one == other


def _tenants(section: KVSection) -> dict[str, str]:
    for tenant, destination in section.tenants.items():
        if destination not in section.destinations:
            raise wrong(f"kv.tenants.{tenant}", f"there is no destination {destination!r}")
    return dict(section.tenants)


def _with_secrets(durable: Durable, environ: Mapping[str, str], destination: str = "") -> Durable:
    match durable:
        case Redis():
            return durable.with_password(password_of(environ, destination))
        case S3():
            told = {name: environ[name] for name in _AMAZONS if environ.get(name)}
            return replace(durable, credentials=told)
        case Directory():
            return durable
