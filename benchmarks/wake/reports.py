"""What an engine said of an order it carried out, as the fleet's event stream passes it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.running import BenchError
from controller.client import FleetClient
from controller.ports import FleetEvent


@dataclass(frozen=True, slots=True)
class EngineReport:
    model: str
    order: str
    """``start``, ``sleep`` or ``wake``."""
    depth: str
    """Where a sleep led, where a wake came from."""
    phases_s: dict[str, float]
    freed: dict[str, int]
    """By the engine's own books: ``weights``, ``packed``, ``kv`` …, and what ``remained``."""
    device_bytes: int
    host_bytes: int


def parse(payload: Mapping[str, Any]) -> EngineReport:
    """Raises BenchError for another version's report."""
    try:
        return EngineReport(
            model=str(payload["model"]),
            order=str(payload["order"]),
            depth=str(payload["depth"]),
            phases_s={str(name): float(s) for name, s in payload["phases_s"].items()},
            freed={str(kind): int(freed) for kind, freed in payload["freed"].items()},
            device_bytes=int(payload["device_bytes"]),
            host_bytes=int(payload["host_bytes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"a report of an unknown form: {error!r}") from error


def whole(phases_s: Mapping[str, float], took_s: float, rest: str) -> dict[str, float]:
    """The phases with what none of them accounts for as ``rest``, which comes first."""
    return {rest: max(0.0, took_s - sum(phases_s.values())), **phases_s}


@dataclass(slots=True)
class Reports:
    client: FleetClient
    _last_id: int = field(default=0)

    def next(self, model: str, order: str) -> EngineReport:
        """The oldest report not passed yet of that order; waits for it."""
        return parse(self._pass("report", {"model": model, "order": order}).payload)

    def end_of(self, operation: str) -> None:
        """Passes all that was reported until the operation's end."""
        self._pass("operation", {"operation": operation})

    def _pass(self, type_: str, marks: Mapping[str, str]) -> FleetEvent:
        for event in self.client.events(after=self._last_id):
            self._last_id = event.id
            if event.type == type_ and marks.items() <= event.payload.items():
                return event
        raise BenchError("the fleet's event stream has ended")
