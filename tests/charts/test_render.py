"""The renderings: linted, alike in both helms, as reviewed, and valid for those who read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from scripts.chart import CHART, GOLDEN
from tests.charts.renderings import ALL, HELMS, OTHERS, documents, of_kind, pods, rendered

KUBERNETES = ("1.29.0", "1.37.0")
"""The oldest that the chart is declared for, and the youngest that is known here."""
cases = pytest.mark.parametrize("case", ALL, ids=lambda case: case.stem)


@cases
@pytest.mark.parametrize("helm", HELMS)
def test_is_linted(case: Path, helm: str, tools: Path, run: Any) -> None:
    done = run(tools / helm, "lint", "--strict", CHART, "--values", case)
    assert done.returncode == 0, done.stdout + done.stderr


@cases
def test_both_helms_render_the_same(case: Path) -> None:
    one, other = (documents(rendered(case, helm)) for helm in HELMS)
    assert one == other


@cases
def test_is_as_reviewed(case: Path) -> None:
    """After a change on purpose: scripts/chart.py, and read the diff."""
    assert rendered(case) == (GOLDEN / case.name).read_text()


def test_no_golden_is_left_over() -> None:
    assert [path.name for path in sorted(GOLDEN.iterdir())] == [case.name for case in ALL]


@pytest.mark.parametrize("helm", HELMS)
def test_an_older_kubernetes_is_refused(helm: str, tools: Path, run: Any) -> None:
    done = run(tools / helm, "template", CHART, "--values", ALL[0], "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert "1.28" in done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_it(version: str, tools: Path, run: Any, tmp_path: Path) -> None:
    """Objects of its own kinds, and the Pods that KubeRay makes, with no unknown field."""
    found = [document for case in ALL for document in documents(rendered(case))]
    own = [document for document in found if document["kind"] not in OTHERS]
    made = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "made", **pod["metadata"]},
            "spec": pod["spec"],
        }
        for pod in pods(of_kind(found, "RayCluster"))
    ]
    assert len(own) > 20
    assert len(made) > 4
    written = tmp_path / "all.yaml"
    written.write_text(yaml.safe_dump_all(own + made))
    validate = tools / "python" / "bin" / "kubernetes-validate"
    done = run(validate, "--strict", "--kubernetes-version", version, written)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_kuberay_takes_it(raycluster_schema: dict[str, Any]) -> None:
    strict = jsonschema.Draft202012Validator(_strict(raycluster_schema))
    found = [d for case in ALL for d in of_kind(documents(rendered(case)), "RayCluster")]
    assert len(found) == 3
    for cluster in found:
        problems = list(strict.iter_errors(cluster))
        assert problems == []


def test_an_unknown_field_of_a_raycluster_is_noticed(raycluster_schema: dict[str, Any]) -> None:
    strict = jsonschema.Draft202012Validator(_strict(raycluster_schema))
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": {"rayVerson": "2.60.0"}}
    assert any("rayVerson" in problem.message for problem in strict.iter_errors(cluster))


def _strict(schema: Any) -> Any:
    """As the API server reads a structural schema: unknown fields are errors."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(part) for key, part in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    is_open = made.get("x-kubernetes-preserve-unknown-fields")
    if made.get("type") == "object" and "properties" in made and not is_open:
        made.setdefault("additionalProperties", False)
    return made


# Gateway API, Prometheus operator, KEDA


def _foreign() -> list[dict[str, Any]]:
    found = [document for case in ALL for document in documents(rendered(case))]
    return of_kind(found, "HTTPRoute", "ServiceMonitor", "ScaledObject")


def test_gateway_prometheus_and_keda_take_it(tools: Path, run: Any) -> None:
    found = _foreign()
    assert {document["kind"] for document in found} == set(OTHERS) - {"RayCluster"}
    assert _problems(found, tools, run) == []


def test_what_they_would_not_take_is_noticed(tools: Path, run: Any) -> None:
    route, monitor, scaled = (
        next(d for d in _foreign() if d["kind"] == kind)
        for kind in ("HTTPRoute", "ServiceMonitor", "ScaledObject")
    )
    route["spec"]["rules"][0]["timeouts"]["request"] = "ten minutes"
    monitor["spec"]["endpoint"] = []
    del scaled["spec"]["scaleTargetRef"]
    said = "\n".join(_problems([route, monitor, scaled], tools, run))
    assert "timeouts/request must match pattern" in said
    assert '"endpoint"\' does not exist' in said
    assert "must have required property scaleTargetRef" in said


def _problems(found: list[dict[str, Any]], tools: Path, run: Any) -> list[str]:
    script = Path(__file__).with_name("schemas") / "validate.mjs"
    done = run("node", script, tools / "schemas", input=json.dumps(found))
    assert done.returncode == 0, done.stderr
    problems: list[str] = json.loads(done.stdout)
    return problems
