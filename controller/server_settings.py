"""The server's part of the configuration: where it listens, and who has a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from controller.config_errors import ConfigError, Problem, from_pydantic
from controller.config_schema import KeySection, ServerSection
from controller.keyring import ApiKey
from controller.loopback import is_loopback
from controller.yaml_file import parse_yaml, read_yaml

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerSettings:
    host: str
    port: int
    max_body_bytes: int
    keys: tuple[ApiKey, ...]
    """None: loopback only, and everyone may do everything."""
    unready_s: float
    drain_s: float
    workers: int
    """Carriers; 0: the deciding process listens itself."""


def under(base: Path, path: str) -> Path:
    """Relative to ``base``, ``~`` expanded."""
    return (base / Path(path).expanduser()).resolve()


def serve_as(section: ServerSection, base: Path, environ: Mapping[str, str]) -> ServerSettings:
    keys = _keys(section, base, environ)
    if not keys and not is_loopback(section.host):
        reason = f"without keys only loopback is bound, not {section.host}; see `torpor keys new`"
        raise ConfigError([Problem("server.host", reason)])
    return ServerSettings(
        host=section.host,
        port=section.port,
        max_body_bytes=int(section.max_body_mib * MIB),
        keys=keys,
        unready_s=section.unready_s,
        drain_s=section.drain_s,
        workers=section.workers,
    )


def _keys(section: ServerSection, base: Path, environ: Mapping[str, str]) -> tuple[ApiKey, ...]:
    entries = list(section.keys)
    if section.keys_file:
        raw = read_yaml(under(base, section.keys_file))
        entries += _key_sections(raw, "server.keys_file")
    if environ.get("TORPOR_KEYS"):
        entries += _key_sections(parse_yaml(environ["TORPOR_KEYS"]), "TORPOR_KEYS")
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError([Problem("server.keys", f"the name {twice!r} is given twice")])
    return tuple(ApiKey(e.name, e.tenant, frozenset(e.roles), e.sha256) for e in entries)


def _key_sections(raw: object, where: str) -> list[KeySection]:
    try:
        return ServerSection.model_validate({"keys": raw}).keys
    except ValidationError as error:
        found = from_pydantic(error.errors(), KeySection.model_fields)
        problems = [Problem(where + p.path.removeprefix("keys"), p.reason) for p in found]
        raise ConfigError(problems) from error
