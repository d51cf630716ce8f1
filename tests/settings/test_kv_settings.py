"""``kv`` of fleet.yaml."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_errors import ConfigError
from controller.ports import NodeFound
from controller.serving import api_settings
from controller.settings import Settings, load
from kv_store.keys import Isolation
from kv_store.settings import S3, Directory, Redis

GIB = 1024**3
KEY = "0123456789abcdef" * 4
MODEL = {"name": "m", "path": "nowhere", "kind": "fake"}


def loaded(tmp_path: Path, kv: Any = None, model: Any = None, **environ: str) -> Settings:
    raw: dict[str, Any] = {"device": "cpu", "state_dir": "state", "models": [model or MODEL]}
    if kv is not None:
        raw["kv"] = kv
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load(path, environ)


def test_without_the_section_nothing_is_kept(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert settings.kv is None
    assert not settings.models[0].spec.keeps_kv


def test_defaults(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {})
    assert settings.kv is not None
    assert settings.kv.durable == Directory(tmp_path / "state" / "kv", 10 * GIB)
    assert settings.kv.isolation is Isolation.TENANT
    ((spec, engine),) = settings.models
    assert (spec.keeps_kv, engine.keeps_kv) == (True, True)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    "model", [MODEL | {"keeps_kv": False}, MODEL | {"engine_args": {"runner": "pooling"}}]
)
def test_models_that_keep_none(tmp_path: Path, model: dict[str, Any]) -> None:
    ((spec, engine),) = loaded(tmp_path, {}, model).models
    assert (spec.keeps_kv, engine.keeps_kv) == (False, False)


def test_redis_and_its_password(tmp_path: Path) -> None:
    kv = {"redis": "rediss://me@store:7000", "redis_ca": "ca.pem"}
    settings = loaded(tmp_path, kv, TORPOR_REDIS_PASSWORD="secret")
    assert settings.kv is not None
    there = Redis("store", 7000, "me", tls=True, ca=tmp_path / "ca.pem")
    assert settings.kv.durable == there
    assert "secret" not in settings.to_json()
    told = settings.kv.tier({"TORPOR_REDIS_PASSWORD": "secret"})
    assert told.durable == there.with_password("secret")


def test_a_bucket_and_its_credentials(tmp_path: Path) -> None:
    kv = {"s3": "s3://kv", "s3_endpoint": "https://store:9000", "s3_ca": "ca.pem"}
    credentials = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings = loaded(tmp_path, kv, TORPOR_REDIS_URL="redis://unused", **credentials)
    assert settings.kv is not None
    there = S3("kv", "us-east-1", "https://store:9000", tmp_path / "ca.pem")
    assert settings.kv.durable == there
    assert "secret" not in settings.to_json()
    assert Settings.from_json(settings.to_json()) == settings
    told = settings.kv.tier(credentials | {"TORPOR_OTHER": "x"})
    assert told.durable == replace(there, credentials=credentials)
    assert "secret" not in repr(told)


def test_tenants_are_sent_elsewhere(tmp_path: Path) -> None:
    kv = {
        "destinations": {
            "vault": {"directory": "vault", "directory_limit_gib": 2},
            "their-own": {"redis": "redis://store", "prefix": "acme:"},
        },
        "tenants": {"a tenant": "vault", "acme": "their-own"},
    }
    environ = {
        "TORPOR_REDIS_URL": "redis://store",
        "TORPOR_REDIS_PASSWORD": "secret",
        "TORPOR_REDIS_PASSWORD_THEIR_OWN": "another secret",
    }
    settings = loaded(tmp_path, kv, **environ)
    assert settings.kv is not None
    store = Redis("store", 6379)
    vault = Directory(tmp_path / "vault", 2 * GIB)
    theirs = replace(store, prefix="acme:")
    assert settings.kv.durable == store
    assert settings.kv.destinations == {"vault": vault, "their-own": theirs}
    assert api_settings(settings).inference.kv_destinations == kv["tenants"]
    assert "secret" not in settings.to_json()
    assert Settings.from_json(settings.to_json()) == settings
    told = settings.kv.tier(environ)
    assert told.durables == {
        "": store.with_password("secret"),
        "vault": vault,
        "their-own": theirs.with_password("another secret"),
    }


@pytest.mark.parametrize("in_file", [True, False])
def test_the_key_is_in_a_file_or_in_the_environment(tmp_path: Path, in_file: bool) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    named = {"encryption_key_file": "key"} if in_file else {}
    environ = {} if in_file else {"TORPOR_KV_KEY": KEY}

    settings = loaded(tmp_path, {"encryption": "aes_gcm", **named}, **environ)

    assert settings.kv is not None
    told = settings.kv.tier(environ)
    assert told.key == bytes.fromhex(KEY)
    assert KEY not in settings.to_json()
    assert KEY not in repr(told)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(("compression", "lossy"), [("none", ""), ("zstd", ""), ("fp8", "fp8")])
def test_what_loses_precision_is_in_the_salt(tmp_path: Path, compression: str, lossy: str) -> None:
    settings = loaded(tmp_path, {"compression": compression})

    assert settings.kv is not None
    assert settings.kv.tier({}).compression == compression
    assert api_settings(settings).inference.kv_lossy == lossy


def test_a_key_is_not_enough_to_encrypt(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {}, TORPOR_KV_KEY=KEY)

    assert settings.kv is not None
    assert settings.kv.tier({"TORPOR_KV_KEY": KEY}).key == b""


@pytest.mark.parametrize("key", ["", "secret", KEY[2:], KEY + "00"])
def test_a_key_that_is_none_is_refused_and_not_told(tmp_path: Path, key: str) -> None:
    (tmp_path / "key").write_text(key)

    for more in ({}, {"encryption_key_file": "key"}):
        with pytest.raises(ConfigError, match="64 hexadecimal digits") as refused:
            loaded(tmp_path, {"encryption": "aes_gcm", **more}, TORPOR_KV_KEY=key)
        assert not key or key not in str(refused.value)


def test_redis_by_environment(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {}, TORPOR_REDIS_URL="redis://store")
    assert settings.kv is not None
    assert settings.kv.durable == Redis("store", 6379)


def test_the_one_database_may_be_named(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {"redis": "redis://store:6379/0"})
    assert settings.kv is not None
    assert settings.kv.durable == Redis("store", 6379)


@pytest.mark.parametrize(
    ("kv", "told"),
    [
        ({"redis": "http://store"}, "kv.redis: must be redis://"),
        ({"redis": "redis://me:secret@store"}, "must not hold the password"),
        ({"redis": "redis://store/3"}, "must end with the port"),
        ({"redis": "redis://store:x"}, "kv.redis: "),
        ({"s3": "kv"}, "kv.s3: must be s3://BUCKET"),
        ({"s3": "s3://kv/below"}, "kv.s3: must be s3://BUCKET"),
        ({"s3": "s3://me:secret@kv"}, "kv.s3: "),
        ({"s3": "s3://kv", "s3_endpoint": "store:9000"}, "kv.s3_endpoint: must be http"),
        ({"s3": "s3://kv", "s3_endpoint": "http://me:secret@store"}, "kv.s3_endpoint: must be"),
        ({"s3": "s3://kv", "redis": "redis://store"}, "there is one durable tier"),
        ({"encryption": "aes_gcm", "encryption_key_file": "gone"}, "kv.encryption_key_file: "),
        ({"compression": "lzma"}, "kv.compression: must be one of"),
        ({"encryption": "rot13"}, "kv.encryption: must be one of"),
        ({"chunk_tokens": 100}, "kv.chunk_tokens"),
        ({"host_gib": 0}, "kv.host_gib: must be > 0"),
        ({"isolation": "all"}, "kv.isolation: must be one of"),
        ({"tenants": {"acme": "vault"}}, "kv.tenants.acme: there is no destination 'vault'"),
        ({"destinations": {"vault": {}}}, "kv.destinations.vault: needs directory, redis or s3"),
        ({"destinations": {"A": {"directory": "a"}}}, "kv.destinations.A"),
        ({"destinations": {"a": {"redis": "http://b"}}}, "kv.destinations.a.redis: must be redis"),
        ({"directory": "d", "destinations": {"a": {"directory": "./d"}}}, "a: is where other KV"),
        ({"prefix": "a:"}, "kv.prefix: is of Redis and S3"),
        ({"redis": "redis://b", "destinations": {"a": {"redis": "redis://b:6379"}}}, "a: is where"),
    ],
)
def test_what_is_refused(tmp_path: Path, kv: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        loaded(tmp_path, kv)
    assert "secret" not in str(refused.value)


def test_the_host_tier_is_taken_off_the_budget(tmp_path: Path) -> None:
    limit = loaded(tmp_path, {"host_gib": 2}).memory.limit
    here = limit(NodeFound("n", (("cpu", 10 * GIB),), 10 * GIB))
    assert (here.devices, here.host_bytes) == ((("cpu", 7 * GIB),), 3 * GIB)
    gpu = limit(NodeFound("n", (("cuda:0", 10 * GIB),), 10 * GIB))
    assert (gpu.devices, gpu.host_bytes) == ((("cuda:0", 9 * GIB),), 3 * GIB)
