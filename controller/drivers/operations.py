"""Administrators' orders: their ids, how long they took and how they ended."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from controller.ports import OperationView, UnknownOperation

_KEPT = 1000
"""Finished operations that can still be asked for."""


@dataclass(slots=True)
class _Operation:
    kind: str
    models: tuple[str, ...]
    began: float
    ended: float | None = None
    error: str = ""
    phases_s: dict[str, float] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Operations:
    """The register of operations; one driver owns it."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Operation] = OrderedDict()
        self._count = 0

    def begin(self, kind: str, models: tuple[str, ...], at: float) -> str:
        """``models``: the one the operation is about first, then others it touches."""
        self._count += 1
        name = f"op-{self._count}"
        self._known[name] = _Operation(kind, models, at)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return name

    def finish(self, name: str, error: str, at: float) -> None:
        operation = self._known.get(name)
        if operation is None or operation.ended is not None:
            return
        operation.ended = at
        operation.error = error
        operation.done.set()

    def note_phases(self, model: str, order: str, phases_s: dict[str, float]) -> None:
        """Seconds by phase of an order that ended, for the running operations on ``model``."""
        for operation in self._known.values():
            if operation.ended is None and model in operation.models:
                prefix = order if model == operation.models[0] else f"{model}.{order}"
                for phase, seconds in phases_s.items():
                    operation.phases_s[f"{prefix}.{phase}"] = seconds

    def view(self, name: str, at: float) -> OperationView:
        operation = self._operation(name)
        status = "running" if operation.ended is None else "failed" if operation.error else "done"
        return OperationView(
            operation=name,
            kind=operation.kind,
            model=operation.models[0],
            status=status,
            error=operation.error,
            seconds=(at if operation.ended is None else operation.ended) - operation.began,
            phases_s=dict(operation.phases_s),
        )

    async def wait(self, name: str) -> None:
        await self._operation(name).done.wait()

    def _operation(self, name: str) -> _Operation:
        try:
            return self._known[name]
        except KeyError:
            raise UnknownOperation(name) from None
