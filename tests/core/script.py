"""Golden stories: what happens, line by line, and under each line what the core orders.

``model NAME AWAKE [key=value …]`` and ``node DEVICE HOST`` set the scene. Every further line
that is not indented is an event; ``+SECONDS`` before it lets time pass, deadlines included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_never

from controller.core import commands as c
from controller.core import events as e
from controller.core.fleet import Fleet
from controller.core.invariants import check
from controller.core.lifecycle import Phase
from controller.core.names import (
    Depth,
    Instant,
    ModelName,
    NodeId,
    OperationId,
    OpId,
    ReplicaId,
    RequestId,
)
from tests.core.fleets import good_answer, ladder, node, policy, spec

KNOWN = (
    c.GrantLease
    | c.RejectRequest
    | c.StartEngine
    | c.ExportKV
    | c.SleepEngine
    | c.WakeEngine
    | c.StopEngine
    | c.FinishOperation
)


def play(script: str) -> str:
    """The script, with what the core orders at present."""
    player = _Player()
    lines: list[str] = []
    for line in script.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line.strip() and not line.startswith("#"):
            lines += [f"  {told}" for told in player.line(line)]
    return "\n".join(lines) + "\n"


class _Player:
    def __init__(self) -> None:
        self.fleet = Fleet(policy())
        self.now = 0.0

    def line(self, line: str) -> Iterator[str]:
        words = line.split()
        if words[0].startswith("+"):
            yield from self._wait(float(words.pop(0)[1:]))
        if words[:1] == ["policy"]:
            self.fleet = Fleet(policy(**_options(words[1:])))
        elif words:
            yield from self._feed(self._event(words))

    def _wait(self, seconds: float) -> Iterator[str]:
        end = self.now + seconds
        while (at := self.fleet.next_deadline()) <= end:
            self.now = at
            for told in self._feed(e.TimePassed(at)):
                yield f"{at:g}: {told}"
        self.now = end

    def _feed(self, event: e.Event) -> Iterator[str]:
        commands = self.fleet.handle(event)
        check(self.fleet)
        return map(tell, commands)

    def _event(self, words: list[str]) -> e.Event:
        at, kind, name = Instant(self.now), words[0], words[1]
        depth = next((Depth[word] for word in words if word in Depth.__members__), Depth.LEVEL_1)
        match kind:
            case "model":
                options = _options(words[3:])
                if "ladder" in options:
                    options["ladder"] = ladder(*options["ladder"])
                return e.ModelAdded(at, spec(name, int(words[2]), **options))
            case "node":
                return node(self.now, "n", 1, int(words[1]), int(words[2]))
            case "lose":
                return e.NodeLost(at, NodeId(name))
            case "arrives":
                wait = float(words[3]) if len(words) > 3 else None
                return e.RequestArrived(at, RequestId(name), ModelName(words[2]), wait)
            case "cancels":
                return e.RequestCancelled(at, RequestId(name))
            case "ends":
                return e.LeaseReleased(at, RequestId(name))
            case "wake":
                return e.WakeOrdered(at, OperationId(words[2]), ModelName(name))
            case "demote":
                return e.DemotionOrdered(at, OperationId(words[2]), ModelName(name), depth)
            case "switch":
                source = ModelName(words[2]) if words[2] != "any" else None
                return e.SwitchOrdered(at, OperationId(words[3]), ModelName(name), source, depth)
            case "pin" | "unpin":
                return e.PinOrdered(at, ModelName(name), kind == "pin")
            case "remove":
                return e.ModelRemoved(at, ModelName(name))
            case _:
                return self._of_the_world(kind, ReplicaId(name), " ".join(words[2:]))

    def _of_the_world(self, kind: str, name: ReplicaId, reason: str) -> e.Event:
        replica, at = self.fleet.replicas[name], Instant(self.now)
        op = replica.order.op if replica.order else OpId(0)
        match kind:
            case "done":
                return good_answer(self.fleet, name, at)
            case "fails" if replica.phase is Phase.HIBERNATING:
                return e.KVExportFailed(at, op, name, reason)
            case "fails":
                return e.EngineFailed(at, op, name, reason)
            case "disagrees":
                return e.CanaryDisagreed(at, op, name, reason)
            case "dies":
                assert replica.incarnation is not None
                return e.EngineLost(at, name, replica.incarnation, reason)
            case _:
                raise ValueError(f"what is {kind}?")


def _options(words: list[str]) -> dict[str, Any]:
    pairs = (word.split("=", 1) for word in words)
    return {key: _value(value) for key, value in pairs}


def _value(text: str) -> Any:
    if text in Depth.__members__:
        return Depth[text]
    if "," in text:
        return tuple(float(part) for part in text.split(","))
    return {"yes": True, "no": False}.get(text, int(text) if text.isdigit() else text)


def tell(command: c.Command) -> str:
    assert isinstance(command, KNOWN)
    match command:
        case c.GrantLease():
            state = f"{command.state.value}, waited {command.queued_s:g} s"
            return f"grant {command.request} on {command.replica} ({state})"
        case c.RejectRequest():
            retry = command.retry_after_s
            again = f", again in {retry:g} s" if retry is not None else ""
            return f"reject {command.request}: {command.reason.value}: {command.detail}{again}"
        case c.StartEngine():
            return f"start {command.replica} on {command.node}:{','.join(command.devices)}"
        case c.ExportKV():
            return f"export {command.replica}"
        case c.SleepEngine():
            why = f"{command.cause.value} {command.whom}".rstrip()
            return f"sleep {command.replica} to {command.depth.name} ({why})"
        case c.WakeEngine():
            return f"wake {command.replica} from {command.depth.name}"
        case c.StopEngine():
            return f"stop {command.replica} ({command.cause.value} {command.whom}".rstrip() + ")"
        case c.FinishOperation():
            return f"finish {command.operation}: {command.error or 'done'}"
        case _:
            assert_never(command)
