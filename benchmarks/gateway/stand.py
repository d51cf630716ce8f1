"""Engine, controller and load generator, each in its process, and what they can be asked."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import TypeAdapter

from benchmarks.gateway.children import Child, running
from benchmarks.gateway.client import Target
from benchmarks.gateway.engine import EngineOrder
from benchmarks.gateway.gateway import GatewayOrder
from benchmarks.gateway.load import Heard, LoadOrder
from benchmarks.gateway.options import Options
from benchmarks.gateway.quick_engine import Script

MODEL = "bench"
_heard = TypeAdapter(list[Heard])


@dataclass(frozen=True, slots=True)
class Stand:
    direct: Target
    gateway: Target
    controller: Child
    load: Child

    def ask(self, order: LoadOrder) -> list[Heard]:
        return _heard.validate_python(self.load.ask(order))

    def ask_one(self, order: LoadOrder) -> tuple[Heard, float]:
        """With the CPU seconds that the controller took meanwhile."""
        before = self.controller.cpu_s()
        (heard,) = self.ask(order)
        return heard, self.controller.cpu_s() - before


@contextmanager
def a_stand(options: Options) -> Iterator[Stand]:
    key = secrets.token_urlsafe()
    script = Script(key, MODEL, options.events, options.event_interval_s)
    with (
        running("benchmarks.gateway.engine") as engine,
        running("benchmarks.gateway.gateway") as controller,
        running("benchmarks.gateway.load") as load,
    ):
        port = engine.ask(EngineOrder(options.engine, script))
        door = controller.ask(GatewayOrder(MODEL, port, key))
        direct = Target(port, key, MODEL)
        yield Stand(direct, Target(door["port"], door["key"], MODEL), controller, load)
