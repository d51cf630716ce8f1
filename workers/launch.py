"""From arguments to a running ``AsyncLLM``, with the fewest processes that vLLM allows."""

from __future__ import annotations

import asyncio
import json
import shutil
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.models.registry import ModelRegistry
from vllm.platforms import current_platform
from vllm.tokenizers.registry import cached_tokenizer_from_config
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.abstract import Executor

from workers.core_thread import CoreThread
from workers.leavings import socket_directory
from workers.steps import Steps

_STOP_S = 10.0


class Launched:
    """An ``AsyncLLM`` and, where it has one, the core that runs in this process."""

    def __init__(self, config: Any, *, log_stats: bool) -> None:
        self._config = config
        self._log_stats = log_stats
        self._sockets: Path | None = None
        self._core: CoreThread | None = None
        self._connecting: asyncio.Task[Any] | None = None
        self.llm: Any = None
        self.steps = Steps(config)

    @property
    def hosts_core(self) -> bool:
        """The core runs in this process, so its memory is this process's."""
        return self._core is not None

    async def connect(self) -> None:
        """Tokenizers and the client's sockets, which then waits for its core.

        Before the core, so that what these take is no part of what loading the model took.
        """
        if not is_threadable(self._config):
            return
        self._sockets = socket_directory()
        self._core = CoreThread(self._config, log_stats=self._log_stats, sockets=self._sockets)
        self._connecting = asyncio.create_task(asyncio.to_thread(self._client))
        await asyncio.to_thread(self._core.await_client, self._connecting.done)

    async def load(self) -> None:
        """Weights and KV; without a core thread, vLLM starts the processes that do it."""
        if self._core is not None:
            await asyncio.to_thread(self._core.start)
        self.llm = await (self._connecting or asyncio.to_thread(self._client))
        await self.llm.reset_mm_cache()

    async def close(self) -> None:
        """The client first, lest it take the end of its core for a crash."""
        if self._connecting is not None and self.llm is None and self._core is not None:
            self._core.release_client()
            with suppress(Exception):
                self.llm = await self._connecting
        if self.llm is not None:
            await asyncio.to_thread(self.llm.shutdown, timeout=_STOP_S)
        if self._core is not None:
            await asyncio.to_thread(self._core.stop, timeout_s=_STOP_S)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _client(self) -> Any:
        return AsyncLLM(
            vllm_config=self._config,
            executor_class=Executor.get_class(self._config),
            log_stats=self._log_stats,
            log_requests=False,
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=[lambda config, index: self.steps],
            client_addresses=self._core.client_addresses if self._core else None,
        )


def configure(args: Namespace) -> Launched:
    """Everything that does not need the weights; the tokenizer is read here too.

    It is cached for ``connect``, and what it takes does not count as memory of the model.
    """
    if current_platform.is_cpu():
        import_architectures(Path(args.model))
    engine_args = AsyncEngineArgs.from_cli_args(args)
    if engine_args.kv_transfer_config is not None and not has_kv(engine_args):
        engine_args.kv_transfer_config = None
    config = engine_args.create_engine_config(UsageContext.OPENAI_API_SERVER)
    if not config.model_config.skip_tokenizer_init:
        cached_tokenizer_from_config(config.model_config)
    return Launched(config, log_stats=not args.disable_log_stats)


def has_kv(engine_args: AsyncEngineArgs) -> bool:
    """An embedding model does not start with a KV connector."""
    return bool(engine_args.create_model_config().runner_type == "generate")


def import_architectures(model: Path) -> None:
    """Register the model's classes as imported ones.

    vLLM looks at a class that it has not seen in a process of its own, lest CUDA be initialized
    in this one: 18 s, once for each architecture and machine. Without CUDA there is no reason.
    """
    try:
        names = json.loads((model / "config.json").read_text()).get("architectures") or ()
    except (OSError, ValueError):
        return
    for name in names:
        known = ModelRegistry.models.get(name)
        if known is not None:
            ModelRegistry.register_model(name, known.load_model_cls())


def is_threadable(config: Any) -> bool:
    """One rank, in one process, on a CPU: the only case in which a thread costs nothing."""
    parallel = config.parallel_config
    return bool(
        current_platform.is_cpu()
        and parallel.world_size == 1
        and parallel.data_parallel_size == 1
        and parallel.distributed_executor_backend == "uni"
    )
