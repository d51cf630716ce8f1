"""Engine, controller and load generator, each in its process, and what they can be asked."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import TypeAdapter

from benchmarks.gateway.children import Child, running
from benchmarks.gateway.client import Target
from benchmarks.gateway.engine import EngineOrder
from benchmarks.gateway.gateway import GatewayOrder
from benchmarks.gateway.load import Heard, LoadOrder
from benchmarks.gateway.options import Options
from benchmarks.gateway.quick_engine import Script
from benchmarks.running import BenchError
from benchmarks.wake.stock import Stock, engine_of
from controller.settings import load

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
def a_stand(options: Options, workers: int = 0) -> Iterator[Stand]:
    with (
        _an_engine(options) as direct,
        TemporaryDirectory(prefix="t-") as directory,
        running("benchmarks.gateway.gateway") as controller,
        running("benchmarks.gateway.load") as load,
    ):
        engine = (options.model, direct.host, direct.port, direct.key)
        door = controller.ask(GatewayOrder(*engine, directory, workers))
        gateway = Target(door["port"], door["key"], options.model)
        yield Stand(direct, gateway, controller, load)


@contextmanager
def _stock(options: Options, config: Path) -> Iterator[Target]:
    """vLLM's own server, with the arguments that the fleet would give its engine."""
    settings = load(config)
    if (spec := engine_of(settings, options.model)) is None:
        raise BenchError(f"{config} has no model {options.model!r} on vLLM: give --model")
    with Stock("vllm", spec, settings.device).serving() as port:
        yield Target(port, "", options.model)


@contextmanager
def _an_engine(options: Options) -> Iterator[Target]:
    if options.config is not None:
        with _stock(options, options.config) as engine:
            yield engine
    elif options.own_engine is not None:
        with _own(options, options.own_engine) as engine:
            yield engine
    else:
        host, port = options.place()
        yield Target(port, options.engine_key, options.model, host)


@contextmanager
def _own(options: Options, kind: Literal["quick", "fake"]) -> Iterator[Target]:
    key = secrets.token_urlsafe()
    script = Script(key, options.model, options.events, options.event_interval_s)
    with running("benchmarks.gateway.engine") as engine:
        port = engine.ask(EngineOrder(kind, script))
        yield Target(port, key, options.model)
