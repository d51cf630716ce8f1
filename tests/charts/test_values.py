"""The values: each documented, each with an effect, wrong ones refused; and fleet.yaml of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.config_schema import MemorySection
from controller.memory_budget import MemoryBudget
from controller.ports import NodeFound
from scripts.chart import CHART, ROOT, documented, readme_text, render, schema_text
from tests.charts.renderings import ALL, HELMS, documents, fleet_text, of_kind, pods, rendered
from workers.capacity import gpu_names

VALUES = (CHART / "values.yaml").read_text()
DEFAULTS = yaml.safe_load(VALUES)
DOCUMENTED = [path for path, _, _ in documented(VALUES)]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
MIB = 1 << 20
cases = pytest.mark.parametrize("case", ALL, ids=lambda case: case.stem)

Attempt = Callable[..., str]


@pytest.fixture
def attempt(tmp_path: Path, tools: Path) -> Attempt:
    """Values → the rendering, or what helm says against them."""

    def attempted(values: dict[str, Any], helm: str = "helm-4") -> str:
        written = tmp_path / "values.yaml"
        written.write_text(yaml.safe_dump(values))
        try:
            return render(helm, written)
        except subprocess.CalledProcessError as refused:
            return f"refused: {refused.stderr}"

    return attempted


def values_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ALL[0].parent / f"{name}.yaml").read_text())
    return found


# made, not written


def test_the_schema_has_the_schema_of_fleet_yaml() -> None:
    """After a change of fleet.yaml's schema: scripts/chart.py."""
    written = (CHART / "values.schema.json").read_text()
    fleet = json.loads((ROOT / "docs" / "fleet.schema.json").read_text())
    assert schema_text(written, fleet) == written


def test_the_readme_has_the_values() -> None:
    written = (CHART / "README.md").read_text()
    assert readme_text(written, VALUES) == written


@pytest.mark.parametrize("text", ["docs/kubernetes.md", "charts/torpor/README.md"])
def test_the_least_that_the_texts_show_is_rendered(text: str, attempt: Attempt) -> None:
    shown = (ROOT / text).read_text().split("```yaml\n")[1].split("```")[0]
    assert len(of_kind(documents(attempt(yaml.safe_load(shown))), "RayCluster")) == 1


# every value


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        here = f"{path}{key}"
        if isinstance(value, dict) and value and here not in DOCUMENTED:
            yield from leaves(value, f"{here}.")
        else:
            yield here


def test_every_value_is_documented() -> None:
    assert list(leaves(DEFAULTS)) == DOCUMENTED


def test_every_value_is_in_the_schema() -> None:
    for path in DOCUMENTED:
        node = SCHEMA
        for name in path.split("."):
            node = node["properties"][name]
    assert set(DEFAULTS) == set(SCHEMA["properties"]) - {"global"}


@pytest.mark.parametrize("path", DOCUMENTED)
def test_every_value_has_an_effect(path: str, attempt: Attempt) -> None:
    """Some case sets it, and is rendered otherwise without."""
    *parents, last = path.split(".")
    tried = 0
    for case in ALL:
        values = yaml.safe_load(case.read_text())
        node = values
        for name in parents:
            node = node.get(name, {})
        if last in node:
            tried += 1
            del node[last]
            if attempt(values) != rendered(case):
                return
    pytest.fail(f"set in {tried} cases, without effect")


GROUP_KEYS = sorted(SCHEMA["$defs"]["workerGroup"]["properties"])


@pytest.mark.parametrize("key", GROUP_KEYS)
def test_every_key_of_a_group_is_documented_and_has_an_effect(key: str, attempt: Attempt) -> None:
    assert f"| `{key}` |" in (CHART / "README.md").read_text()
    values = values_of("full")
    groups = [group for group in values["workerGroups"] if key in group]
    for group in groups:
        del group[key]
    assert groups
    assert attempt(values) != rendered(ALL[0].parent / "full.yaml")


# wrong values

