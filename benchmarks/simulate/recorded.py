"""What a journal tells of a run: who asked when, for how long; what orders took, what was held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.result import ResultError
from benchmarks.running import BenchError
from controller import journal
from controller.core.commands import (
    Command,
    GrantLease,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.events import (
    EngineFellAsleep,
    EngineStarted,
    EngineStopped,
    EngineWoke,
    Event,
    LeaseReleased,
    ModelAdded,
    ModelChanged,
    NodeJoined,
    RequestArrived,
    RequestCancelled,
)
from controller.core.names import (
    Depth,
    Footprint,
    ModelName,
    ModelSpec,
    NodeId,
    OpId,
    RequestId,
    model_of,
)
from controller.ports import NodeFound

_Answer = EngineStarted | EngineFellAsleep | EngineWoke | EngineStopped
_Order = StartEngine | SleepEngine | WakeEngine | StopEngine


@dataclass(slots=True)
class Asked:
    """One arrival and what became of it."""

    request: str
    model: ModelName
    at_s: float
    max_wait_s: float | None
    granted_s: float | None = None
    held_s: float | None = None


@dataclass(slots=True)
class Recorded:
    """All that a replay needs of a journal."""

    specs: dict[ModelName, ModelSpec] = field(default_factory=dict)
    nodes: dict[NodeId, NodeFound] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    orders_s: dict[tuple[ModelName, type, Depth], list[float]] = field(default_factory=dict)
    held: dict[ModelName, dict[Depth, Footprint]] = field(default_factory=dict)
    ended_s: float = 0.0
    _open: dict[RequestId, Asked] = field(default_factory=dict)
    _ordered: dict[OpId, tuple[float, _Order]] = field(default_factory=dict)

    def saw(self, event: Event, commands: Iterable[Command], at_s: float) -> None:
        self.ended_s = at_s
        match event:
            case ModelAdded(spec=spec) | ModelChanged(spec=spec):
                self.specs[spec.name] = spec
            case NodeJoined(node=node, devices=devices, host_bytes=host):
                self.nodes[node] = NodeFound(node, tuple(devices), host)
            case RequestArrived():
                self._arrived(event, at_s)
            case LeaseReleased(request=request) | RequestCancelled(request=request):
                self._ended(request, at_s)
            case EngineStarted() | EngineFellAsleep() | EngineWoke() | EngineStopped():
                self._answered(event, at_s)
            case _:
                pass
        for command in commands:
            match command:
                case GrantLease(request=request) if request in self._open:
                    self._open[request].granted_s = at_s
                case StartEngine() | SleepEngine() | WakeEngine() | StopEngine():
                    self._ordered[command.op] = (at_s, command)
                case _:
                    pass

    def _arrived(self, event: RequestArrived, at_s: float) -> None:
        asked = Asked(f"r{len(self.asked)}", event.model, at_s, event.max_wait_s)
        self.asked.append(asked)
        self._open[event.request] = asked

    def _ended(self, request: RequestId, at_s: float) -> None:
        asked = self._open.pop(request, None)
        if asked is None:
            return
        if asked.granted_s is None:
            asked.max_wait_s = at_s - asked.at_s
        else:
            asked.held_s = at_s - asked.granted_s

    def _answered(self, event: _Answer, at_s: float) -> None:
        if event.op not in self._ordered:
            return
        ordered_s, order = self._ordered.pop(event.op)
        model = model_of(event.replica)
        key = (model, type(order), _depth(order))
        self.orders_s.setdefault(key, []).append(at_s - ordered_s)
        if isinstance(event, EngineFellAsleep):
            self.held.setdefault(model, {})[_depth(order)] = event.held
        elif not isinstance(event, EngineStopped):
            self.held.setdefault(model, {})[Depth.AWAKE] = event.held


def _depth(order: _Order) -> Depth:
    return order.depth if isinstance(order, SleepEngine | WakeEngine) else Depth.STOPPED


def read(path: Path) -> Recorded:
    """Raises ResultError for what is no journal, BenchError for one in which nobody asked."""
    recorded, began = Recorded(), None
    try:
        for event, commands in journal.read(path):
            began = event.at if began is None else began
            recorded.saw(event, commands, event.at - began)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ResultError(f"{path} is no journal: {told}") from error
    if not recorded.asked:
        raise BenchError(f"{path}: nobody asked for anything")
    return recorded
