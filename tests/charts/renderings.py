"""What the chart makes of the cases: documents, the Pods in them, fleet.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from scripts.chart import CASES, render

HELMS = ("helm-3", "helm-4")
ALL = sorted(CASES.glob("*.yaml"))
OTHERS = ("RayCluster", "HTTPRoute", "ServiceMonitor", "ScaledObject")
"""Kinds that Kubernetes itself does not know."""
_TEMPLATED = ("Deployment", "StatefulSet", "Job")


@cache
def rendered(case: Path, helm: str = "helm-4", *more: str) -> str:
    return render(helm, case, *more)


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(found: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [document for document in found if document["kind"] in kinds]


def pods(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Templates of Pods, each with the name of what makes it."""
    for document in found:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] in _TEMPLATED:
            yield {"from": name, **document["spec"]["template"]}
        elif document["kind"] == "RayCluster":
            groups = [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]
            for group in groups:
                yield {"from": f"{name}/{group.get('groupName', 'head')}", **group["template"]}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def fleet_text(found: list[dict[str, Any]]) -> str:
    maps = of_kind(found, "ConfigMap")
    return next(m["data"]["fleet.yaml"] for m in maps if "fleet.yaml" in m["data"])
