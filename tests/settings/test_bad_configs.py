"""What is refused, where and why: each row a file, the key path and the reason it must name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_errors import ConfigError
from controller.settings import from_models, load, read_model
from tests.settings.checkpoints import LLAMA, write_model

FAKE: dict[str, Any] = {"name": "a", "path": "x", "kind": "fake"}


def fakes(*changes: dict[str, Any], **top: Any) -> dict[str, Any]:
    """A file with one fake model for each change."""
    return {**top, "models": [{**FAKE, "name": f"m{i}", **c} for i, c in enumerate(changes)]}


def one(**top: Any) -> dict[str, Any]:
    return fakes({}, **top)


BAD: list[tuple[Any, str, str]] = [
    # shape
    ([], "", "must be a mapping with the key `models`"),
    ({}, "models", "is required"),
    ({"models": []}, "models", "must not be empty"),
    ({"models": [{"name": "a"}]}, "models[0].path", "is required"),
    ({"models": ["a"]}, "models[0]", "must be a mapping"),
    (one(servr={}), "servr", "unknown key (did you mean server?)"),
    (one(server={"prt": 1}), "server.prt", "unknown key (did you mean port?)"),
    (one(zzz=1), "zzz", "unknown key"),
    (fakes({"idle": {"level_3_s": 1}}), "models[0].idle.level_3_s", "unknown key"),
    (
        fakes({"schedule": {"awake": ["8-18"]}}),
        "models[0].schedule.awake[0]",
        'hours as in "Mon-Fri 08:00-18:00"',
    ),
    (
        fakes({"schedule": {"time_zone": "Mars/Olympus"}}),
        "models[0].schedule.time_zone",
        "no time zone",
    ),
    (
        fakes({"schedule": {"awake": ["08:00-18:00"], "asleep": ["17:00-06:00"]}}),
        "models[0].schedule",
        "awake and asleep both hold Mon 17:00",
    ),
    (one(defaults={"name": "x"}), "defaults.name", "unknown key"),
    (one(server=None), "server", "must be a mapping"),
    # types and bounds
    (one(server={"port": "8000"}), "server.port", "must be a whole number"),
    (one(server={"port": 70000}), "server.port", "must be ≤ 65535"),
    (one(server={"port": -1}), "server.port", "must be ≥ 0"),
    (one(server={"max_body_mib": 0}), "server.max_body_mib", "must be > 0"),
    (one(device="tpu"), "device", "must be one of 'auto', 'cpu' or 'cuda'"),
    (one(memory={"device_budget_gib": 0}), "memory.device_budget_gib", "must be > 0"),
    (one(memory={"device_budget_gib": "2GiB"}), "memory.device_budget_gib", "must be a number"),
    (one(memory={"device_fraction": 1.5}), "memory.device_fraction", "must be ≤ 1"),
    (one(policy={"evict_to": "awake"}), "policy.evict_to", "must be one of 'kv_released'"),
    (one(policy={"backlog_limit": -1}), "policy.backlog_limit", "must be ≥ 0"),
    (one(timeouts={"start_s": 0}), "timeouts.start_s", "must be > 0"),
    (one(timeouts={"wake_s": float("inf")}), "timeouts.wake_s", "must be a finite number"),
    (one(journal={"files": -1}), "journal.files", "must be ≥ 0"),
    (one(ray={"object_store_mib": 10}), "ray.object_store_mib", "must be ≥ 76"),
    (fakes({"replicas": 0}), "models[0].replicas", "must be ≥ 1"),
    (fakes({"replicas": "two"}), "models[0].replicas", "must be a whole number, or {min, max}"),
    (fakes({"replicas": {"min": 3, "max": 2}}), "models[0].replicas", "max must be ≥ min (3)"),
    (fakes({"replicas": {"most": 2}}), "models[0].replicas.most", "unknown key"),
    (fakes({"pinned": "yes"}), "models[0].pinned", "must be true or false"),
    (fakes({"env": {"N": 2}}), "models[0].env.N", "must be a string"),
    (fakes({"canary_sampling": 1.1}), "models[0].canary_sampling", "must be ≤ 1"),
    (fakes({"kind": "tgi"}), "models[0].kind", "must be one of 'vllm' or 'fake'"),
    # times
    (fakes({}, {"idle": {"level_1_s": -1}}), "models[1].idle.level_1_s", "must be ≥ 0"),
    (fakes({"idle": {"level_1_s": float("nan")}}), "models[0].idle.level_1_s", "must be ≥ 0"),
    (fakes({"idle": {"stopped_s": "soon"}}), "models[0].idle.stopped_s", '"never"'),
    (fakes({"max_wait_s": -1}), "models[0].max_wait_s", "must be ≥ 0"),
    (
        fakes({"idle": {"level_1_s": 60, "level_2_s": "never", "stopped_s": 30}}),
        "models[0].idle.stopped_s",
        "must be ≥ level_1_s (60): the ladder only goes down",
    ),
    (
        fakes({"idle": {"level_2_s": 5}}, defaults={"idle": {"level_1_s": 10}}),
        "models[0].idle.level_2_s",
        "must be ≥ level_1_s (10)",
    ),
    # names
    (fakes({"name": "a@b"}), "models[0].name", "must not contain '@'"),
    (fakes({"name": "a b#c"}), "models[0].name", "must not contain ' ' '#'"),
    (fakes({"name": "../x"}), "models[0].name", "begin and end with a letter or a digit"),
    (fakes({"name": ""}), "models[0].name", "must not be empty"),
    (fakes({"name": "x" * 101}), "models[0].name", "must have at most 100 characters"),
    (fakes({"name": "x"}, {}, {"name": "x"}), "models[2].name", "'x' is the name of models[0]"),
    # vLLM's arguments
    (
        {"models": [{"name": "a", "path": "x", "engine_args": {"max_modl_len": 1}}]},
        "models[0].engine_args.max_modl_len",
        "vLLM has no such argument (did you mean max_model_len?)",
    ),
    (
        {"models": [{"name": "a", "path": "x", "engine_args": {"max-model-len": 1}}]},
        "models[0].engine_args.max-model-len",
        "(write max_model_len)",
    ),
    (
        {"models": [{"name": "a", "path": "x", "engine_args": {"tensor_parallel_size": 2}}]},
        "models[0].engine_args.tensor_parallel_size",
        "not here: use tensor_parallel",
    ),
    (
        {"models": [{"name": "a", "path": "x", "engine_args": {"api_key": ["k"]}}]},
        "models[0].engine_args.api_key",
        "not here: torpor decides it",
    ),
    (
        {"models": [{"name": "a", "path": "x", "engine_args": {"data_parallel_size": 2}}]},
        "models[0].engine_args.data_parallel_size",
        "an engine lives on one node",
    ),
    (
        fakes({"kind": "vllm", "engine_args": {"distributed_executor_backend": "ray"}}),
        "models[0].engine_args.distributed_executor_backend",
        "not actors of Ray",
    ),
    # paths and memory
    ({"models": [{"name": "a", "path": "./no"}]}, "models[0].path", "no such directory: /"),
    (
        {"models": [{"name": "a", "path": "org/unknown"}]},
        "models[0].path",
        "HF_HUB_OFFLINE is set",
    ),
    (
        fakes({"footprint": {"awake_gib": 3.1}}, memory={"device_budget_gib": 2}),
        "models[0]",
        "can never be awake: needs 3.1 GiB, budget 2.0 GiB",
    ),
    (
        {
            "memory": {"device_budget_gib": 2},
            "models": [{"name": "a", "path": "x", "footprint": {"weights_gib": 2}}],
        },
        "models[0]",
        "can never be awake: needs 3.8 GiB, budget 2.0 GiB",
    ),
    # keys
    (one(server={"host": "0.0.0.0"}), "server.host", "without keys only loopback is bound"),
    (
        one(server={"keys": [{"name": "a", "roles": ["admin"], "sha256": "abc"}]}),
        "server.keys[0].sha256",
        "must be 64 hexadecimal digits",
    ),
    (
        one(server={"keys": [{"name": "a", "roles": ["root"], "sha256": "0" * 64}]}),
        "server.keys[0].roles[0]",
        "must be one of 'inference' or 'admin'",
    ),
    (
        one(server={"keys": [{"name": "a", "roles": ["admin"], "sha256": "0" * 64}] * 2}),
        "server.keys",
        "the name 'a' is given twice",
    ),
    (one(server={"keys_file": "no.yaml"}), "", "no.yaml: No such file or directory"),
]


@pytest.mark.parametrize(("raw", "path", "reason"), BAD, ids=[f"{p}: {r}" for _, p, r in BAD])
def test_is_refused_with_path_and_reason(tmp_path: Path, raw: Any, path: str, reason: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as refused:
        load(file, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    found = [(problem.path, problem.reason) for problem in refused.value.problems]
    assert len(found) == 1
    assert found[0][0] == path
    assert reason in found[0][1]


TEXTS = [
    ("models: [\n", "line 2: not valid YAML"),
    ("device: cpu\ndevice: cuda\n", "line 2: key 'device' is given twice"),
    ("models:\n- name: a\n  path: x\n  name: b\n", "line 4: key 'name' is given twice"),
    ("models: !!python/object/apply:os.getcwd []\n", "line 1: not valid YAML"),
    ("", "must be a mapping"),
]


@pytest.mark.parametrize(("text", "reason"), TEXTS)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load(file, {})


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    models = [{"name": "a", "path": "./no", "engine_args": {"x": 1}}, {**FAKE, "replicas": 1}]
    file.write_text(yaml.safe_dump({"models": models}))
    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert str(refused.value).splitlines() == [
        "models[1].name: 'a' is the name of models[0] already",
        "models[0].engine_args.x: vLLM has no such argument",
        f"models[0].path: no such directory: {tmp_path}/no",
    ]


def test_a_missing_file_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(tmp_path / "fleet.yaml", {})
    (tmp_path / "fleet.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(tmp_path / "fleet.yaml", {})


def test_a_directory_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\[0\].path: cannot read .*config.json"):
        from_models([str(tmp_path)], {})


def test_the_environment_is_checked_too(tmp_path: Path) -> None:
    directory = write_model(tmp_path, config=LLAMA)
    with pytest.raises(ConfigError, match="TORPOR_DEVICE: must be auto, cpu or cuda, not 'gpu'"):
        from_models([str(directory)], {"TORPOR_DEVICE": "gpu"})
    with pytest.raises(ConfigError, match=r"TORPOR_KEYS\[0\].sha256: is required"):
        from_models([str(directory)], {"TORPOR_KEYS": "[{name: a, roles: [admin]}]"})


def test_a_model_added_at_run_time_is_held_to_the_same(tmp_path: Path) -> None:
    settings = from_models([str(write_model(tmp_path))], {"TORPOR_DEVICE": "cpu"})
    with pytest.raises(ConfigError, match=r"models\[0\].replicas: must be ≥ 1"):
        read_model({**FAKE, "replicas": 0}, settings)
    with pytest.raises(ConfigError, match=r"models\[0\].surprise: unknown key"):
        read_model({**FAKE, "surprise": 1}, settings)
