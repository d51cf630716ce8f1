"""What is wrong with a configuration: every problem with its key path and reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_REASONS = {
    "missing": "is required",
    "string_type": "must be a string (quote it)",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "finite_number": "must be a finite number",
}
_LIMITS = {
    "greater_than_equal": ("≥", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("≤", "le"),
    "less_than": ("<", "lt"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    """Where in the file, e.g. ``models[1].idle.level_1_s``; empty: the file as a whole."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class ConfigError(Exception):
    """The configuration is refused; ``problems`` are all that were found, at least one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def key_path(loc: Iterable[str | int]) -> str:
    """``("models", 1, "name")`` → ``models[1].name``."""
    path = ""
    for step in loc:
        if str(step).startswith("<"):  # a tag: one of several ways to write a value
            continue
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)``, or nothing."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def from_pydantic(errors: Iterable[ErrorDetails], known: Iterable[str]) -> list[Problem]:
    """pydantic's findings in our words; ``known`` are keys that a misspelling may have meant."""
    words = list(known)
    return [Problem(key_path(error["loc"]), _reason(error, words)) for error in errors]


def _reason(error: ErrorDetails, known: list[str]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _REASONS:
        return _REASONS[kind]
    if kind in _LIMITS:
        sign, key = _LIMITS[kind]
        return f"must be {sign} {_number(context[key])}"
    if kind == "extra_forbidden":
        return "unknown key" + did_you_mean(str(error["loc"][-1]), known)
    if kind == "literal_error":
        return f"must be one of {context['expected']}"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters"
    return str(error["msg"]).removeprefix("Value error, ")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
