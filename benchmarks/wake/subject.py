"""The fleet that is measured: orders, requests, and what came of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx

from benchmarks.running import BenchError
from benchmarks.wake.asking import LONG, MAX_TOKENS, Asker, Dialect, Heard
from benchmarks.wake.options import LEVELS
from benchmarks.wake.reports import EngineReport, Reports
from controller.client import FleetClient
from controller.ports import OperationView

_ROOM_TOKENS = 1024
"""Context that the long prompt needs, amply."""
_NO_LIMIT = httpx.Timeout(None, connect=5.0)


@dataclass(frozen=True, slots=True)
class Raised:
    """A request to a model that was not awake."""

    heard: Heard
    report: EngineReport


@dataclass(frozen=True, slots=True)
class Rested:
    seconds: float
    report: EngineReport


class Subject:
    """Every method raises BenchError where the fleet did not do as it was asked, and FleetError
    where it refused."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.client = FleetClient(url, key)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_NO_LIMIT, trust_env=False)
        self._asker = Asker(self._http)
        self._reports = Reports(self.client)

    def close(self) -> None:
        self.client.close()
        self._http.close()

    def names(self) -> tuple[str, ...]:
        return tuple(model.model for model in self.client.models())

    def memories(self) -> tuple[str, ...]:
        """The kinds there are: without a GPU host and device are one."""
        devices = [name for node in self.client.fleet().nodes for name, _, _ in node.devices]
        return ("device",) if devices == ["cpu"] else ("device", "host")

    def prepare(self, model: str) -> float | None:
        """Awake, its dialect known. Seconds of its start; None if it was started before."""
        is_stopped = self.client.model(model).state == "stopped"
        took_s = self._done(self.client.wake(model)).seconds
        self._asker.learn(model)
        return took_s if is_stopped else None

    def dialect(self, model: str) -> Dialect:
        return self._asker.dialects[model]

    def held(self, model: str) -> tuple[int, int]:
        """Bytes on each device and on the host that its replicas hold, as the fleet books them."""
        replicas = self.client.model(model).replicas
        return sum(r.device_bytes for r in replicas), sum(r.host_bytes for r in replicas)

    def ask(self, model: str, tokens: int = MAX_TOKENS) -> Heard:
        return self._asker.ask(model, tokens=tokens)

    def ask_at_length(self, model: str) -> Heard | None:
        """A long prompt, for one token; None of a model that does not generate, or has no room."""
        room = self.client.model(model).max_model_len or 0
        if not self._asker.dialects[model].generates or room < _ROOM_TOKENS:
            return None
        return self._asker.ask(model, says=LONG, tokens=1)

    def ask_stopped(self, model: str) -> Raised:
        heard = self._asker.ask(model)
        return Raised(heard, self._reports.next(model, "start"))

    def ask_asleep(self, model: str, tokens: int = MAX_TOKENS) -> Raised:
        heard = self._asker.ask(model, tokens=tokens)
        return Raised(heard, self._reports.next(model, "wake"))

    def sleep(self, model: str, level: str) -> Rested:
        operation = _successful(self.client.sleep(model, LEVELS[level]))
        return Rested(operation.seconds, self._reports.next(model, "sleep"))

    def stop(self, model: str) -> float:
        return self._done(self.client.stop(model)).seconds

    def switch(self, source: str, to: str, level: str | None) -> float:
        """Seconds from the order to the first token of ``to``, which is asked as soon as it is
        awake. Level None: ``source`` is stopped, and ``to`` starts from nothing."""
        began = time.perf_counter()
        if level is not None:
            self._done(self.client.switch(to, source, LEVELS[level]))
            return self._asker.ask(to, since=began).first_s
        self._done(self.client.stop(source))
        heard = self._asker.ask(to, since=began)
        self._reports.next(to, "start")
        return heard.first_s

    def _done(self, operation: OperationView) -> OperationView:
        """Its own reports are passed: the next one looked for is of a later order."""
        self._reports.end_of(_successful(operation).operation)
        return operation


def _successful(operation: OperationView) -> OperationView:
    if operation.status != "done":
        raise BenchError(f"{operation.kind} {operation.model}: {operation.error}")
    return operation
