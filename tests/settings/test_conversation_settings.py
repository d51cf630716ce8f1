"""``conversations`` of fleet.yaml, and what the supervisor tells of a run."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_errors import ConfigError
from controller.core.conversations import ConversationLimits, Lifetimes
from controller.settings import RunRecords, Settings, load, records_of_run

NEVER = dict.fromkeys(("kv_released_s", "level_1_s", "level_2_s", "stopped_s"), "never")


def loaded(directory: Path, **more: Any) -> Settings:
    raw = {
        "device": "cpu",
        "memory": {"device_budget_gib": 1.0},
        "defaults": {"footprint": {"awake_gib": 0.1}, "idle": NEVER},
        "models": [{"name": "m", "path": "nowhere", "kind": "fake"}],
        **more,
    }
    file = directory / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    return load(file, {"TORPOR_STATE_DIR": str(directory)})


def test_defaults_are_the_cores(tmp_path: Path) -> None:
    assert loaded(tmp_path).conversations == ConversationLimits()


def test_all_of_it(tmp_path: Path) -> None:
    section = {"hibernate_after_s": 60, "expire_after_s": "never", "limit": 5, "waiting": 0}
    settings = loaded(tmp_path, conversations=section)
    assert settings.conversations == ConversationLimits(Lifetimes(60, inf), total=5, waiting=0)
    assert Settings.from_json(settings.to_json()).conversations == settings.conversations


def test_what_may_differ_by_tenant_and_by_the_hour(tmp_path: Path) -> None:
    section = {
        "hibernate_after_s": 60,
        "expire_after_s": 600,
        "tenants": {"a": {"expire_after_s": "never"}, "b": {"hibernate_after_s": "never"}},
        "hibernate_at": ["22:00"],
        "time_zone": "Europe/Berlin",
        "live": {"model": 4, "tenant": 2, "queue": 0},
    }
    settings = loaded(tmp_path, conversations=section)
    limits = Settings.from_json(settings.to_json()).conversations
    assert limits == settings.conversations
    of = [limits.of_tenant(tenant) for tenant in ("a", "b", "c")]
    assert of == [Lifetimes(60, inf), Lifetimes(inf, 600), Lifetimes(60, 600)]
    assert limits.hibernate_at[0].begins_minute == 22 * 60
    assert (limits.live.model, limits.live.tenant, limits.live.queue) == (4, 2, 0)
    assert limits.shortest_s == 60


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"limit": 0}, r"conversations\.limit"),
        ({"expire_after_s": "soon"}, r"conversations\.expire_after_s"),
        ({"expires": 1}, r"conversations\.expires"),
        ({"tenants": {"a": {"limit": 1}}}, r"conversations\.tenants\.a\.limit"),
        ({"hibernate_at": ["late"]}, r"conversations\.hibernate_at\[0\]: .*time of day"),
        ({"time_zone": "Mars"}, r"conversations\.time_zone: no time zone"),
        ({"live": {"model": 0}}, r"conversations\.live\.model"),
    ],
)
def test_what_is_refused(tmp_path: Path, section: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        loaded(tmp_path, conversations=section)


@pytest.mark.parametrize("socket", [None, Path("/run/records")])
def test_a_run_is_told_by_the_environment(socket: Path | None) -> None:
    told = RunRecords("torpor-1", socket)
    assert records_of_run(told.environment) == told
    assert records_of_run({}) == RunRecords("", None)
