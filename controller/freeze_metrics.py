"""What Prometheus is told of frozen requests, from what the driver reports; a part of
``metrics``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

from controller.core.names import Instant, ReplicaId, model_of

_BUCKETS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


class Freezing(Protocol):
    """What is asked of a fleet."""

    @property
    def now(self) -> Instant: ...

    def frozen(self) -> Collection[ReplicaId]: ...


class FreezeMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._since: dict[ReplicaId, Instant] = {}
        self._freezes = Counter(
            "torpor_freezes",
            "Engines that were put to sleep with requests running.",
            ["model"],
            registry=registry,
        )
        self._seconds = Histogram(
            "torpor_frozen_seconds",
            "How long requests of an engine were frozen: to its wake, its loss, the last client.",
            ["model"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def saw(self, fleet: Freezing) -> None:
        """After each step of the core."""
        frozen = fleet.frozen()
        if not (frozen or self._since):
            return
        for replica in frozen:
            if replica not in self._since:
                self._since[replica] = fleet.now
                self._freezes.labels(model_of(replica)).inc()
        for replica in [known for known in self._since if known not in frozen]:
            seconds = fleet.now - self._since.pop(replica)
            self._seconds.labels(model_of(replica)).observe(seconds)
