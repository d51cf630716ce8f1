"""What is measured, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.running import BenchError

LEVELS = {"kv_released": 0, "level_1": 1, "level_2": 2}
"""By the name that reports and cost tables have, the level that the fleet API takes."""
AGAINST = ("vllm", "vllm-defaults")
Against = Literal["vllm", "vllm-defaults"]

_WRITTEN = {"0": "kv_released", "1": "level_1", "2": "level_2"} | {name: name for name in LEVELS}


@dataclass(frozen=True, slots=True)
class Options:
    models: tuple[str, ...] = ()
    """None: every model of the fleet."""
    levels: tuple[str, ...] = tuple(LEVELS)
    repeats: int = 5
    against: tuple[str, ...] = ()
    cycles: int = 0
    """So many sleeps and wakes at each level, and nothing else. 0: everything else."""
    switches: int = 5
    """In a row, with each level and with stop and cold start; 0: none."""


def parse_levels(written: str) -> tuple[str, ...]:
    """``kv_released,1,2`` as names, at least one. Raises BenchError."""
    named = [_one_of(_WRITTEN, word, "a level") for word in _words(written)]
    if not named:
        raise BenchError("--levels names none")
    return tuple(dict.fromkeys(named))


def parse_models(written: str | None) -> tuple[str, ...]:
    return _words(written or "")


def parse_against(written: Sequence[str]) -> tuple[str, ...]:
    known = {side: side for side in AGAINST}
    return tuple(dict.fromkeys(_one_of(known, word, "known to --against") for word in written))


def _words(written: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in written.split(",") if word.strip())


def _one_of(known: dict[str, str], word: str, what: str) -> str:
    if word not in known:
        raise BenchError(f"{word!r} is not {what}: {', '.join(sorted(known))}")
    return known[word]
