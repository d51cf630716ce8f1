"""fleet.yaml read again: when, what of it counts at once, and what a wrong one does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.metrics import Metrics
from controller.model_settings import ConfiguredModel
from controller.ports import ConfigView, FleetView
from controller.reload import FileLook, Reload, needs_restart, reread, with_models_as_written
from controller.settings import Settings, load
from controller.terminal import fleet_table, out
from tests.drivers.virtual_loop import run


@dataclass
class Heard:
    """Somebody to reconfigure."""

    models: list[ConfiguredModel] = field(default_factory=list)
    views: list[ConfigView] = field(default_factory=list)

    def reconfigure(self, models: Iterable[ConfiguredModel], view: ConfigView) -> None:
        self.models = list(models)
        self.views.append(view)

    def tell_of_config(self, view: ConfigView) -> None:
        self.views.append(view)

    def names(self) -> list[str]:
        return [spec.name for spec, _ in self.models]


def fake(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "path": "x", "kind": "fake", "footprint": {"awake_gib": 1}, **more}


def write(path: Path, *models: dict[str, Any], **sections: Any) -> Path:
    written = {"device": "cpu", **sections, "models": list(models) or [fake("a")]}
    path.write_text(yaml.safe_dump(written))
    return path


def watched(path: Path, **server: Any) -> tuple[Reload, Heard]:
    settings, heard = load(path, server=server), Heard()
    return Reload(settings, heard, FileLook(settings)), heard


async def test_a_changed_file_is_taken_over_once(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml")
    reload, heard = watched(path)
    await reload.look()
    await reload.look()
    assert len(heard.views) == 1
    write(path, fake("a"), fake("b"))
    await reload.look()
    await reload.look()
    assert heard.names() == ["a", "b"]
    assert [view.problems for view in heard.views] == [(), ()]


async def test_the_swapped_links_of_a_config_map_are_seen(tmp_path: Path) -> None:
    """As the kubelet does it: ``..data`` becomes a link to another directory, and the one before
    is removed. The keys lie in the same volume."""
    keys = [{"name": "k", "roles": ["admin"], "sha256": "0" * 64}]
    for version, models in (("..1", [fake("a")]), ("..2", [fake("b")])):
        (tmp_path / version).mkdir()
        server = {"host": "0.0.0.0", "keys_file": "keys.yaml"}
        write(tmp_path / version / "fleet.yaml", *models, server=server)
        (tmp_path / version / "keys.yaml").write_text(yaml.safe_dump(keys))
    (tmp_path / "..data").symlink_to("..1")
    for name in ("fleet.yaml", "keys.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    reload, heard = watched(tmp_path / "fleet.yaml")
    await reload.look()
    (tmp_path / "..fresh").symlink_to("..2")
    (tmp_path / "..fresh").rename(tmp_path / "..data")
    for name in ("fleet.yaml", "keys.yaml"):
        (tmp_path / "..1" / name).unlink()
    await reload.look()
    assert heard.names() == ["b"]
    assert heard.views[-1].needs_restart == ()


async def test_a_wrong_file_changes_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml")
    reload, heard = watched(path)
    await reload.look()
    write(path, fake("b", replicas=0), fake("c", pined=True))
    await reload.look()
    await reload.look()
    assert heard.names() == ["a"]
    assert len(heard.views) == 2
    first, wrong = heard.views
    assert wrong.problems == (
        "models[0].replicas: must be ≥ 1",
        "models[1].pined: unknown key (did you mean pinned?)",
    )
    assert wrong.at > wrong.taken_at == first.at
    path.unlink()
    await reload.look()
    assert "cannot read" in heard.views[-1].problems[0]
    write(path, fake("b"))
    await reload.look()
    assert heard.names() == ["b"]
    assert heard.views[-1].problems == ()


async def test_a_file_that_was_refused_is_tried_again(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml")
    settings, heard = load(path), Heard()
    reload = Reload(settings, heard, FileLook(settings, again_after_s=0.0))
    write(path, fake("b"), server={"keys_file": "keys.yaml"})
    for _ in range(3):
        await reload.look()
    assert len(heard.views) == 1  # said once
    assert "keys.yaml" in heard.views[0].problems[0]
    (tmp_path / "keys.yaml").write_text("[]")
    await reload.look()
    assert heard.names() == ["b"]


async def test_what_only_a_start_can_change_is_named_and_the_rest_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml", memory={"device_budget_gib": 4})
    reload, heard = watched(path)
    write(
        path,
        fake("a"),
        fake("large", footprint={"awake_gib": 8}),
        memory={"device_budget_gib": 16},
        policy={"backlog_limit": 3, "costs": {"stop_s": 9}},
        server={"port": 8123, "max_body_mib": 1},
        kv={},
        log_dir="-",
        defaults={"pinned": True},
    )
    await reload.look()
    assert set(heard.views[-1].needs_restart) == {
        *("memory.device_budget_gib", "policy.backlog_limit", "policy.costs.stop_s"),
        *("server.port", "server.max_body_mib", "kv", "log_dir"),
    }
    assert heard.names() == ["a", "large"]
    assert all(spec.pinned for spec, _ in heard.models)
    assert not any(engine.keeps_kv for _, engine in heard.models)  # there is no tier yet


async def test_what_the_command_line_said_still_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml", server={"port": 0})
    reload, heard = watched(path, port=9999)
    write(path, fake("b"), server={"port": 0})
    await reload.look()
    assert heard.views[-1].needs_restart == ()


def test_any_free_port_is_the_port_that_was_found(tmp_path: Path) -> None:
    settings = load(write(tmp_path / "fleet.yaml", server={"port": 0}))
    running = replace(settings, server=replace(settings.server, port=40123))
    assert list(needs_restart(running, reread(running))) == []


def test_a_controller_that_starts_again_begins_with_the_file_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml")
    handed_over = Settings.from_json(load(path).to_json())
    assert with_models_as_written(handed_over) == handed_over
    write(path, fake("b"))
    assert [m.spec.name for m in with_models_as_written(handed_over).models] == ["b"]
    path.write_text("models: nonsense")
    assert with_models_as_written(handed_over) == handed_over


def test_the_watch_goes_on_whatever_a_look_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load(write(tmp_path / "fleet.yaml"))
    looks: list[float] = []

    async def look() -> Settings | None:
        looks.append(asyncio.get_running_loop().time())
        if len(looks) == 1:
            raise ValueError("a mistake of ours")
        return None

    async def story() -> None:
        watching = asyncio.create_task(Reload(settings, Heard(), look).watch())
        await asyncio.sleep(5.0)
        watching.cancel()

    run(story())
    assert looks == [0.0, 2.0, 4.0]
    assert "a mistake of ours" in caplog.text


REFUSED = ConfigView("/etc/fleet.yaml", 20.0, 10.0, ("models[0].pth: unknown key",), ("kv",))


def test_metrics_tell_of_a_file_that_is_refused() -> None:
    told = Metrics().render(FleetView((), (), 0, REFUSED)).decode()
    assert "torpor_config_reload_success 0.0" in told
    assert "torpor_config_reload_timestamp_seconds 20.0" in told
    assert "torpor_config_reload_success_timestamp_seconds 10.0" in told
    assert "torpor_config_reload_needs_restart 1.0" in told
    assert "torpor_config" not in Metrics().render(FleetView((), (), 0)).decode()


def test_status_tells_of_a_file_that_is_refused() -> None:
    with out.capture() as capture:
        out.print(fleet_table(FleetView((), (), 0, REFUSED)))
    shown = " ".join(capture.get().split())
    assert "/etc/fleet.yaml is refused, the one before is kept: models[0].pth" in shown
    assert "kv needs a restart of the controller" in shown
