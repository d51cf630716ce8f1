"""What Prometheus is told of KV: where prompts were found, and what exports took."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Counter, Histogram

from workers.engine import KVExport

_TOLD = re.compile(rb"hit=(\d+) of (\d+) tier=(\w+)")
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class KVMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._tokens = Counter(
            "torpor_kv_prompt_tokens",
            "Tokens of prompts by where their KV came from; computed: from nowhere.",
            ["model", "tier"],
            registry=registry,
        )
        self._exports = Counter(
            "torpor_kv_exports", "Exports before a sleep.", ["model", "outcome"], registry=registry
        )
        self._chunks = Counter(
            "torpor_kv_exported_chunks",
            "Chunks by outcome.",
            ["model", "outcome"],
            registry=registry,
        )
        self._bytes = Counter(
            "torpor_kv_exported_bytes", "To the durable tier.", ["model"], registry=registry
        )
        self._seconds = Histogram(
            "torpor_kv_export_seconds",
            "Of an export.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )

    def found(self, model: str, told: bytes) -> None:
        """``told``: an engine's ``x-torpor-kv``; anything else is not counted."""
        if match := _TOLD.fullmatch(told):
            hit, prompt = int(match[1]), int(match[2])
            if hit:
                self._tokens.labels(model, match[3].decode()).inc(hit)
            self._tokens.labels(model, "computed").inc(max(0, prompt - hit))

    def exported(self, model: str, export: KVExport) -> None:
        self._exports.labels(model, "partly" if export.failed else "ok").inc()
        self._chunks.labels(model, "written").inc(export.written)
        self._chunks.labels(model, "failed").inc(export.failed)
        self._bytes.labels(model).inc(export.bytes)
        self._seconds.labels(model).observe(export.seconds)

    def export_failed(self, model: str) -> None:
        self._exports.labels(model, "failed").inc()
