"""Who must go so that a model can be swapped in, and where it then is.

Memory is booked as the core books it: by device, and by node for the host. Of several devices the
one is taken on which those go who were used longest ago; a model that sleeps wakes where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.simulate.prices import Price
from controller.core.names import NOTHING, Depth, Footprint, ModelName
from controller.ports import NodeFound

LONG_AGO = float("-inf")


@dataclass(slots=True)
class Engine:
    """A model's one engine."""

    model: ModelName
    price: Price
    depth: Depth = Depth.STOPPED
    node: str = ""
    device: str = ""
    running: int = 0
    used_at: float = LONG_AGO
    is_moving: bool = False

    def at(self, depth: Depth) -> Footprint:
        return NOTHING if depth is Depth.STOPPED else self.price.sizes[depth]

    @property
    def held(self) -> Footprint:
        return self.at(self.depth)


@dataclass(frozen=True, slots=True)
class Swap:
    """``target`` is raised on the device once the others have gone where they go."""

    target: Engine
    node: str
    device: str
    moves: tuple[tuple[Engine, Depth], ...]

    @property
    def loss(self) -> tuple[bool, float]:
        latest = max((engine.used_at for engine, _ in self.moves), default=LONG_AGO)
        return (any(engine.running for engine, _ in self.moves), latest)


@dataclass(frozen=True, slots=True)
class _Spot:
    node: NodeFound
    device: str
    size: int


class Room:
    """``rest``: how deep a model goes that makes room; deeper only where the host has none."""

    def __init__(self, nodes: tuple[NodeFound, ...], engines: list[Engine], rest: Depth) -> None:
        self._spots = [_Spot(node, name, size) for node in nodes for name, size in node.devices]
        self._engines = engines
        self._rest = rest

    def best_swap(self, target: Engine) -> Swap | None:
        """None: it fits nowhere, whoever goes."""
        swaps = (self._swap_at(target, spot) for spot in self._open_to(target))
        return min((s for s in swaps if s is not None), key=lambda s: s.loss, default=None)

    def place(self, engine: Engine, depth: Depth, rank: int) -> bool:
        """At once and with nobody going, on the devices by turns; whether that was possible."""
        spots = self._open_to(engine)
        spot = spots[rank % len(spots)]
        device_free, host_free = self._free(engine, spot)
        after = engine.at(depth)
        if after.device_bytes > device_free or after.host_bytes > host_free:
            return False
        engine.depth, engine.node, engine.device = depth, spot.node.node, spot.device
        return True

    def _open_to(self, target: Engine) -> list[_Spot]:
        here = (target.node, target.device)
        return [s for s in self._spots if not target.device or here == (s.node.node, s.device)]

    def _free(self, target: Engine, spot: _Spot) -> tuple[int, int]:
        """On device and host, if the target were not there."""
        others = [e for e in self._engines if e.node == spot.node.node and e is not target]
        there = sum(e.held.device_bytes for e in others if e.device == spot.device)
        return spot.size - there, spot.node.host_bytes - sum(e.held.host_bytes for e in others)

    def _swap_at(self, target: Engine, spot: _Spot) -> Swap | None:
        device_free, host_free = self._free(target, spot)
        awake = target.at(Depth.AWAKE)
        device_free -= awake.device_bytes
        host_free -= awake.union(target.held).host_bytes
        moves: list[tuple[Engine, Depth]] = []
        for engine, depth in self._steps(target, spot):
            if device_free >= 0 and host_free >= 0:
                break
            is_here = engine.device == spot.device
            if device_free < 0 and not is_here:
                continue
            after = engine.at(depth)
            if after.host_bytes > engine.held.host_bytes + max(0, host_free):
                depth, after = Depth.STOPPED, NOTHING
            moves.append((engine, depth))
            device_free += (engine.held.device_bytes - after.device_bytes) * is_here
            host_free += engine.held.host_bytes - after.host_bytes
        fits = device_free >= 0 and host_free >= 0
        return Swap(target, spot.node.node, spot.device, tuple(moves)) if fits else None

    def _steps(self, target: Engine, spot: _Spot) -> Iterable[tuple[Engine, Depth]]:
        """Who goes where, the least recently used first; sleepers only after who is awake."""
        here = [e for e in self._engines if e.node == spot.node.node and e is not target]
        oldest = sorted(here, key=lambda engine: (engine.used_at, engine.model))
        for engine in oldest:
            if engine.depth is Depth.AWAKE and engine.device == spot.device:
                yield engine, self._rest
        for engine in oldest:
            if engine.depth not in (Depth.AWAKE, Depth.STOPPED):
                yield engine, Depth.STOPPED
