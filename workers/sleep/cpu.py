"""Sleep on a machine without a GPU: a vLLM worker that gives its memory back.

Stock CPU workers answer sleep with a warning. This one frees, by rung:

- KV released and level 1: the KV cache. Weights stay: the device *is* the host, so there is
  nowhere to put them. The two differ only in vLLM's books.
- level 2: weights, their packed copies, and KV.

Storages are emptied in place (``resize_(0)``) and filled in place, so that every view, compiled
graph and registered connector keeps pointing at the right thing. The wake order is vLLM's own:
``wake_up(["weights"])``, ``reload_weights``, ``wake_up(["kv_cache"])``; a worker that skips the
middle step computes with noise, which is what the canary is for.

Level 1 to 2 goes through ``sleep_deeper``: ``Executor.sleep`` ignores a second call.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from workers.memory import anonymous_bytes
from workers.sleep.packed import PackedLinear, packed_linears

_LIBC = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1024 * 1024


class Emptied:
    """A set of storages that can be emptied and given their size back."""

    def __init__(self) -> None:
        self._sizes: list[tuple[torch.UntypedStorage, int]] = []

    @property
    def is_empty(self) -> bool:
        return bool(self._sizes)

    def empty(self, tensors: Iterable[torch.Tensor]) -> None:
        if self.is_empty:
            return
        for storage in _storages(tensors):
            self._sizes.append((storage, storage.nbytes()))
            storage.resize_(0)

    def fill(self, *, zero: bool) -> None:
        for storage, size in self._sizes:
            storage.resize_(size)
            if zero:
                torch.empty(0, dtype=torch.uint8).set_(storage).zero_()
        self._sizes.clear()


class SleepingCPUWorker(CPUWorker):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _map_large_allocations()
        self._kv = Emptied()
        self._weights = Emptied()
        self._packed: list[PackedLinear] = []
        self._freed: dict[str, int] = {}
        self._anonymous_before_load = 0

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        gc.collect()
        _trim()
        self._anonymous_before_load = anonymous_bytes()
        super().load_model(*args, **kwargs)
        _trim()

    def sleep(self, level: int = 1) -> None:
        self._drop_kv()
        if level == 2:
            self._drop_weights()

    def discard(self, tags: tuple[str, ...]) -> None:
        if "kv_cache" in tags:
            self._drop_kv()

    def sleep_deeper(self) -> None:
        """From level 1 to level 2."""
        self._drop_weights()

    def wake_up(self, tags: list[str] | None = None) -> None:
        if tags is None or "weights" in tags:
            self._weights.fill(zero=False)
        if tags is None or "kv_cache" in tags:
            self._kv.fill(zero=True)
        self._freed.clear()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        super().reload_weights(*args, **kwargs)
        for linear in self._packed:
            linear.restore()
        self._packed.clear()
        gc.collect()
        _trim()

    def compile_or_warm_up_model(self) -> Any:
        times = super().compile_or_warm_up_model()
        self._remove_meeting_point()
        _trim()
        return times

    def _remove_meeting_point(self) -> None:
        """The file where ranks met: of one rank nobody else comes, and a killed one leaves it."""
        method = self.distributed_init_method
        if self.parallel_config.world_size == 1 and method.startswith("file://"):
            Path(method.removeprefix("file://")).unlink(missing_ok=True)

    def not_the_model(self, anonymous: int) -> None:
        """Bytes that this process has taken since for something else: its server."""
        self._anonymous_before_load += anonymous

    def freed_report(self) -> dict[str, int]:
        """Bytes that came free by kind since this worker was awake, and what ``remained``.

        Measured as anonymous memory of this process; ``remained`` against before the model
        was loaded.
        """
        remained = anonymous_bytes() - self._anonymous_before_load
        return self._freed | {"remained": max(0, remained)}

    def _drop_kv(self) -> None:
        with self._freeing("kv"):
            self._kv.empty(self._kv_tensors())

    def _drop_weights(self) -> None:
        model = self.model_runner.get_model()
        self._packed = list(packed_linears(model))
        with self._freeing("packed"):
            for linear in self._packed:
                linear.release()
        with self._freeing("weights"):
            self._weights.empty(model.parameters())

    @contextmanager
    def _freeing(self, kind: str) -> Iterator[None]:
        before = anonymous_bytes()
        yield
        gc.collect()
        _trim()
        self._freed[kind] = self._freed.get(kind, 0) + max(0, before - anonymous_bytes())

    def _kv_tensors(self) -> Iterator[torch.Tensor]:
        for cache in self.model_runner.kv_caches:
            yield from cache if isinstance(cache, list | tuple) else (cache,)


def _storages(tensors: Iterable[torch.Tensor]) -> Iterator[torch.UntypedStorage]:
    seen: set[int] = set()
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            yield storage


def _map_large_allocations() -> None:
    """Let glibc map each large block by itself, so that freeing one gives it back.

    Left alone it raises the threshold to the largest block it has seen freed, up to 32 MiB;
    weights then lie in the heap of the core's thread, whose top ``malloc_trim`` never trims.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _trim() -> None:
    """Hand what the allocator holds back to the system (glibc; elsewhere nothing)."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)
