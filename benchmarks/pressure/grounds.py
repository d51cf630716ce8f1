"""The fleet that is put under pressure: nothing happens in it unasked, and its maximum is the one
that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from benchmarks.kv import fleets
from benchmarks.wake import own_fleet
from controller.client import FleetClient
from controller.model_settings import ConfiguredModel
from controller.settings import Settings

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Grounds:
    """A running fleet. ``supervisor``: its processes are below it. ``turn_s``: its policy's
    ``minimum_awake_s``, before which nobody who woke has to go."""

    client: FleetClient
    http: httpx.Client
    supervisor: psutil.Process
    turn_s: float


def fake_settings() -> Settings:
    """Two engines without a model, each with a process of its own, and room for one awake."""
    return own_fleet.fake_settings(
        memory={"device_budget_gib": 0.3},
        policy={"restart_backoff_s": 0.1, "minimum_awake_s": 0.5},
        defaults={
            "kind": "fake",
            "footprint": {"awake_gib": 0.2},
            "engine_args": {
                "device_bytes": 200 * _MIB,
                "kv_bytes": 80 * _MIB,
                "residual_bytes": 20 * _MIB,
                "sleep_s": 0.1,
                "wake_s": 0.3,
                "token_delay_s": 0.02,
                "children": 1,
            },
        },
    )


def arranged(settings: Settings, directory: Path, maximum_s: float) -> Settings:
    if settings.kv is None:
        quiet = own_fleet.undisturbed(settings, directory)
    else:
        quiet = fleets.arranged(settings, directory, directory / "kv")
    policy = replace(quiet.policy, maximum_wait_behind_s=maximum_s)
    return replace(quiet, policy=policy, models=tuple(_freezable(each) for each in quiet.models))


def _freezable(model: ConfiguredModel) -> ConfiguredModel:
    return ConfiguredModel(replace(model.spec, can_freeze=True), model.engine)
