"""A fleet of fake engines that stands for a scenario's hardware, as far as it can on any machine.

Engines take as long as a cost table says. A GiB of the scenario is a MiB here, since the fleet
books no more memory than the machine has. There is one device, as large as all of the scenario's,
the host has room for everybody, every wake takes as long as one from level 1, and nothing is
prefilled.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.simulate.prices import Price
from benchmarks.simulate.set_stage import LADDER, on_own_hardware, table
from benchmarks.workload.scenario import Scenario
from controller.core.names import Depth
from controller.footprints import GIB
from controller.settings import Settings, load

SHRUNK = 1024
NOTE = (
    "Engines are fake: they take what the cost table says and prefill nothing; there is one "
    "device, as large as all of the scenario's, and no limit to host memory; a GiB of the "
    "scenario is a MiB."
)


def fake_fleet(scenario: Scenario, costs: str, speed: float) -> Settings:
    """Raises ResultError for a bad cost table."""
    stage = on_own_hardware(scenario, table(costs), seed=0)
    device = sum(size for node in stage.nodes for _, size in node.devices)
    raw = {
        "device": "cpu",
        "memory": {"device_budget_gib": device / GIB / SHRUNK},
        "defaults": {
            "kind": "fake",
            "idle": {
                "kv_released_s": LADDER.kv_released_s / speed,
                "level_1_s": LADDER.level_1_s / speed,
                "level_2_s": LADDER.level_2_s / speed,
                "stopped_s": "never",
            },
        },
        "models": [_entry(name, price, speed) for name, price in stage.prices.items()],
    }
    with TemporaryDirectory() as directory:
        config = Path(directory) / "fleet.yaml"
        config.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return load(config)


def _entry(name: str, price: Price, speed: float) -> dict[str, Any]:
    awake, asleep = price.sizes[Depth.AWAKE], price.sizes[Depth.LEVEL_1]
    kv_bytes = awake.device_bytes - price.sizes[Depth.KV_RELEASED].device_bytes
    sizes = {
        f"{depth.name.lower()}_gib": held.device_bytes / GIB / SHRUNK
        for depth, held in price.sizes.items()
    }
    return {
        "name": name,
        "path": "nowhere",
        "footprint": sizes,
        "engine_args": {
            "start_s": price.start_s / speed,
            "stop_s": price.stop_s / speed,
            "sleep_s": price.sleep_s[Depth.LEVEL_1] / speed,
            "wake_s": price.wake_s[Depth.LEVEL_1] / speed,
            "token_delay_s": 1 / price.tokens_per_s / speed,
            "device_bytes": awake.device_bytes // SHRUNK,
            "kv_bytes": kv_bytes // SHRUNK,
            "residual_bytes": asleep.device_bytes // SHRUNK,
            "max_model_len": 1_000_000,
        },
    }
