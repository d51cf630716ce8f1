"""What Prometheus is told of histories, of what is said in them nothing; a part of ``metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class HistoryMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._items = Counter(
            "torpor_history_items", "Kept on request, since the start.", registry=registry
        )
        self._bytes = Counter(
            "torpor_history_sealed_bytes", "Of these items, as they are kept.", registry=registry
        )
        self._failures = Counter(
            "torpor_history_failures",
            "Of the store, or of what it holds, by what was to be done.",
            ["act"],
            registry=registry,
        )

    def kept(self, items: int, sealed_bytes: int) -> None:
        self._items.inc(items)
        self._bytes.inc(sealed_bytes)

    def failed(self, act: str) -> None:
        self._failures.labels(act).inc()
