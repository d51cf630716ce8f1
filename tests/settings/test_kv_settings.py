"""``kv`` of fleet.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_errors import ConfigError
from controller.ports import NodeFound
from controller.settings import Settings, load
from kv_store.keys import Isolation
from kv_store.settings import Directory, Redis

GIB = 1024**3
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
    assert settings.kv.tier("secret").durable == there.with_password("secret")


def test_redis_by_environment(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {}, TORPOR_REDIS_URL="redis://store")
    assert settings.kv is not None
    assert settings.kv.durable == Redis("store", 6379)


@pytest.mark.parametrize(
    ("kv", "told"),
    [
        ({"redis": "http://store"}, "kv.redis: must be redis://"),
        ({"redis": "redis://me:secret@store"}, "must not hold the password"),
        ({"redis": "redis://store/3"}, "must end with the port"),
        ({"redis": "redis://store:x"}, "kv.redis: "),
        ({"chunk_tokens": 100}, "kv.chunk_tokens"),
        ({"host_gib": 0}, "kv.host_gib: must be > 0"),
        ({"isolation": "all"}, "kv.isolation: must be one of"),
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
