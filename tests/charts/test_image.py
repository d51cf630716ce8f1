"""The Dockerfile, as far as it can be told without a Docker engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from scripts.chart import CHART, ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = {
    name: (base, body)
    for base, name, body in re.findall(
        r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S
    )
}


def lineage(stage: str) -> list[str]:
    """The stage and what it is built on, youngest first."""
    found = [stage]
    while STAGES[found[-1]][0] in STAGES:
        found.append(STAGES[found[-1]][0])
    return found


def copied() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
    return [source for line in lines for source in line.split()[:-1]]


def test_hadolint_has_nothing_to_say(tools: Path, run: Any) -> None:
    done = run(
        tools / "python" / "bin" / "hadolint",
        "--failure-threshold",
        "ignore",
        "Dockerfile",
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say_something(tools: Path, run: Any, tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN sudo apt-get install x\n")
    done = run(tools / "python" / "bin" / "hadolint", bad)
    assert done.returncode != 0


def test_every_base_is_pinned_by_one_argument() -> None:
    outside = {base for base, _ in STAGES.values()} - set(STAGES)
    assert outside == {"${BASE_IMAGE}"}
    assert re.search(r"^ARG BASE_IMAGE=[a-z0-9.:/-]+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.M)


def test_both_targets_run_as_nobody_special() -> None:
    for target in ("cpu", "cuda"):
        said = "".join(STAGES[stage][1] for stage in reversed(lineage(target)))
        assert re.findall(r"^USER (.*)$", said, re.M) == ["1000:1000"]
        assert "HEALTHCHECK" in said
        assert "org.opencontainers.image.version" in said


def test_each_target_has_its_packages() -> None:
    for target in ("cpu", "cuda"):
        assert f"COPY --from=environment-{target} /opt/torpor /opt/torpor" in STAGES[target][1]
        assert f"TORPOR_DEVICE={target} scripts/setup" in STAGES[f"environment-{target}"][1]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    for source in copied():
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_the_whole_project_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*packages, project["project"]["readme"], "pyproject.toml"} <= set(copied())


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lock = (ROOT / "requirements" / "cuda.txt").read_text()
    assert f"ARG VERSION={version}\n" in DOCKERFILE
    assert chart["appVersion"] == version
    assert f"\nray=={values['ray']['version']} " in lock
