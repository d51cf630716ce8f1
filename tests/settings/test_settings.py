from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import fields, replace
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_schema import (
    CostSection,
    IdleSection,
    PolicySection,
    ServerSection,
    json_schema,
    schema_text,
)
from controller.core.names import (
    CostGuess,
    Depth,
    Eviction,
    FleetPolicy,
    Footprint,
    Hours,
    Ladder,
    Limits,
    Prices,
    Schedule,
)
from controller.footprints import CPU_PROCESS_BYTES, GIB
from controller.hub import HubAccess
from controller.keyring import new_key
from controller.ports import NodeFound
from controller.server_settings import serve_as
from controller.settings import ConfigError, Settings, from_models, load, read_model
from tests.settings.checkpoints import BERT, LLAMA, write_model

ROOT = Path(__file__).parents[2]
CPU = {"TORPOR_DEVICE": "cpu"}


def loaded(directory: Path, raw: dict[str, Any], environ: dict[str, str] | None = None) -> Settings:
    file = directory / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    return load(file, CPU if environ is None else environ)


def fake(**entry: Any) -> dict[str, Any]:
    return {"name": "a", "path": "x", "kind": "fake", **entry}


def test_one_model_in_full(tmp_path: Path) -> None:
    write_model(tmp_path / "weights")
    settings = loaded(
        tmp_path,
        {
            "defaults": {
                "idle": {"level_1_s": 60, "level_2_s": "never"},
                "engine_args": {"max_model_len": 64, "seed": 1},
                "env": {"A": "1"},
            },
            "models": [
                {
                    "name": "chat",
                    "path": "./weights",
                    "replicas": 2,
                    "kv_cache_gib": 0.5,
                    "idle": {"stopped_s": 600},
                    "engine_args": {"seed": 2},
                    "env": {"B": "2"},
                    "deepest": "level_2",
                    "pinned": True,
                    "max_wait_s": 10,
                    "canary_sampling": 0.5,
                }
            ],
        },
    )
    ((spec, engine),) = settings.models
    assert spec.name == "chat"
    assert spec.ladder == Ladder(level_1_s=60, stopped_s=600)
    assert (spec.replicas, spec.deepest, spec.pinned) == (2, Depth.LEVEL_2, True)
    assert spec.max_wait_s == 10
    assert engine.path == str(tmp_path / "weights")
    assert engine.env == {"A": "1", "B": "2"}
    assert engine.canary_sampling == 0.5
    assert engine.engine_args == {
        "max_model_len": 64,
        "seed": 2,
        "kv_cache_memory_bytes": GIB // 2,
        "tensor_parallel_size": 1,
    }
    weights = (80 + 4) * 2
    packed, kv = -(-weights * 5 // 4), GIB // 2
    assert spec.footprints == {
        Depth.AWAKE: Footprint(packed + kv + CPU_PROCESS_BYTES),
        Depth.KV_RELEASED: Footprint(packed + CPU_PROCESS_BYTES),
        Depth.LEVEL_1: Footprint(packed + CPU_PROCESS_BYTES),
        Depth.LEVEL_2: Footprint(CPU_PROCESS_BYTES),
    }


def test_without_a_gpu_ranks_are_processes_on_the_one_device(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    entry = {"name": "m", "path": "m", "kv_cache_gib": 1, "tensor_parallel": 2}
    ((spec, engine),) = loaded(tmp_path, {"models": [entry]}).models
    assert spec.devices_per_replica == 1
    assert (engine.ranks, engine.engine_args["kv_cache_memory_bytes"]) == (2, GIB // 2)
    sizes = [spec.footprints[depth] for depth in (Depth.AWAKE, Depth.KV_RELEASED, Depth.LEVEL_2)]
    weights = -(-(80 + 4) * 2 * 5 // 4)
    assert sizes[0] == Footprint(sizes[1].device_bytes + GIB)
    assert sizes[1] == Footprint(weights + 4 * CPU_PROCESS_BYTES)
    assert sizes[2] == Footprint(4 * CPU_PROCESS_BYTES)


def test_ranks_share_the_attention_heads_evenly(tmp_path: Path) -> None:
    write_model(tmp_path / "m", config={**LLAMA, "num_attention_heads": 9})
    for device in ("cpu", "cuda"):
        entry = {"name": "m", "path": "m", "tensor_parallel": 2}
        with pytest.raises(ConfigError, match="tensor_parallel: the model's 9 attention heads"):
            loaded(tmp_path, {"device": device, "models": [entry]})
    assert loaded(tmp_path, {"models": [{**entry, "tensor_parallel": 3}]}).models


def test_the_longest_request_fits_into_kv(tmp_path: Path) -> None:
    write_model(tmp_path / "m", config={**LLAMA, "max_position_embeddings": 1 << 30})
    entry: dict[str, Any] = {"name": "m", "path": "m", "kv_cache_gib": 0.001}
    tokens = int(0.001 * GIB) // 48
    ((_, engine),) = loaded(tmp_path, {"models": [entry]}).models
    assert engine.engine_args["max_model_len"] == (tokens // 128 - 1) * 128
    entry["engine_args"] = {"max_model_len": tokens + 1}
    with pytest.raises(ConfigError, match=rf"max_model_len: must be ≤ {tokens:,}, which is all"):
        loaded(tmp_path, {"models": [entry]})
    entry["engine_args"] = {"max_model_len": "auto"}
    ((_, engine),) = loaded(tmp_path, {"models": [entry]}).models
    assert engine.engine_args["max_model_len"] == "auto"
    entry |= {"engine_args": {}, "kv_cache_gib": 1e-6}
    with pytest.raises(ConfigError, match=r"models\[0\].kv_cache_gib: holds 22 tokens: too few"):
        loaded(tmp_path, {"models": [entry]})


def test_defaults_are_the_cores(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {"models": [fake()]})
    assert replace(settings.policy, prices=Prices()) == FleetPolicy()
    spec = settings.models[0].spec
    assert spec.ladder == Ladder()
    assert (spec.max_wait_s, spec.max_restarts, spec.deepest) == (300.0, 3, Depth.STOPPED)
    assert settings.server.host == "127.0.0.1"


def test_the_file_has_a_key_for_each_of_the_cores_policies() -> None:
    for section, policy in (
        (PolicySection, FleetPolicy),
        (CostSection, CostGuess),
        (IdleSection, Ladder),
    ):
        known = {f.name for f in fields(policy)} - {"tenant_limits", "tenants", "times"}
        written = [name.replace("growth_gib", "growth_bytes") for name in section.model_fields]
        assert sorted(written) == sorted(known)


def test_footprints_that_are_known_better(tmp_path: Path) -> None:
    known = {"awake_gib": 2, "level_1_gib": 0.5, "level_2_gib": 0.25, "host_level_1_gib": 1}
    settings = loaded(tmp_path, {"models": [fake(kv_cache_gib=0.5, footprint=known)]})
    assert settings.models[0].spec.footprints == {
        Depth.AWAKE: Footprint(2 * GIB),
        Depth.KV_RELEASED: Footprint(int(1.5 * GIB)),
        Depth.LEVEL_1: Footprint(GIB // 2, GIB),
        Depth.LEVEL_2: Footprint(GIB // 4),
    }


def test_an_encoder_is_budgeted_without_kv(tmp_path: Path) -> None:
    write_model(tmp_path / "bert", config=BERT)
    settings = loaded(tmp_path, {"models": [{"name": "e", "path": "bert"}]})
    footprints = settings.models[0].spec.footprints
    assert footprints[Depth.AWAKE] == footprints[Depth.KV_RELEASED]


def test_on_cuda_level_1_moves_the_weights_to_the_host(tmp_path: Path) -> None:
    entry = {"name": "b", "path": "org/b", "tensor_parallel": 2, "kv_cache_gib": 3}
    raw = {"device": "cuda", "models": [{**entry, "footprint": {"weights_gib": 8}}]}
    ((spec, engine),) = loaded(tmp_path, raw, {}).models
    assert spec.devices_per_replica == 2
    assert spec.footprints == {
        Depth.AWAKE: Footprint(int((4 * 1.25 + 3 + 1 + 1) * GIB), 4 * GIB),
        Depth.KV_RELEASED: Footprint(int((4 * 1.25 + 1 + 1) * GIB), 4 * GIB),
        Depth.LEVEL_1: Footprint(2 * GIB, 12 * GIB),
        Depth.LEVEL_2: Footprint(2 * GIB, 4 * GIB),
    }
    assert engine.engine_args["gpu_memory_utilization"] == 0.01
    assert engine.engine_args["tensor_parallel_size"] == 2


def test_the_environment_decides_over_the_file_unless_it_says_auto(tmp_path: Path) -> None:
    raw = {"device": "cuda", "models": [fake()]}
    assert loaded(tmp_path, raw, {}).device == "cuda"
    assert loaded(tmp_path, raw, {"TORPOR_DEVICE": "cpu"}).device == "cpu"
    assert loaded(tmp_path, raw, {"TORPOR_DEVICE": "auto"}).device == "cuda"


def test_where_state_lies(tmp_path: Path) -> None:
    raw: dict[str, Any] = {"models": [fake()]}
    assert loaded(tmp_path, raw, {}).state_dir == Path("~/.local/state/torpor").expanduser()
    settings = loaded(tmp_path, raw, {"TORPOR_STATE_DIR": str(tmp_path / "s")})
    assert (settings.state_dir, settings.log_dir) == (tmp_path / "s", tmp_path / "s" / "logs")
    settings = loaded(tmp_path, {**raw, "state_dir": "here"}, {"TORPOR_STATE_DIR": "/x"})
    assert settings.state_dir == tmp_path / "here"


def test_keys_come_from_the_file_beside_it_and_the_environment(tmp_path: Path) -> None:
    _, beside = new_key("ben", "acme", ["inference"])
    key, own = new_key("ann", "", ["admin", "inference"])

    def entry(who: Any) -> dict[str, Any]:
        return {"name": who.name, "roles": sorted(who.roles), "sha256": who.sha256}

    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([{**entry(beside), "tenant": "acme"}]))
    raw = {"server": {"host": "0.0.0.0", "keys_file": "keys.yaml"}, "models": [fake()]}
    settings = loaded(tmp_path, raw, {"TORPOR_KEYS": json.dumps([entry(own)])})
    assert settings.server.keys == (beside, own)
    assert own.sha256 == sha256(key.encode()).hexdigest()
    assert key not in repr(settings)


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_without_keys_only_loopback_is_bound(tmp_path: Path, host: str, may: bool) -> None:
    _, key = new_key("ann", "", ["admin"])
    with nullcontext() if may else pytest.raises(ConfigError, match="without keys"):
        assert serve_as(ServerSection(host=host), tmp_path, {}).host == host
    entry = {"name": "ann", "roles": ["admin"], "sha256": key.sha256}
    keyed = serve_as(ServerSection(host=host), tmp_path, {"TORPOR_KEYS": yaml.safe_dump([entry])})
    assert keyed.host == host


def test_a_fleet_without_a_file(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "tiny")
    settings = from_models([str(directory)], CPU, {"port": 0, "host": None})
    ((spec, engine),) = settings.models
    assert (spec.name, engine.path) == ("tiny", str(directory))
    assert settings.server.port == 0
    assert spec.ladder.level_1_s < inf
    assert settings.source is None


def test_a_hub_name_that_the_cache_holds_needs_nobody(tmp_path: Path) -> None:
    model = tmp_path / "hub" / "models--org--m"
    write_model(model / "snapshots" / "c0ffee")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("c0ffee")
    environ = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", **CPU}
    ((spec, engine),) = from_models(["org/m"], environ).models
    assert (spec.name, engine.path) == ("org/m", "org/m")
    assert HubAccess.of(environ).cached_snapshot("org/m", "c0ffee") is not None
    assert HubAccess.of(environ).cached_snapshot("org/m", "other") is None


def test_a_model_added_at_run_time_gets_the_files_defaults(tmp_path: Path) -> None:
    raw = {"defaults": {"max_wait_s": 7}, "models": [fake()]}
    spec, _ = read_model(fake(name="b"), loaded(tmp_path, raw))
    assert (spec.name, spec.max_wait_s) == ("b", 7)


def test_settings_travel_to_another_process(tmp_path: Path) -> None:
    raw = {"defaults": {"idle": {"level_1_s": 5}}, "models": [fake(idle={"level_2_s": "never"})]}
    settings = loaded(tmp_path, raw)
    assert Settings.from_json(settings.to_json()) == settings


def test_budgets_limit_what_a_node_has(tmp_path: Path) -> None:
    memory = {
        "device_budget_gib": 10,
        "host_fraction": 0.25,
        "nodes": [{"name": "big", "device_budget_gib": 40, "host_budget_gib": 100}],
    }
    budget = loaded(tmp_path, {"memory": memory, "models": [fake()]}).memory
    small = NodeFound("small", (("0", 8 * GIB), ("1", 16 * GIB)), 64 * GIB)
    limited = NodeFound("small", (("0", 8 * GIB), ("1", 10 * GIB)), 16 * GIB)
    assert budget.limit(small) == limited
    big = NodeFound("big", (("0", 80 * GIB),), 64 * GIB)
    assert budget.limit(big) == NodeFound("big", (("0", 40 * GIB),), 64 * GIB)


@pytest.mark.parametrize(
    ("memory", "devices", "host"),
    [
        ({}, True, True),
        ({"device_fraction": 0.5}, True, True),
        ({"device_budget_gib": 10}, False, True),
        ({"nodes": [{"name": "big", "host_budget_gib": 100}]}, True, False),
        ({"device_budget_gib": 10, "host_budget_gib": 9, "follow": "always"}, True, True),
        ({"follow": "never"}, False, False),
    ],
)
def test_a_number_stands_as_written_and_a_fraction_is_of_what_others_leave(
    tmp_path: Path, memory: dict[str, Any], devices: bool, host: bool
) -> None:
    budget = loaded(tmp_path, {"memory": memory, "models": [fake()]}).memory
    assert (budget.follow.follows_devices, budget.follow.follows_host) == (devices, host)
    assert budget.is_followed == (devices or host)


def test_what_the_kv_tier_takes_is_reserved_where_budgets_follow(tmp_path: Path) -> None:
    memory = {"headroom_fraction": 0.1, "calm_s": 5.0}
    raw = {"memory": memory, "kv": {"host_gib": 2.0}, "models": [fake()]}
    follow = loaded(tmp_path, raw).memory.follow
    assert (follow.headroom_fraction, follow.calm_s) == (0.1, 5.0)
    assert follow.reserved_bytes == 2 * GIB


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = (ROOT / "docs" / "fleet.schema.json").read_text()
    assert committed == schema_text(), (
        "write it again: python -m controller.config_schema > docs/fleet.schema.json"
    )


def examples() -> list[Path]:
    return sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", examples(), ids=lambda path: path.stem)
def test_the_examples_follow_the_schema_and_load(example: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    raw = yaml.safe_load(example.read_text())
    jsonschema.validate(raw, json_schema())
    for model in ("smollm2", "smollm2-f32", "minilm"):
        write_model(tmp_path / ".torpor" / "models" / model)
    (tmp_path / "examples").mkdir()
    copy = tmp_path / "examples" / example.name
    copy.write_text(example.read_text())
    assert len(load(copy, {"HF_HUB_OFFLINE": "1"}).models) == len(raw["models"])


def test_replicas_are_a_number_or_a_range(tmp_path: Path) -> None:
    """A model's number goes over the range of ``defaults`` as a whole."""
    raw = {
        "defaults": {"replicas": {"min": 2, "max": 3}},
        "models": [
            fake(),
            fake(name="n", replicas=1),
            fake(name="o", replicas={"max": 5}, spread="none"),
        ],
    }
    specs = [one.spec for one in loaded(tmp_path, raw).models]
    assert [(spec.least_replicas, spec.replicas) for spec in specs] == [(2, 3), (1, 1), (2, 5)]
    assert [spec.spreads for spec in specs] == [True, True, False]


def test_the_controllers_log_can_go_to_stderr(tmp_path: Path) -> None:
    raw = {"state_dir": "state", "models": [fake()]}
    settings = loaded(tmp_path, raw)
    assert (settings.log_dir, settings.logs_to_stderr) == (tmp_path / "state" / "logs", False)
    settings = loaded(tmp_path, raw | {"log_dir": "-"})
    assert (settings.log_dir, settings.logs_to_stderr) == (tmp_path / "state" / "logs", True)


def test_limits_and_who_they_are_for(tmp_path: Path) -> None:
    limits = {"tenant": {"running": 4}, "tenants": {"acme": {"running": 9, "waiting": 0}}}
    model = fake(limits={"running": 2, "waiting": 7})
    settings = loaded(tmp_path, {"limits": limits, "models": [model]})
    assert settings.policy.tenant_limits == Limits(running=4)
    assert settings.policy.tenants == {"acme": Limits(9, 0)}
    assert settings.models[0].spec.limits == Limits(2, 7)


def test_whom_an_eviction_takes_first(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {"policy": {"eviction": "lfu"}, "models": [fake()]})
    assert settings.policy.eviction is Eviction.LFU


def test_a_ladder_that_sets_itself_and_fixed_times_over_it(tmp_path: Path) -> None:
    models = [fake(), fake(name="fixed", idle={"level_1_s": 60})]
    file = {"device": "cpu", "defaults": {"idle": "auto"}, "models": models}
    own, fixed = (model.spec for model in loaded(tmp_path, file).models)
    assert own.sets_own_ladder
    assert not fixed.sets_own_ladder
    assert fixed.ladder == Ladder(level_1_s=60)


def test_without_a_gpu_a_devices_memory_costs_what_the_hosts_does(tmp_path: Path) -> None:
    file = {"policy": {"prices": {"host_gib_hour": 0.5}}, "models": [fake()]}
    assert loaded(tmp_path, {"device": "cpu", **file}).policy.prices.device_gib_hour == 0.5
    on_a_gpu = loaded(tmp_path, {"device": "cuda", **file}, {})
    assert on_a_gpu.policy.prices.device_gib_hour == 0.04


def test_fixed_hours_reach_the_core(tmp_path: Path) -> None:
    hours = {"awake": ["Mon-Fri 08:00-18:00"], "asleep": ["22:00-06:00"], "asleep_to": "stopped"}
    raw = {
        "device": "cpu",
        "memory": {"device_budget_gib": 1.0},
        "defaults": {"schedule": {"time_zone": "Europe/Berlin"}, "footprint": {"awake_gib": 0.1}},
        "models": [
            {"name": "m", "path": "x", "kind": "fake", "schedule": hours},
            {"name": "n", "path": "x", "kind": "fake", "schedule": None},
        ],
    }
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    settings = load(file, {"TORPOR_STATE_DIR": str(tmp_path)})
    kept = Settings.from_json(settings.to_json())
    with_hours, without = (model.spec.schedule for model in kept.models)
    assert without is None
    assert with_hours == Schedule(
        "Europe/Berlin",
        (Hours((0, 1, 2, 3, 4), 480, 1080),),
        (Hours((0, 1, 2, 3, 4, 5, 6), 1320, 360),),
        Depth.STOPPED,
    )
