"""Everything that Prometheus is told, from what the driver and the API report.

One registry for each Metrics, nothing global. The core is not asked at scrape time: counters and
histograms follow events and commands as they happen, gauges come from a FleetView. Labels are
bounded: models as configured (empty for what no model is), routes of the allow-list, statuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from controller.core.commands import (
    Command,
    GrantLease,
    SleepEngine,
    StartEngine,
    StopEngine,
    WakeEngine,
)
from controller.core.events import (
    CanaryDisagreed,
    EngineFailed,
    EngineFellAsleep,
    EngineHung,
    EngineLost,
    EngineStarted,
    EngineStopped,
    EngineWoke,
    Event,
    KVExportFailed,
    LeaseReleased,
    RanOutOfMemory,
    RequestArrived,
)
from controller.core.names import Depth, Instant, ModelState, OpId, ReplicaId, model_of
from controller.freeze_metrics import FreezeMetrics, Freezing
from controller.gauges import FleetGauges
from controller.history_metrics import HistoryMetrics
from controller.kv_metrics import KVMetrics
from controller.ports import FleetView
from workers.engine import KVExport, Report

CONTENT_TYPE = CONTENT_TYPE_LATEST

_WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300)
_ORDER_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 3, 5, 8, 13, 20, 30, 45, 60, 90, 180, 600)

_NOT_COUNTED = frozenset({RequestArrived, LeaseReleased})
"""The two events of nearly every request; the API counts those."""


@dataclass(frozen=True, slots=True)
class _Order:
    """An order that a replica has not answered yet."""

    op: OpId
    kind: str
    level: str
    at: Instant


class Metrics:
    """What happened, counted. The driver calls ``saw``, ``reported`` and ``demoted``; the API
    ``request``, ``granted``, ``first_byte``, ``retried``, ``kv_found`` and ``render``."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._orders_open: dict[ReplicaId, _Order] = {}
        ProcessCollector(registry=self._registry)
        self._requests()
        self._orders()
        self.kv = KVMetrics(self._registry)
        self.history = HistoryMetrics(self._registry)
        self._freezes = FreezeMetrics(self._registry)

    # from the API

    def request(self, model: str, route: str, status: int) -> None:
        """A request ended; 499: its client left."""
        self._request_child(model, route, status).inc()

    def granted(self, model: str, state: ModelState, queued_s: float) -> None:
        self._queue_child(model, state).observe(queued_s)

    def first_byte(self, model: str, state: ModelState, seconds: float) -> None:
        """From the arrival of the request to the engine's first byte of a good answer."""
        self._ttft_child(model, state).observe(seconds)

    def retried(self, model: str) -> None:
        self._retries.labels(model).inc()

    def kv_found(self, model: str, told: bytes) -> None:
        self.kv.found(model, told)

    def include(self, collector: Collector) -> None:
        """Figures that somebody else keeps."""
        self._registry.register(collector)

    def render(self, view: FleetView) -> bytes:
        """The whole exposition, as CONTENT_TYPE says."""
        return generate_latest(self._registry) + generate_latest(FleetGauges(view))

    # from the driver

    def saw(self, event: Event, commands: Sequence[Command], fleet: Freezing | None = None) -> None:
        """One step of the core."""
        if fleet is not None:
            self._freezes.saw(fleet)
        if type(event) not in _NOT_COUNTED:
            self._saw_event(event)
        for command in commands:
            if type(command) is not GrantLease:
                self._saw_command(event.at, command)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        """What an engine said of an order it carried out: seconds by phase, bytes freed."""
        level = level_of(depth)
        for phase, seconds in report.phases_s.items():
            self._phases.labels(model, order, level, phase).observe(seconds)
        for kind, freed in report.freed.items():
            if kind != "remained":
                self._freed.labels(model, level, kind).inc(max(0, freed))

    def exported(self, model: str, export: KVExport) -> None:
        self.kv.exported(model, export)

    def demoted(self, model: str, depth: Depth, reason: str) -> None:
        """A demotion was decided: ``idle``, ``evicted``, ``ordered`` … to ``depth``."""
        self._demotions.labels(model, level_of(depth), reason).inc()

    # inside

    def _requests(self) -> None:
        registry = self._registry
        self._retries = Counter(
            "torpor_request_retries",
            "Requests tried again on a fresh engine.",
            ["model"],
            registry=registry,
        )
        requests = Counter(
            "torpor_requests", "Requests.", ["model", "route", "status"], registry=registry
        )
        queue = Histogram(
            "torpor_request_queue_seconds",
            "From arrival to grant, by what the model was found as.",
            ["model", "state"],
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        ttft = Histogram(
            "torpor_request_ttft_seconds",
            "From arrival to the engine's first byte, waiting included.",
            ["model", "state"],
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        # labels() takes a lock and builds strings: on the request path it is asked once each.
        remembered = lru_cache(maxsize=10_000)
        self._request_child = remembered(requests.labels)
        self._queue_child = remembered(lambda model, state: queue.labels(model, state.value))
        self._ttft_child = remembered(lambda model, state: ttft.labels(model, state.value))

    def _orders(self) -> None:
        def seconds(name: str, says: str, labels: Sequence[str]) -> Histogram:
            return Histogram(name, says, labels, buckets=_ORDER_BUCKETS, registry=self._registry)

        def count(name: str, says: str, labels: Sequence[str]) -> Counter:
            return Counter(name, says, labels, registry=self._registry)

        self._seconds = {
            "start": seconds("torpor_cold_start_seconds", "Start, canary included.", ["model"]),
            "wake": seconds(
                "torpor_wake_seconds", "Wake from a level, canary included.", ["model", "level"]
            ),
            "sleep": seconds("torpor_sleep_seconds", "Sleep to a level.", ["model", "level"]),
            "stop": seconds("torpor_stop_seconds", "Stop, to the last process.", ["model"]),
        }
        self._phases = seconds(
            "torpor_order_phase_seconds",
            "Orders by phase, as the engine measured them.",
            ["model", "order", "level", "phase"],
        )
        self._outcomes = count(
            "torpor_orders",
            "Orders to engines by outcome: ok, failed, canary_mismatch, out_of_memory, no_answer,"
            " lost.",
            ["model", "order", "level", "outcome"],
        )
        self._freed = count(
            "torpor_freed_bytes", "Bytes that sleeps set free.", ["model", "level", "kind"]
        )
        self._demotions = count(
            "torpor_demotions", "Demotions by reason.", ["model", "level", "reason"]
        )
        self._hangs = count("torpor_engine_hangs", "Engines that took no step any more.", ["model"])
        self._losses = count("torpor_engine_losses", "Engines that died by themselves.", ["model"])

    def _saw_event(self, event: Event) -> None:
        match event:
            case EngineStarted() | EngineFellAsleep() | EngineWoke() | EngineStopped():
                self._ended(event.replica, event.op, event.at, "ok")
            case CanaryDisagreed():
                self._ended(event.replica, event.op, event.at, "canary_mismatch")
            case RanOutOfMemory():
                self._ended(event.replica, event.op, event.at, "out_of_memory")
            case EngineFailed():
                self._ended(event.replica, event.op, event.at, "failed")
            case KVExportFailed():
                self.kv.export_failed(model_of(event.replica))
            case EngineHung():
                self._hangs.labels(model_of(event.replica)).inc()
                self._ended(event.replica, None, event.at, "lost")
            case EngineLost():
                self._losses.labels(model_of(event.replica)).inc()
                self._ended(event.replica, None, event.at, "lost")
            case _:
                pass

    def _saw_command(self, at: Instant, command: Command) -> None:
        match command:
            case StartEngine():
                self._began(command, "start", "stopped", at)
            case WakeEngine():
                self._began(command, "wake", level_of(command.depth), at)
            case SleepEngine():
                self._began(command, "sleep", level_of(command.depth), at)
                self.demoted(model_of(command.replica), command.depth, command.cause.value)
            case StopEngine():
                self._began(command, "stop", "stopped", at)
                self.demoted(model_of(command.replica), Depth.STOPPED, command.cause.value)
            case _:
                pass

    def _began(
        self,
        command: StartEngine | WakeEngine | SleepEngine | StopEngine,
        kind: str,
        level: str,
        at: Instant,
    ) -> None:
        self._ended(command.replica, None, at, "no_answer")
        self._orders_open[command.replica] = _Order(command.op, kind, level, at)

    def _ended(self, replica: ReplicaId, op: OpId | None, at: Instant, outcome: str) -> None:
        """Late answers (of another op) are dropped, as the core drops them."""
        order = self._orders_open.get(replica)
        if order is None or op not in (order.op, None):
            return
        del self._orders_open[replica]
        model = model_of(replica)
        self._outcomes.labels(model, order.kind, order.level, outcome).inc()
        if outcome == "ok":
            histogram = self._seconds[order.kind]
            labels = (model, order.level) if order.kind in ("wake", "sleep") else (model,)
            histogram.labels(*labels).observe(at - order.at)


def level_of(depth: Depth) -> str:
    return depth.name.lower()
