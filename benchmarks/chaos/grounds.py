"""Where chaos happens: a running fleet, its processes, and perhaps the store beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

from benchmarks.chaos.parts import Part, parts
from benchmarks.chaos.store import Store
from benchmarks.chaos.witness import Witness
from benchmarks.wake.own_fleet import own_fleet
from controller.kv_settings import KVSettings
from controller.settings import Settings, load
from kv_store.settings import Directory
from workers.listening import listen

_MIB = 1 << 20
_NEVER = {"kv_released_s": "never", "level_1_s": "never", "level_2_s": "never"}
FAKE_FLEET: dict[str, Any] = {
    "device": "cpu",
    "memory": {"device_budget_gib": 1.05},
    "timeouts": {"start_s": 30, "wake_s": 10, "sleep_s": 10, "stop_s": 2},
    "policy": {"restart_backoff_s": 0.1, "minimum_awake_s": 0.2, "costs": {"start_s": 8}},
    "kv": {"host_gib": 0.25},
    "defaults": {
        "kind": "fake",
        "max_restarts": 20,
        "footprint": {"awake_gib": 0.2},
        "idle": {**_NEVER, "stopped_s": "never"},
        "engine_args": {
            "device_bytes": 200 * _MIB,
            "kv_bytes": 80 * _MIB,
            "residual_bytes": 20 * _MIB,
            "wake_s": 0.05,
            "sleep_s": 0.02,
            "token_delay_s": 0.002,
            "children": 1,
            "shm_bytes": _MIB,
        },
    },
    "models": [{"name": f"fake-{letter}", "path": "nowhere"} for letter in "abcde"],
}
"""Five engines without a model, in real Ray actors, of which four can be awake."""


@dataclass(slots=True)
class Grounds:
    """``embedding``: the models that answer with numbers. ``store``: if it is not the fleet's."""

    url: str
    supervisor: psutil.Process
    models: tuple[str, ...]
    embedding: tuple[str, ...] = ()
    store: Store | None = None
    witness: Witness | None = None

    def find(self, part: Part, model: str = "") -> list[psutil.Process]:
        if part is Part.STORE and self.store is not None:
            found = self.store.process
            return [found] if found is not None else []
        return parts(self.supervisor, part, model)


def fake_settings(carriers: int) -> Settings:
    with TemporaryDirectory() as directory:
        config = Path(directory) / "fleet.yaml"
        raw = FAKE_FLEET | {"server": {"workers": carriers}}
        config.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return load(config)


@contextmanager
def own_grounds(
    settings: Settings, keeps_store: bool, kept: Path | None = None
) -> Iterator[Grounds]:
    """A fleet of these settings below a directory of its own, up when entered and gone when left;
    the witness then knows what is left of it. With ``keeps_store`` its KV and its records lie in
    a Valkey of ours, else in its directory. ``kept``: its journal and logs, which stay."""
    with TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as directory:
        temporary = Path(directory) / "tmp"
        temporary.mkdir()
        store = None
        if keeps_store and settings.kv is not None:
            store = Store(Path(directory) / "store")
            settings = replace(settings, kv=replace(settings.kv, durable=store.address))
        try:
            with own_fleet(
                settings, partial(_arranged, kept=kept), {"TMPDIR": str(temporary)}
            ) as fleet:
                supervisor = psutil.Process(fleet.process.pid)
                witness = Witness(supervisor, temporary)
                engines = [model.engine for model in settings.models]
                yield Grounds(
                    fleet.url,
                    supervisor,
                    tuple(engine.model for engine in engines),
                    tuple(e.model for e in engines if e.engine_args.get("runner") == "pooling"),
                    store,
                    witness,
                )
                witness.look()
            witness.conclude()
        finally:
            if store is not None:
                store.close()


def _arranged(settings: Settings, directory: Path, kept: Path | None) -> Settings:
    """The settings as they are, on a port of their own that is kept over restarts."""
    with listen("127.0.0.1") as free:
        port = free.getsockname()[1]
    state = kept or directory / "state"
    return replace(
        settings,
        server=replace(settings.server, host="127.0.0.1", port=port, keys=()),
        state_dir=state,
        log_dir=state / "logs",
        kv=_in_directory(settings.kv, directory),
        source=None,
    )


def _in_directory(kv: KVSettings | None, directory: Path) -> KVSettings | None:
    if kv is None or not isinstance(kv.durable, Directory):
        return kv
    return replace(kv, durable=replace(kv.durable, path=directory / "kv"))
