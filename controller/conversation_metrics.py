"""How conversations stand while /metrics is scraped, as Prometheus gauges and counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from controller.conversation_ports import ConversationStatistics


class ConversationGauges:
    """A collector; ``statistics`` is asked at each scrape."""

    def __init__(self, statistics: Callable[[], ConversationStatistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        now = self._statistics()
        known = GaugeMetricFamily(
            "torpor_conversations", "On record, by residency.", labels=["residency"]
        )
        for residency, count in now.by_residency.items():
            known.add_metric([residency.lower()], count)
        yield known
        yield GaugeMetricFamily(
            "torpor_conversations_active", "In which something is done.", value=now.active
        )
        yield GaugeMetricFamily(
            "torpor_conversation_tokens", "Of which KV may be kept.", value=now.tokens
        )
        bytes_ = GaugeMetricFamily(
            "torpor_conversation_bytes", "KV as last known, by tier.", labels=["tier"]
        )
        bytes_.add_metric(["host"], now.host_bytes)
        bytes_.add_metric(["durable"], now.durable_bytes)
        yield bytes_
        turns = CounterMetricFamily(
            "torpor_conversation_turns", "Later turns that found KV, or none.", labels=["found"]
        )
        turns.add_metric(["hit"], now.hits)
        turns.add_metric(["miss"], now.misses)
        yield turns
        reaped = CounterMetricFamily(
            "torpor_conversations_reaped", "For disuse.", labels=["outcome"]
        )
        reaped.add_metric(["hibernated"], now.hibernated)
        reaped.add_metric(["expired"], now.expired)
        yield reaped
        yield CounterMetricFamily(
            "torpor_conversation_evicted_chunks",
            "That a hibernation found in no tier.",
            value=now.evicted_chunks,
        )
        yield from _bulkheads(now)
        yield GaugeMetricFamily(
            "torpor_conversations_with_history",
            "Of which something that was said is kept.",
            value=now.with_history,
        )


def _bulkheads(now: ConversationStatistics) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "torpor_conversations_live", "In which a turn is served.", value=now.live
    )
    yield GaugeMetricFamily(
        "torpor_conversations_queued", "That wait behind live ones.", value=now.queued
    )
