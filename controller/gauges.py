"""How the fleet stands while it is scraped, as Prometheus gauges; a part of ``metrics``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from controller.ports import FleetView


class FleetGauges:
    """A collector of one FleetView."""

    def __init__(self, view: FleetView) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        yield from self._models()
        yield from self._memory()
        yield from self._config()

    def _models(self) -> Iterable[Metric]:
        phase = _gauge("torpor_replica_phase", "1 for the phase it is in.", "model replica phase")
        waiting = _gauge("torpor_requests_waiting", "Requests in the backlog.", "model")
        running = _gauge("torpor_requests_running", "Requests being answered.", "model")
        frozen = _gauge("torpor_requests_frozen", "Of these, those that are suspended.", "model")
        pinned = _gauge("torpor_model_pinned", "1 if it is kept awake.", "model")
        for model in self._view.models:
            waiting.add_metric([model.model], model.waiting)
            running.add_metric([model.model], model.running)
            frozen.add_metric([model.model], sum(replica.frozen for replica in model.replicas))
            pinned.add_metric([model.model], model.pinned)
            for replica in model.replicas:
                label = replica.phase.lower()
                if replica.depth is not None:
                    label += f":{replica.depth}"
                phase.add_metric([model.model, replica.replica, label], 1)
        return [phase, waiting, running, frozen, pinned]

    def _memory(self) -> Iterable[Metric]:
        memory = _gauge(
            "torpor_memory_bytes", "Memory of the nodes, by device and kind.", "node device kind"
        )
        held = _gauge("torpor_replica_memory_bytes", "What each replica holds.", "replica kind")
        for node in self._view.nodes:
            for device, booked, budget in node.devices:
                memory.add_metric([node.node, device, "booked"], booked)
                memory.add_metric([node.node, device, "budget"], budget)
            for resource, taken in node.taken:
                memory.add_metric([node.node, resource, "taken"], taken)
            if node.kv_tier is not None:
                resource, size, whole = node.kv_tier
                memory.add_metric([node.node, resource, "kv_tier"], size)
                memory.add_metric([node.node, resource, "kv_tier_given"], whole - size)
            memory.add_metric([node.node, "host", "booked"], node.host_booked_bytes)
            memory.add_metric([node.node, "host", "budget"], node.host_bytes)
        for model in self._view.models:
            for replica in model.replicas:
                held.add_metric([replica.replica, "device"], replica.device_bytes)
                held.add_metric([replica.replica, "host"], replica.host_bytes)
                growth = replica.residual_growth_bytes
                held.add_metric([replica.replica, "residual_growth"], growth)
        return [memory, held]

    def _config(self) -> Iterable[Metric]:
        config = self._view.config
        if config is None:
            return
        gauges = (
            (
                "success",
                "1 if the configuration file was taken over when it changed last.",
                float(not config.problems),
            ),
            ("timestamp_seconds", "When a change of the file was looked at last.", config.at),
            ("success_timestamp_seconds", "When the file was taken over last.", config.taken_at),
            (
                "needs_restart",
                "Settings in it that count only after a restart.",
                float(len(config.needs_restart)),
            ),
        )
        for name, says, value in gauges:
            yield GaugeMetricFamily(f"torpor_config_reload_{name}", says, value=value)


def _gauge(name: str, says: str, labels: str) -> Any:
    return GaugeMetricFamily(name, says, labels=labels.split())
