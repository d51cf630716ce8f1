"""``conversations.history`` of fleet.yaml, and where its keys are."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_errors import ConfigError
from controller.history_ports import HistoryLimits
from controller.reload import needs_restart
from controller.settings import Settings, load
from workers.ray_head import RayHead

KEYS = [bytes(range(n, n + 32)) for n in (200, 1, 64)]
WORDS = [urlsafe_b64encode(KEYS[0]).decode(), KEYS[1].hex(), b64encode(KEYS[2]).decode()]
MODEL = {"name": "m", "path": "nowhere", "kind": "fake"}


def loaded(directory: Path, history: Any = None, **environ: str) -> Settings:
    raw: dict[str, Any] = {"device": "cpu", "state_dir": "state", "models": [MODEL]}
    if history is not None:
        raw["conversations"] = {"history": history}
    file = directory / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    return load(file, environ)


def test_nothing_is_kept_by_itself(tmp_path: Path) -> None:
    assert loaded(tmp_path).history is None


def test_keys_in_the_environment_will_do(tmp_path: Path) -> None:
    environ = {"TORPOR_HISTORY_KEYS": ", ".join(WORDS)}
    history = loaded(tmp_path, **environ).history
    assert history is not None
    assert history.limits == HistoryLimits()
    assert history.keys(environ) == tuple(KEYS)


def test_keys_in_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# of this year\n{WORDS[0]}\n{WORDS[1]} # older\n")
    settings = loaded(tmp_path, {"keys_file": "keys", "limit_mib": 0.5, "limit_items": 7})
    assert settings.history is not None
    assert settings.history.limits == HistoryLimits(1 << 19, 7)
    assert settings.history.keys({}) == tuple(KEYS[:2])
    told = settings.to_json()
    assert Settings.from_json(told) == settings
    assert not [word for word in WORDS if word in told]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "needs a key"),
        ("# none\n", "needs a key"),
        ("c2hvcnQ=", "32 bytes"),
        ("z" * 64, "32 bytes"),
        ("not base64!", "32 bytes"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_key_is_refused_unsaid(tmp_path: Path, written: str | None, said: str) -> None:
    if written is not None:
        (tmp_path / "keys").write_text(written)
    with pytest.raises(ConfigError, match=said) as refused:
        loaded(tmp_path, {"keys_file": "keys"})
    assert "conversations.history.keys_file" in str(refused.value)
    assert not written or written not in str(refused.value)


def test_the_section_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TORPOR_HISTORY_KEYS"):
        loaded(tmp_path, {})


@pytest.mark.parametrize("wrong", [{"limit_mib": 0}, {"limit_items": 0}, {"key": "x"}])
def test_what_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"conversations\.history"):
        loaded(tmp_path, wrong, TORPOR_HISTORY_KEYS=WORDS[0])


def test_a_change_of_it_needs_a_restart_and_is_named_as_it_is_written(tmp_path: Path) -> None:
    environ = {"TORPOR_HISTORY_KEYS": WORDS[0]}
    before = loaded(tmp_path, {"limit_mib": 1, "limit_items": 1}, **environ)
    after = loaded(tmp_path, {"limit_mib": 2, "limit_items": 2}, **environ)
    assert list(needs_restart(before, after)) == [
        "conversations.history.limit_mib",
        "conversations.history.limit_items",
    ]
    assert list(needs_restart(loaded(tmp_path), after)) == ["conversations.history"]


def test_engines_do_not_get_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_HISTORY_KEYS", WORDS[0])
    head = RayHead(tmp_path, object_store_mib=128)
    assert WORDS[0] not in head._head_environment().values()
