"""The tools that prove the chart: fetched once, by scripts/chart-tools.

Without them these tests are skipped; with TORPOR_REQUIRE_ALL=1 their absence is a failure.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.chart import ROOT, TOOLS

_CRDS = Path(os.environ.get("TORPOR_CRDS") or ROOT.parent / "shared" / "k8s" / "crds")
"""CustomResourceDefinitions of KubeRay, which no package carries."""


@pytest.fixture(scope="session", autouse=True)
def tools() -> Path:
    got = subprocess.run([ROOT / "scripts" / "chart-tools"], capture_output=True, text=True)
    if got.returncode:
        said = f"scripts/chart-tools: {got.stderr.strip()[-500:]}"
        if os.environ.get("TORPOR_REQUIRE_ALL") == "1":
            pytest.fail(said)
        pytest.skip(said)
    return TOOLS


@pytest.fixture(scope="session")
def raycluster_schema() -> dict[str, Any]:
    """Skipped where KubeRay's definition is not to be had, whatever is required: a rendering is
    still compared with the golden one, and that one was held against it."""
    path = _CRDS / "rayclusters.yaml"
    if not path.exists():
        pytest.skip(f"no {path}: set TORPOR_CRDS to a directory with KubeRay's definitions")
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    found: dict[str, Any] = next(v for v in versions if v["name"] == "v1")
    return dict(found["schema"]["openAPIV3Schema"])


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    def ran(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, **more)

    return ran
