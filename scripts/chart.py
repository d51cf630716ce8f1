"""What of the chart is made, not written: ``chart.py`` writes it, ``tests/charts`` compares it.

- ``fleet`` in values.schema.json is docs/fleet.schema.json without what the chart decides.
- The table of values in the chart's README is made of the ``# --`` comments in values.yaml.
- The golden renderings in tests/charts/golden are those of the values in tests/charts/cases, by
  helm 4. Their diffs are for people to read.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "torpor"
CASES = ROOT / "tests" / "charts" / "cases"
GOLDEN = ROOT / "tests" / "charts" / "golden"
TOOLS = ROOT / ".torpor" / "tools"
DECIDED = {
    "FleetFile": ("state_dir", "log_dir"),
    "ServerSection": ("host", "port", "keys", "keys_file", "unready_s", "drain_s"),
    "RaySection": ("address",),
}
"""Keys of fleet.yaml that the chart decides, by the section they are in."""
_BEGIN, _END = "<!-- values -->\n", "<!-- /values -->\n"


def schema_text(written: str, fleet: dict[str, Any]) -> str:
    """values.schema.json with ``fleet`` in it."""
    schema = json.loads(written)
    sections = {"FleetFile": {k: v for k, v in fleet.items() if not k.startswith("$")}}
    sections |= fleet["$defs"]
    for name, keys in DECIDED.items():
        properties = sections[name]["properties"]
        sections[name] = sections[name] | {
            "properties": {k: v for k, v in properties.items() if k not in keys}
        }
    own = {name: part for name, part in schema["$defs"].items() if not name.startswith("fleet.")}
    theirs = {f"fleet.{name}": _with_references(part) for name, part in sections.items()}
    # Checked where models are asked for, with a sentence: `helm lint` without values has none.
    theirs["fleet.FleetFile"].pop("required", None)
    schema["$defs"] = own | dict(sorted(theirs.items()))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _with_references(part: Any) -> Any:
    if isinstance(part, dict):
        # A default beside a reference is no part of draft 7, and nobody reads it here.
        kept = {key: value for key, value in part.items() if key != "default" or "$ref" not in part}
        return {key: _with_references(value) for key, value in kept.items()}
    if isinstance(part, list):
        return [_with_references(value) for value in part]
    if isinstance(part, str) and part.startswith("#/$defs/"):
        return part.replace("#/$defs/", "#/$defs/fleet.")
    return part


def documented(values: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and comment of each value that has a comment, in the file's order."""
    path: list[tuple[int, str]] = []
    said: list[str] = []
    for line in values.splitlines():
        comment = re.fullmatch(r" *# (-- )?(.*)", line)
        if comment:
            begun = [] if comment[1] else said
            said = [*begun, comment[2]] if comment[1] or begun else []
            continue
        key = re.fullmatch(r"( *)([A-Za-z]+):(.*?)(?:  # -- (.*))?", line)
        if key:
            while path and path[-1][0] >= len(key[1]):
                path.pop()
            path.append((len(key[1]), key[2]))
            words = [key[4]] if key[4] else said
            if words:
                yield ".".join(name for _, name in path), key[3].strip(), " ".join(words)
        said = []


def value_table(values: str) -> str:
    rows = ["| value | default | meaning |", "|---|---|---|"]
    defaults = yaml.safe_load(values)
    for path, _, meaning in documented(values):
        default: Any = defaults
        for name in path.split("."):
            default = default[name]
        rows.append(f"| `{path}` | `{json.dumps(default)}` | {meaning} |")
    return "\n".join(rows) + "\n"


def readme_text(written: str, values: str) -> str:
    before, _, rest = written.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}\n{value_table(values)}\n{_END}{after}"


def render(helm: str, values: Path, *more: str) -> str:
    """Of ``helm-3`` or ``helm-4``. Raises subprocess.CalledProcessError."""
    command = [TOOLS / helm, "template", "demo", CHART, "--namespace", "models", "--values", values]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    schema = CHART / "values.schema.json"
    fleet = json.loads((ROOT / "docs" / "fleet.schema.json").read_text())
    schema.write_text(schema_text(schema.read_text(), fleet))
    readme = CHART / "README.md"
    readme.write_text(readme_text(readme.read_text(), (CHART / "values.yaml").read_text()))
    for case in sorted(CASES.glob("*.yaml")):
        (GOLDEN / case.name).write_text(render("helm-4", case))


if __name__ == "__main__":
    main()
