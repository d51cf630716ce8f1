"""What is done to a process: it is killed, stopped for a while, or slowed for a while."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from itertools import product

import psutil

from benchmarks.chaos.parts import Part
from benchmarks.running import BenchError

_SLICE_S = 0.05
_SLOW_SHARE = 0.9
"""Of each slice a slowed process stands still for so much."""
_NEVER = frozenset({"stop-core", "slow-core"})
"""The same as stopping and slowing its engine: those wait for each other."""


class Deed(Enum):
    KILL = "kill"
    STOP = "stop"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Kind:
    deed: Deed
    part: Part

    @property
    def name(self) -> str:
        return f"{self.deed.value}-{self.part.value}"


KINDS = {
    kind.name: kind
    for kind in (Kind(deed, part) for deed, part in product(Deed, Part))
    if kind.name not in _NEVER
}


def parse(names: tuple[str, ...]) -> list[Kind]:
    """Raises BenchError for a name that there is not."""
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise BenchError(f"no fault {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return [KINDS[name] for name in names] or list(KINDS.values())


async def do(deed: Deed, process: psutil.Process, hold_s: float) -> None:
    """Whatever happens meanwhile, what was stopped goes on."""
    try:
        match deed:
            case Deed.KILL:
                process.kill()
            case Deed.STOP:
                process.suspend()
                await asyncio.sleep(hold_s)
            case Deed.SLOW:
                await _slow(process, hold_s)
    except psutil.NoSuchProcess:
        return
    finally:
        if deed is not Deed.KILL:
            _resume(process)


async def _slow(process: psutil.Process, hold_s: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + hold_s
    while loop.time() < until:
        process.suspend()
        await asyncio.sleep(_SLOW_SHARE * _SLICE_S)
        process.resume()
        await asyncio.sleep((1 - _SLOW_SHARE) * _SLICE_S)


def _resume(process: psutil.Process) -> None:
    try:
        process.resume()
    except psutil.NoSuchProcess:
        return