WRONG: dict[str, tuple[str, str]] = {
    "unknown": ("nope: 1", "nope"),
    "unknown below": ("image: {nope: 1}", "nope"),
    "unknown in fleet": ("fleet: {modles: []}", "modles"),
    "decided by the chart": ("fleet: {server: {port: 1}}", "port"),
    "decided by the chart, Ray": ("fleet: {ray: {address: 'a:1'}}", "address"),
    "negative": ("fleet: {timeouts: {start_s: -1}}", "start_s"),
    "depth": ("fleet: {policy: {evict_to: deep}}", "evict_to"),
    "no model path": ("fleet: {models: [{name: a}]}", "path"),
    "drain": ("controller: {drainSeconds: soon}", "drainSeconds"),
    "digest": ("image: {digest: latest}", "digest"),
    "policy": ("image: {pullPolicy: Sometimes}", "pullPolicy"),
    "group without a budget": ("workerGroups: [{name: a, cpus: 1}]", "budgetGib"),
    "group's name": ("workerGroups: [{name: A_b, cpus: 1, budgetGib: 1}]", "name"),
    "both": (
        "workerGroups: [{name: a, cpus: 1, budgetGib: 1, replicas: 1,"
        " autoscaling: {minReplicas: 0, maxReplicas: 1}}]",
        "workerGroups",
    ),
    "password in the address": ("redis: {url: 'redis://me:secret@host:1'}", "url"),
    "revision": (
        "weights: {download: [{directory: a, repo: b, revision: '$(x)', sha256: {c: d}}]}",
        "revision",
    ),
    "no checksum": (
        "weights: {download: [{directory: a, repo: b, revision: c, sha256: {}}]}",
        "sha256",
    ),
    "service": ("service: {type: ExternalName}", "type"),
    "port": ("service: {port: 70000}", "port"),
    "size": ("cache: {size: large}", "size"),
    "address": ("ray: {address: host}", "address"),
    "upgrade": ("ray: {upgradeStrategy: Rolling}", "upgradeStrategy"),
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("wrong", WRONG)
def test_the_schema_refuses(wrong: str, helm: str, attempt: Attempt) -> None:
    change, named = WRONG[wrong]
    said = attempt(_changed(values_of("gpu"), yaml.safe_load(change)), helm)
    assert said.startswith("refused")
    assert "schema" in said
    assert named in said


REFUSED: dict[str, tuple[str, str, str]] = {
    "no model": ("gpu", "fleet: {models: []}", "fleet"),
    "no keys": ("gpu", "keys: {existingSecret: ''}", "keys.existingSecret is required"),
    "no token": ("gpu", "ray: {tokenSecret: ''}", "ray.tokenSecret is required"),
    "no nodes": ("gpu", "workerGroups: []", "at least one is needed"),
    "two budgets": ("gpu", "fleet: {memory: {host_budget_gib: 1}}", "write budgetGib"),
    "one name twice": (
        "gpu",
        "workerGroups: [{name: a, cpus: 1, gpus: 1, budgetGib: 64},"
        " {name: a, cpus: 1, gpus: 1, budgetGib: 64}]",
        "two are named a",
    ),
    "two kinds of device": (
        "gpu",
        "workerGroups: [{name: a, cpus: 1, gpus: 1, budgetGib: 64},"
        " {name: b, cpus: 1, budgetGib: 64}]",
        "b has no GPU",
    ),
    "GPUs for a CPU fleet": ("gpu", "fleet: {device: cpu}", "h100 has GPUs"),
    "no room for /dev/shm": (
        "gpu",
        "workerGroups: [{name: a, cpus: 1, gpus: 1, budgetGib: 2, shmGib: 1}]",
        "/dev/shm may take 1024",
    ),
    "models that need more": (
        "gpu",
        "workerGroups: [{name: a, cpus: 1, gpus: 1, budgetGib: 2}]",
        "may need 1152 MiB of /dev/shm, and a node of a has 256",
    ),
    "more GPUs than a node has": (
        "gpu",
        "workerGroups: [{name: a, replicas: 4, cpus: 1, gpus: 1, budgetGib: 64}]",
        "qwen3-32b takes 2 GPUs of one node, and no worker group has more than 1",
    ),
    "no room for KV": ("trial", "fleet: {kv: {host_gib: 8}}", "takes all of the budgetGib of cpu"),
    "nobody to begin with": (
        "full",
        "workerGroups: [{name: a, cpus: 1, gpus: 1, budgetGib: 64,"
        " autoscaling: {minReplicas: 0, maxReplicas: 1}}]",
        "one must keep a node",
    ),
    "an authority for nothing": ("trial", "redis: {caSecret: ca}", "redis.caSecret is for"),
    "KEDA without Prometheus": (
        "full",
        "keda: {prometheusAddress: ''}",
        "needs keda.prometheusAddress",
    ),
    "upside down": (
        "full",
        "workerGroups: [{name: a, cpus: 1, gpus: 1, budgetGib: 64,"
        " autoscaling: {minReplicas: 2, maxReplicas: 1}}]",
        "more minReplicas",
    ),
    "two homes of weights": ("gpu", "weights: {size: 1Gi}", "only one of"),
    "download to nowhere": (
        "trial",
        "weights: {size: '', hostPath: /srv}",
        "weights.download needs a claim",
    ),
    "weights that nobody has seen": (
        "full",
        "fleet: {models: [{name: a, path: /weights/a}]}",
        "needs footprint.weights_gib",
    ),
    "two Redis": ("trial", "redis: {url: 'redis://a:1'}", "only one of them"),
    "Valkey for all": ("trial", "redis: {existingSecret: ''}", "needs redis.existingSecret"),
    "Ingress to nowhere": ("trial", "ingress: {host: ''}", "ingress.host is required"),
    "route from nowhere": ("full", "httpRoute: {parentRefs: []}", "at least one Gateway"),
    "metrics without a key": (
        "full",
        "serviceMonitor: {existingSecret: ''}",
        "serviceMonitor.existingSecret is required",
    ),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_is_refused(wrong: str, attempt: Attempt) -> None:
    case, change, reason = REFUSED[wrong]
    said = attempt(_changed(values_of(case), yaml.safe_load(change)))
    assert said.startswith("refused")
    assert reason in said


def _changed(values: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _changed(values[key], value)
        else:
            values[key] = value
    return values


# fleet.yaml


@cases
@pytest.mark.parametrize("helm", HELMS)
def test_torpor_takes_the_fleet_yaml(case: Path, helm: str, tmp_path: Path, run: Any) -> None:
    """As the Pod sees it: the ConfigMap's and the Secret's files in one directory, and its
    environment."""
    found = documents(rendered(case, helm))
    written = fleet_text(found)
    (tmp_path / "fleet.yaml").write_text(written)
    entry = {"name": "operator", "roles": ["admin"], "sha256": "0" * 64}
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    [controller] = of_kind(found, "Deployment")[0]["spec"]["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value", "0" * 64) for one in controller["env"]}
    ours = {name: value for name, value in told.items() if name.startswith(("TORPOR_", "AWS_"))}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TORPOR_DEVICE": "auto", **ours}
    command = [sys.executable, "-m", "controller.cli", "validate", tmp_path / "fleet.yaml"]
    done = run(*command, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@cases
def test_fleet_yaml_is_the_values_and_what_the_chart_decides(case: Path) -> None:
    values = yaml.safe_load(case.read_text())
    given = values["fleet"]
    made = yaml.safe_load(fleet_text(documents(rendered(case))))
    for key in ("models", "policy", "defaults", "journal", "log_level"):
        assert made.get(key) == given.get(key)
    drain_s = values.get("controller", {}).get("drainSeconds", 60)
    decided = {"host": "0.0.0.0", "port": 8000, "keys_file": "keys.yaml"}
    decided |= {"unready_s": 5, "drain_s": drain_s}
    assert made["log_dir"] == "-"
    assert made["server"] == given.get("server", {}) | decided
    assert made["state_dir"] == "/var/lib/torpor"


# sizes


@cases
def test_the_ledger_finds_the_groups_budget(case: Path) -> None:
    values = yaml.safe_load(case.read_text())
    found = documents(rendered(case))
    made = yaml.safe_load(fleet_text(found))
    memory = MemoryBudget.of(MemorySection.model_validate(made.get("memory", {})))
    by_group = {pod["metadata"]["labels"].get("torpor.dev/group"): pod for pod in pods(found)}
    for group in values["workerGroups"]:
        resources = by_group[group["name"]]["spec"]["containers"][0]["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        limit = int(resources["limits"]["memory"].removesuffix("Mi")) * MIB
        on_cpu = made["device"] == "cpu"
        node = NodeFound("node", (("cpu", limit if on_cpu else 80 << 30),), limit)
        usable = memory.limit(node)
        budget = usable.devices[0][1] if on_cpu else usable.host_bytes
        assert 0 <= budget - group["budgetGib"] * 1024 * MIB < MIB


def declared(found: list[dict[str, Any]], group: str) -> dict[str, float]:
    """The resources that a group's nodes tell Ray of, as bash reads them."""
    for cluster in of_kind(found, "RayCluster"):
        for made in cluster["spec"]["workerGroupSpecs"]:
            if made["groupName"] == group:
                return dict(
                    json.loads(shlex.split(made["rayStartParams"].get("resources", "{}"))[0])
                )
    pod = next(p for p in pods(found) if p["metadata"]["labels"].get("torpor.dev/group") == group)
    words = shlex.split(pod["spec"]["containers"][0]["command"][-1])
    [resources] = [word for word in words if word.startswith("--resources=")]
    return dict(json.loads(resources.removeprefix("--resources=")))


@cases
def test_ray_is_told_of_gpus_by_the_ledgers_names(case: Path) -> None:
    found = documents(rendered(case))
    for group in yaml.safe_load(case.read_text())["workerGroups"]:
        assert declared(found, group["name"]) == dict.fromkeys(gpu_names(group.get("gpus", 0)), 1)


@cases
def test_shared_memory_fits_beside_the_budget(case: Path) -> None:
    values = yaml.safe_load(case.read_text())
    by_group = {
        pod["metadata"]["labels"].get("torpor.dev/group"): pod
        for pod in pods(documents(rendered(case)))
    }
    for group in values["workerGroups"]:
        spec = by_group[group["name"]]["spec"]
        shm = next(v for v in spec["volumes"] if v["name"] == "shm")["emptyDir"]
        limit = spec["containers"][0]["resources"]["limits"]["memory"]
        size = int(shm["sizeLimit"].removesuffix("Mi"))
        kv = values["fleet"].get("kv", {"host_gib": 0})["host_gib"] * 1024
        assert shm["medium"] == "Memory"
        assert size - kv >= 1024
        assert size - kv + group["budgetGib"] * 1024 <= int(limit.removesuffix("Mi"))


def test_time_outs_outlast_a_wake() -> None:
    """The most patient model's wait and a response after it."""
    full = documents(rendered(ALL[0].parent / "full.yaml"))
    route = of_kind(full, "HTTPRoute")[0]["spec"]["rules"][0]
    assert route["timeouts"] == {"request": "1020s", "backendRequest": "1020s"}
    trial = documents(rendered(ALL[0].parent / "trial.yaml"))
    annotations = of_kind(trial, "Ingress")[0]["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "900"
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_keda_asks_for_metrics_that_there_are() -> None:
    [scaled] = of_kind(documents(rendered(ALL[0].parent / "full.yaml")), "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    asked = {name for query in queries for name in re.findall(r"torpor_\w+", query)}
    known = (ROOT / "docs" / "api.md").read_text()
    assert len(asked) == 2
    assert all(f"| `{name.removesuffix('_bucket')}` |" in known for name in asked)


def test_a_drain_ends_before_its_pod_does() -> None:
    for case in ALL:
        controller = of_kind(documents(rendered(case)), "Deployment")[0]["spec"]["template"]["spec"]
        server = yaml.safe_load(fleet_text(documents(rendered(case))))["server"]
        leaves_s = server["unready_s"] + server["drain_s"]
        assert server["unready_s"] > 0
        assert leaves_s + 30 < controller["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("case", ["gpu", "joined", "trial"])
def test_no_pod_is_another_one_for_other_models(case: str, attempt: Attempt) -> None:
    """Engines would go with it, of all models."""
    values = values_of(case)
    before = list(pods(documents(attempt(values))))
    [*models, last] = values["fleet"]["models"]
    more = {"name": "more", "replicas": {"min": 1, "max": 2}, "max_wait_s": 900}
    values["fleet"]["models"] = [*models, last, last | more]
    assert list(pods(documents(attempt(values)))) == before
    values["workerGroups"][0]["budgetGib"] += 1
    assert list(pods(documents(attempt(values)))) != before


def test_an_authority_is_where_those_look_who_speak_to_redis() -> None:
    found = documents(rendered(ALL[0].parent / "full.yaml"))
    path = Path(yaml.safe_load(fleet_text(found))["kv"]["redis_ca"])
    for pod in pods(found):
        mounts = [mount for c in pod["spec"]["containers"] for mount in c["volumeMounts"]]
        names = [m["name"] for m in mounts if m["mountPath"] == str(path.parent)]
        head = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "ray-head"
        assert names == ([] if head else ["redis-ca"])
        items = [v["secret"]["items"] for v in pod["spec"]["volumes"] if v["name"] in names]
        assert items == [[{"key": "ca.crt", "path": path.name}]] * len(names)


def test_models_are_taken_over_while_the_pod_runs_and_the_rest_by_another(
    attempt: Attempt,
) -> None:
    def mark(**changes: Any) -> str:
        values = values_of("gpu")
        values["controller"] = changes.pop("controller", {})
        values["fleet"] |= changes
        pod = of_kind(documents(attempt(values)), "Deployment")[0]["spec"]["template"]
        return str(pod["metadata"]["annotations"]["torpor.dev/fleet"])

    models = [{"name": "other", "path": "/models/other", "replicas": {"min": 2, "max": 3}}]
    other = {"models": models}
    always = {"controller": {"restartOnChange": True}}
    assert mark(**other) == mark()
    assert mark(log_level="debug") != mark()
    assert mark(**other, **always) != mark(**always)
