"""What Prometheus is told of KV: where prompts were found, what exports and recalls took."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from controller.conversation_ports import RecallOutcome
from kv_store.found import PromptFound
from workers.engine import KVExport

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class KVMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._tokens = Counter(
            "torpor_kv_prompt_tokens",
            "Tokens of prompts by where their KV came from; computed: from nowhere.",
            ["model", "tier"],
            registry=registry,
        )
        self._computed = Counter(
            "torpor_kv_computed_tokens",
            "Tokens of prompts that were computed, by why; absent: they lie in no tier.",
            ["model", "reason"],
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

        self._recalls = Counter(
            "torpor_kv_recalls",
            "Prefixes of turns that waited for a wake, by what became of fetching them.",
            ["model", "outcome"],
            registry=registry,
        )
        self._recalled_bytes = Counter(
            "torpor_kv_recalled_bytes", "From the durable tier.", ["model"], registry=registry
        )
        self._recall_seconds = Histogram(
            "torpor_kv_recall_seconds",
            "Of a recall that moved KV.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )

    def found(self, model: str, told: bytes) -> None:
        """``told``: an engine's ``x-torpor-kv``; anything else is not counted."""
        if (found := PromptFound.parse(told)) is not None:
            if found.hit:
                self._tokens.labels(model, found.tier).inc(found.hit)
            self._tokens.labels(model, "computed").inc(found.computed)
            self._computed.labels(model, found.why or "absent").inc(found.computed)

    def exported(self, model: str, export: KVExport) -> None:
        self._exports.labels(model, "partly" if export.failed else "ok").inc()
        self._chunks.labels(model, "written").inc(export.written)
        self._chunks.labels(model, "failed").inc(export.failed)
        self._bytes.labels(model).inc(export.bytes)
        self._seconds.labels(model).observe(export.seconds)

    def recalled(self, model: str, outcome: RecallOutcome, size: int, seconds: float) -> None:
        self._recalls.labels(model, outcome.value).inc()
        if size:
            self._recalled_bytes.labels(model).inc(size)
            self._recall_seconds.labels(model).observe(seconds)

    def export_failed(self, model: str) -> None:
        self._exports.labels(model, "failed").inc()
