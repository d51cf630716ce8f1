"""One durable tier of ``kv`` in fleet.yaml: a directory, Redis, or S3; without its secrets."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from controller.config_errors import ConfigError, Problem
from controller.config_schema import DurableSection
from controller.footprints import GIB
from controller.server_settings import under
from kv_store.settings import S3, Directory, Durable, Redis

_PORT = 6379


def durable_of(section: DurableSection, base: Path, where: str) -> Durable:
    """``where`` the section stands in the file. Raises ConfigError."""
    if section.s3 and section.redis:
        raise wrong(f"{where}.s3", "there is one durable tier: name s3 or redis")
    if section.s3:
        return _s3(section, base, where)
    if section.redis:
        return _redis(section, base, where)
    if section.directory:
        if section.prefix:
            raise wrong(f"{where}.prefix", "is of Redis and S3: name another directory")
        path, limit_bytes = under(base, section.directory), section.directory_limit_gib * GIB
        return Directory(path, int(limit_bytes))
    raise wrong(where, "needs directory, redis or s3")


def wrong(key: str, reason: str) -> ConfigError:
    return ConfigError([Problem(key, reason)])


def _redis(section: DurableSection, base: Path, where: str) -> Redis:
    key = f"{where}.redis"
    parts, port = _split(key, section.redis or "")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise wrong(key, "must be redis://[user@]host[:port] or rediss://…")
    if parts.password:
        raise wrong(key, "must not hold the password: put it in the environment")
    if parts.path.strip("/") not in ("", "0") or parts.query:
        raise wrong(key, "must end with the port, or /0: there is one database")
    return Redis(
        parts.hostname,
        port or _PORT,
        parts.username or "",
        tls=parts.scheme == "rediss",
        ca=under(base, section.redis_ca) if section.redis_ca else None,
        prefix=section.prefix,
    )


def _s3(section: DurableSection, base: Path, where: str) -> S3:
    key, endpoint = f"{where}.s3", section.s3_endpoint
    bucket, _ = _split(key, section.s3 or "")
    if bucket.scheme != "s3" or not bucket.netloc or bucket.path.strip("/") or bucket.query:
        raise wrong(key, "must be s3://BUCKET")
    if set(bucket.netloc) & set("@:"):
        raise wrong(key, "must be s3://BUCKET: credentials are in the environment")
    if endpoint:
        _check_endpoint(f"{where}.s3_endpoint", endpoint)
    ca = under(base, section.s3_ca) if section.s3_ca else None
    return S3(bucket.netloc, section.s3_region, endpoint, ca, prefix=section.prefix)


def _check_endpoint(key: str, endpoint: str) -> None:
    there, _ = _split(key, endpoint)
    if there.scheme not in ("http", "https") or not there.hostname or "@" in there.netloc:
        raise wrong(key, "must be http[s]://host[:port]")
    if there.path.strip("/") or there.query:
        raise wrong(key, "must end with the port")


def _split(key: str, url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError as error:
        raise wrong(key, str(error)) from error
