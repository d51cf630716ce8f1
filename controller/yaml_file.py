"""YAML as configuration wants it: safe, and a key written twice is an error, not a surprise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from controller.config_errors import ConfigError, Problem


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError([Problem("", f"line {line}: key {key.value!r} is given twice")])
            seen.add(key.value if isinstance(key.value, str) else repr(key))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Raises ConfigError naming the line, for what is not YAML or names a key twice."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError([Problem("", f"{where}not valid YAML: {reason}")]) from error


def read_yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError([Problem("", f"cannot read {path}: {reason}")]) from error
    return parse_yaml(text)
