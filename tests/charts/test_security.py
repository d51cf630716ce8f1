"""Who may do what, and who may reach whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.charts.renderings import ALL, containers, documents, of_kind, pods, rendered

cases = pytest.mark.parametrize("case", ALL, ids=lambda case: case.stem)
_RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


def breaches(pod: dict[str, Any]) -> list[str]:
    """Of Pod Security's profile "restricted", and writable roots."""
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    if not security.get("runAsNonRoot") or security.get("runAsUser", 0) == 0:
        found.append("root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("seccomp")
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in set(volume) - {"name"} - _RESTRICTED_VOLUMES]
    for container in containers(pod):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append(f"{container['name']}: privileges")
        if own.get("capabilities", {}) != {"drop": ["ALL"]}:
            found.append(f"{container['name']}: capabilities")
        if not own.get("readOnlyRootFilesystem"):
            found.append(f"{container['name']}: writable root")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append(f"{container['name']}: host port")
    return found


@cases
def test_pods_are_restricted(case: Path) -> None:
    for pod in pods(documents(rendered(case))):
        is_worker = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "ray-worker"
        allowed = ["volume hostPath"] if is_worker and case.stem == "full" else []
        assert breaches(pod) == allowed, pod["from"]


def test_a_breach_is_noticed() -> None:
    pod = next(pods(documents(rendered(ALL[0]))))
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    assert len(breaches(pod)) == 4


@cases
def test_nobody_has_rights(case: Path) -> None:
    found = documents(rendered(case))
    kinds = {document["kind"] for document in found}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Secret"}
    for account in of_kind(found, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for pod in pods(found):
        assert pod["spec"]["automountServiceAccountToken"] is False


@cases
def test_secrets_come_from_secrets(case: Path) -> None:
    for pod in pods(documents(rendered(case))):
        for container in containers(pod):
            for variable in container.get("env", []):
                if variable["name"].endswith(("_TOKEN", "_PASSWORD")):
                    assert "secretKeyRef" in variable["valueFrom"]


@cases
def test_every_container_says_what_it_takes(case: Path) -> None:
    for pod in pods(documents(rendered(case))):
        for container in containers(pod):
            resources = container["resources"]
            assert set(resources["requests"]) >= {"cpu", "memory"}, container["name"]
            assert "memory" in resources["limits"], container["name"]


@pytest.mark.parametrize(("case", "is_exposed"), [("trial", False), ("full", True)])
def test_the_fleet_is_exposed_on_request_only(case: str, is_exposed: bool) -> None:
    found = documents(rendered(ALL[0].parent / f"{case}.yaml"))
    paths = [
        path["path"]
        for ingress in of_kind(found, "Ingress")
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    ]
    routes = [
        match["path"]["value"]
        for route in of_kind(found, "HTTPRoute")
        for match in route["spec"]["rules"][0]["matches"]
    ]
    assert "/v1" in paths
    assert ("/fleet" in paths) is is_exposed
    assert ("/fleet" in routes) is is_exposed
    assert not {"/", "/metrics", "/docs"} & {*paths, *routes}


@cases
def test_keys_are_always_there(case: Path) -> None:
    """The controller refuses to bind anything but loopback without."""
    controller = of_kind(documents(rendered(case)), "Deployment")[0]["spec"]["template"]["spec"]
    config = next(v for v in controller["volumes"] if v["name"] == "config")
    secret = config["projected"]["sources"][1]["secret"]
    assert secret["name"] == "torpor-keys"
    assert secret["items"][0]["path"] == "keys.yaml"


# networks


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    asked = selector.get("matchExpressions", [])
    return all(labels.get(one["key"]) in one["values"] for one in asked)


def reaches(found: list[dict[str, Any]], source: str, target: str, port: str | None) -> bool:
    """May a Pod of one component open ``port`` (None: any) of another's?"""
    by_component = {p["metadata"]["labels"]["app.kubernetes.io/component"]: p for p in pods(found)}
    to = by_component[target]["metadata"]["labels"]
    of = {} if source == "stranger" else by_component[source]["metadata"]["labels"]
    policies = [p["spec"] for p in of_kind(found, "NetworkPolicy")]
    chosen = [policy for policy in policies if selects(policy["podSelector"], to)]
    assert chosen, f"no policy selects {target}"
    return any(
        selects(peer["podSelector"], of)
        for policy in chosen
        for rule in policy["ingress"]
        if "ports" not in rule or port in [p["port"] for p in rule["ports"]]
        for peer in rule["from"]
        if "podSelector" in peer
    )


REACHED = [
    ("stranger", "controller", "http", True),
    ("stranger", "controller", None, False),
    ("stranger", "ray-head", None, False),
    ("stranger", "ray-worker", None, False),
    ("stranger", "valkey", "valkey", False),
    ("valkey", "ray-worker", None, False),
    ("controller", "ray-head", None, True),
    ("controller", "ray-worker", None, True),
    ("controller", "valkey", "valkey", True),
    ("ray-worker", "ray-head", None, True),
    ("ray-worker", "ray-worker", None, True),
    ("ray-worker", "controller", None, True),
    ("ray-worker", "valkey", "valkey", True),
    ("ray-head", "valkey", "valkey", False),
]


@pytest.mark.parametrize(("source", "target", "port", "may"), REACHED)
def test_who_reaches_whom(source: str, target: str, port: str | None, may: bool) -> None:
    found = documents(rendered(ALL[0].parent / "trial.yaml"))
    assert reaches(found, source, target, port) is may


def test_only_named_clients_reach_the_controller() -> None:
    found = documents(rendered(ALL[0].parent / "full.yaml"))
    assert not reaches(found, "stranger", "controller", "http")
