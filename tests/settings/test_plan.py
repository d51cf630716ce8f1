from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.core.names import Depth, Footprint, ModelName, ModelSpec
from controller.footprints import CPU_PROCESS_BYTES, GIB
from controller.machine import Gpu, Machine
from controller.plan import FleetPlan, can_hold, plan
from controller.ports import NodeFound
from controller.settings import load
from tests.settings.checkpoints import BERT, LLAMA, write_model

MACHINE = Machine("here", 16 * GIB, ())


def planned(
    directory: Path, raw: dict[str, Any], machine: Machine = MACHINE, device: str = "cpu"
) -> FleetPlan:
    file = directory / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    return plan(load(file, {"TORPOR_DEVICE": device}), machine)


def test_a_model_counted_by_hand(tmp_path: Path) -> None:
    tensors = {"embed": ("F32", (100, 8)), "w": ("BF16", (3, 5))}
    write_model(tmp_path / "m", tensors)
    write_model(tmp_path / "e", config=BERT)
    models = [{"name": "m", "path": "m", "kv_cache_gib": 0.5}, {"name": "e", "path": "e"}]
    found = planned(tmp_path, {"models": models})
    chat, encoder = found.models
    assert chat.weights_bytes == (800 + 15) * 2
    assert chat.kv_bytes == GIB // 2
    token = 2 * LLAMA["num_hidden_layers"] * LLAMA["num_key_value_heads"] * (8 // 4) * 2
    assert chat.kv_tokens == GIB // 2 // token
    assert chat.footprints["awake"].device_bytes == 2038 + GIB // 2 + CPU_PROCESS_BYTES
    assert (encoder.kv_bytes, encoder.kv_tokens) == (0, 0)
    assert found.nodes == (NodeFound("here", (("cpu", int(16 * GIB * 0.9)),), 8 * GIB),)
    assert found.awake_together == (("m", "e"),)
    assert found.problems == ()


def fakes(**sizes: dict[str, float]) -> list[dict[str, Any]]:
    return [{"name": n, "path": n, "kind": "fake", "footprint": f} for n, f in sizes.items()]


def test_what_can_be_awake_together(tmp_path: Path) -> None:
    models = fakes(
        a={"awake_gib": 3, "level_1_gib": 1, "level_2_gib": 1},
        b={"awake_gib": 2, "level_1_gib": 1, "level_2_gib": 1},
        c={"awake_gib": 1.5, "level_1_gib": 1, "level_2_gib": 1},
    )
    memory = {"device_budget_gib": 5}
    stoppable = planned(tmp_path, {"memory": memory, "models": models})
    assert stoppable.awake_together == (("a", "b"), ("a", "c"), ("b", "c"))
    sleepers = {"memory": memory, "defaults": {"deepest": "level_2"}, "models": models}
    assert planned(tmp_path, sleepers).awake_together == (("b", "c"), ("a",))


def test_why_it_does_not_fit(tmp_path: Path) -> None:
    small = Machine("small", 2 * GIB, ())
    found = planned(tmp_path, {"models": fakes(a={"awake_gib": 1}, b={"awake_gib": 3})}, small)
    assert [model.fits_alone for model in found.models] == [True, False]
    assert found.problems == ("b can never be awake: no node has the room",)
    pinned = {
        "defaults": {"pinned": True},
        "models": fakes(a={"awake_gib": 1}, b={"awake_gib": 1}),
    }
    assert planned(tmp_path, pinned, small).problems == (
        "the pinned models cannot be awake together: a, b",
    )


def test_tensor_parallel_wants_its_devices_on_one_node(tmp_path: Path) -> None:
    entry = {"name": "m", "path": "o/m", "tensor_parallel": 2, "footprint": {"awake_gib": 20}}
    two_gpus = Machine("g", 64 * GIB, (Gpu("L4", 24 * GIB, "550"), Gpu("L4", 24 * GIB, "550")))
    assert planned(tmp_path, {"models": [entry]}, two_gpus, "cuda").problems == ()
    nodes = [{"name": n, "device_budget_gib": 24, "host_budget_gib": 64} for n in ("a", "b")]
    raw = {"memory": {"nodes": nodes}, "models": [entry]}
    assert planned(tmp_path, raw, two_gpus, "cuda").problems != ()


def test_host_memory_of_level_1_and_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    entry = {"path": "o/m", "kv_cache_gib": 1, "footprint": {"weights_gib": 4}}
    models = [{"name": "m", "replicas": 2, **entry}, {"name": "n", **entry}]
    raw = {"memory": {"device_budget_gib": 20, "host_budget_gib": 30}, "models": models}
    found = planned(tmp_path, raw, device="cuda")
    assert found.nodes == (NodeFound("planned", (("0", 20 * GIB),), 30 * GIB),)
    assert found.level_1_host_bytes == 3 * (2 + 4) * GIB
    assert [model.weights_bytes for model in found.models] == [4 * GIB, 4 * GIB]
    assert found.models[0].kv_tokens is None


def test_many_models_get_one_greedy_set(tmp_path: Path) -> None:
    sizes = {f"m{i:02}": {"awake_gib": 2.0} for i in range(20)}
    found = planned(tmp_path, {"models": fakes(**sizes)})
    assert found.awake_together == (tuple(list(sizes)[:7]),)


def brute(models: list[tuple[int, int]], nodes: list[list[int]]) -> bool:
    """Every way to put (devices, bytes on each) onto (node, its devices)."""
    places = [
        [(n, chosen) for n, d in enumerate(nodes) for chosen in permutations(range(len(d)), count)]
        for count, _ in models
    ]
    for way in product(*places):
        left = [list(devices) for devices in nodes]
        for (_, size), (node, chosen) in zip(models, way, strict=True):
            for device in chosen:
                left[node][device] -= size
        if all(size >= 0 for devices in left for size in devices):
            return True
    return False


@given(
    models=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 6)), min_size=1, max_size=3),
    nodes=st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=2), min_size=1, max_size=2),
)
def test_what_is_said_to_fit_does(models: list[tuple[int, int]], nodes: list[list[int]]) -> None:
    specs = [
        ModelSpec(ModelName(str(i)), {Depth.AWAKE: Footprint(size)}, devices_per_replica=count)
        for i, (count, size) in enumerate(models)
    ]
    rows = [
        NodeFound(str(n), tuple((str(d), size) for d, size in enumerate(devices)), 0)
        for n, devices in enumerate(nodes)
    ]
    fits = can_hold([(spec, Depth.AWAKE) for spec in specs], rows)
    if fits:
        assert brute(models, nodes)
    if len(models) == 1:
        assert fits == brute(models, nodes)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_stopped_models_hold_nothing(device: str, tmp_path: Path) -> None:
    raw = {"device": device, "memory": {"device_budget_gib": 2, "host_budget_gib": 1}}
    models = fakes(a={"awake_gib": 2}, b={"awake_gib": 2})
    assert planned(tmp_path, {**raw, "models": models}, device=device).awake_together == (
        ("a",),
        ("b",),
    )


def test_fixed_hours_are_shown(tmp_path: Path) -> None:
    hours = {"time_zone": "Europe/Berlin", "awake": ["Mon,Tue 08:00-18:00"]}
    models = [{**one, "schedule": hours} for one in fakes(a={"awake_gib": 2})]
    found = planned(tmp_path, {"models": models})
    assert found.models[0].schedule == "awake Mon,Tue 08:00-18:00 (Europe/Berlin)"
