"""One vLLM engine in this process: ``AsyncLLM``, vLLM's OpenAI server, sleep and canary.

Phases of a start: *imports* (vLLM itself), *config* (arguments read and checked), *connect*
(tokenizers, the client of the core), *load* (weights, packing, KV), *server*, *canary*. vLLM must
not be imported before ``workers.env.engine_env`` stands in the environment.

Sleep and wake go to ``AsyncLLM`` in process, never over HTTP. Nothing may run when an engine is
sent to sleep, so the scheduler is paused with ``wait``; the caller lets no request in before a
wake has returned. The prefix cache is reset whenever KV was dropped, and every rung drops it.

To freeze is to sleep with the scheduler paused by ``keep``: what runs is preempted and waits in
the scheduler without KV, its clients connected. Its KV is computed again after the wake, from
the prompt and what was decoded, or found in the KV tier. A client that leaves meanwhile is
noticed by vLLM's server, asleep or not. After the wake nobody but the canary is scheduled before
it has agreed (``holding`` says how and why).

After a wake whose canary disagrees the weights are dropped and reloaded once; if it still
disagrees the engine goes back to sleep, so that nothing can be served, and CanaryMismatch is
raised.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from workers.engine import (
    CanaryMismatch,
    EngineError,
    EngineGone,
    EngineSpec,
    KVExport,
    Memory,
    OutOfMemory,
    Progress,
    Report,
    Rest,
    Started,
    StartFailed,
)
from workers.engine_args import effective_args
from workers.env import device_kind
from workers.imports import import_vllm
from workers.kv_identity import identity_of
from workers.kv_seat import KVSeat
from workers.listening import LOOPBACK
from workers.memory import anonymous_bytes, family, measure
from workers.openai_server import OpenAIServer, build_app
from workers.phases import Phases
from workers.questions import Canary, hold
from workers.starvation import is_starvation

EXPORT_S = 20.0
"""What has not reached the durable tier by then is recomputed."""
FREEZE_TRIES = 20
FREEZE_AGAIN_S = 0.1
"""A request whose KV is on its way from the tier cannot be preempted: it is there in a moment."""
_DEPTH = {None: 0, Rest.KV_RELEASED: 1, Rest.LEVEL_1: 2, Rest.LEVEL_2: 3}


class VllmEngine:
    def __init__(
        self,
        spec: EngineSpec,
        *,
        key: str,
        canary_path: Path | None = None,
        host: str = LOOPBACK,
        device: str | None = None,
    ) -> None:
        self._spec = spec
        self._key = key
        self._host = host
        self._device = device or device_kind()
        self._canary = Canary(spec, device=self._device, path=canary_path)
        self._launched: Any = None
        self._server: OpenAIServer | None = None
        self._seat: KVSeat | None = None
        self._kv_identity = ""
        self._rest: Rest | None = None
        self._is_frozen = False
        """Requests may be inside."""
        self._luck = random.Random()

    async def start(self) -> Started:
        """Raises StartFailed, OutOfMemory; CanaryMismatch if an earlier start answered
        otherwise."""
        try:
            return await self._start(Phases())
        except EngineError:
            await self.stop()
            raise
        except Exception as error:
            await self.stop()
            kind = OutOfMemory if is_starvation(error) else StartFailed
            raise kind(f"{type(error).__name__}: {error}") from error

    async def sleep(self, rest: Rest, keep: bool = False) -> Report:
        """Deeper only; to where it already is, nothing happens."""
        if _DEPTH[rest] < _DEPTH[self._rest]:
            raise EngineError(f"asleep at {self._rest}, which is deeper than {rest}")
        phases = Phases()
        async with self._in_our_words():
            if keep and self._rest is None:
                await self._freeze(rest)
            else:
                await self._fall_asleep(rest)
            phases.done("sleep")
            freed = await self._freed()
        return Report(self._measure(), phases.seconds, freed)

    async def wake(self) -> Report:
        phases = Phases()
        async with self._in_our_words():
            held = await hold(self._llm) if self._is_frozen else None
            await self._wake_up(phases)
            if self._luck.random() < self._spec.canary_sampling:
                await self._check(phases)
            if held is not None:
                await self._llm.abort(held)
                self._is_frozen = False
        return Report(self._measure(), phases.seconds, kv_identity=self._kv_identity)

    async def export(self) -> KVExport:
        if self._seat is None or not self._kv_identity:
            raise EngineError("this engine keeps no KV")
        async with self._in_our_words():
            return await self._seat.export(self._spec.path, EXPORT_S)

    async def stop(self) -> None:
        server, launched, seat = self._server, self._launched, self._seat
        self._server = self._launched = self._seat = None
        if server is not None:
            await server.stop()
        if launched is not None:
            await launched.close()
        if seat is not None:
            await seat.close()

    async def progress(self) -> Progress:
        running = self._llm.output_processor.get_num_unfinished_requests()
        steps = self._launched.steps
        return Progress(steps.count, running, steps.longest_s)

    async def probe(self) -> Memory:
        """Raises EngineGone when the core has died under a server that still runs."""
        async with self._in_our_words():
            return self._measure()

    @property
    def _llm(self) -> Any:
        if self._launched is None or self._launched.llm is None:
            raise EngineGone("the engine is not running")
        return self._launched.llm

    async def _start(self, phases: Phases) -> Started:
        await asyncio.to_thread(import_vllm, self._device)
        phases.done("imports")
        args, self._launched = await asyncio.to_thread(self._configure)
        phases.done("config")
        await self._launched.connect()
        phases.done("connect")
        await self._launched.load()
        phases.done("load")
        server = await self._serve(args)
        phases.done("server")
        await self._identify()
        await self._canary.record(self._llm)
        phases.done("canary")
        return Started(
            self._measure(),
            phases.seconds,
            endpoint=server.endpoint,
            max_model_len=self._llm.model_config.max_model_len,
            pids=family(os.getpid()),
            kv_identity=self._kv_identity,
        )

    async def _identify(self) -> None:
        """Anew whenever weights were read: what lies under their path may have changed."""
        config = self._llm.vllm_config
        if config.kv_transfer_config is not None:
            identity = await asyncio.to_thread(identity_of, config)
            self._kv_identity = identity.digest

    def _configure(self) -> tuple[Any, Any]:
        from workers.arguments import parse
        from workers.launch import configure

        spec = self._spec
        if spec.kv is not None:
            self._seat = KVSeat(spec.kv)
            spec = self._seat.told(spec)
        args = parse(effective_args(spec, device=self._device))
        return args, configure(args)

    async def _serve(self, args: Any) -> OpenAIServer:
        before = anonymous_bytes()
        app = await build_app(self._llm, args)
        if self._seat is not None:
            app = self._seat.wrap(app)
        server = self._server = OpenAIServer(app, host=self._host, key=self._key)
        await server.start()
        if self._launched.hosts_core:
            taken = max(0, anonymous_bytes() - before)
            await self._llm.collective_rpc("not_the_model", args=(taken,))
        return server

    async def _fall_asleep(self, rest: Rest) -> None:
        if rest is self._rest:
            return
        if rest is Rest.KV_RELEASED:
            await self._llm.pause_generation(mode="wait", clear_cache=False)
            await self._llm.release_kv_cache_memory()
        elif self._rest is Rest.LEVEL_1:
            await self._llm.collective_rpc("sleep_deeper")
        else:
            await self._llm.sleep(level=1 if rest is Rest.LEVEL_1 else 2, mode="wait")
        self._rest = rest

    async def _freeze(self, rest: Rest) -> None:
        """Raises where a request could not be preempted though it was tried for long."""
        for tries_left in reversed(range(FREEZE_TRIES)):
            try:
                await self._pause_and_drop(rest)
            except Exception:
                if self._llm.errored or not tries_left:
                    raise
                await self._llm.resume_generation()
                await asyncio.sleep(FREEZE_AGAIN_S)
            else:
                self._rest, self._is_frozen = rest, True
                return

    async def _pause_and_drop(self, rest: Rest) -> None:
        if rest is Rest.KV_RELEASED:
            await self._llm.pause_generation(mode="keep", clear_cache=False)
            await self._llm.release_kv_cache_memory()
        else:
            await self._llm.sleep(level=1 if rest is Rest.LEVEL_1 else 2, mode="keep")

    async def _wake_up(self, phases: Phases) -> None:
        if self._rest is Rest.LEVEL_2:
            await self._llm.wake_up(["weights"])
            await self._llm.collective_rpc("reload_weights")
            await self._identify()
            phases.done("weights")
            await self._llm.wake_up(["kv_cache"])
        else:
            await self._llm.wake_up()
        await self._llm.reset_prefix_cache()
        phases.done("kv")
        self._rest = None

    async def _check(self, phases: Phases) -> None:
        why = await self._canary.disagreement(self._llm)
        phases.done("canary")
        if why is None:
            return
        await self._fall_asleep(Rest.LEVEL_2)
        await self._wake_up(phases)
        why = await self._canary.disagreement(self._llm)
        phases.done("canary")
        if why is not None:
            with suppress(Exception):
                await self._fall_asleep(Rest.LEVEL_2)
            raise CanaryMismatch(f"after a wake and a reload of the weights: {why}")

    async def _freed(self) -> dict[str, int]:
        freed: Counter[str] = Counter()
        for report in await self._llm.collective_rpc("freed_report"):
            freed.update(report)
        return dict(freed)

    def _measure(self) -> Memory:
        return measure(os.getpid(), device=self._device)

    @asynccontextmanager
    async def _in_our_words(self) -> AsyncIterator[None]:
        """Turns what vLLM raises into our errors, by whether it still runs."""
        try:
            if self._llm.errored:
                raise EngineGone("the engine core has died")
            yield
        except EngineError:
            raise
        except Exception as error:
            if is_starvation(error):
                raise OutOfMemory(f"{type(error).__name__}: {error}") from error
            if self._launched is None or self._llm.errored:
                raise EngineGone("the engine core has died") from error
            raise EngineError(f"{type(error).__name__}: {error}") from error
