"""The connector's part in vLLM's worker: orders to the server, and what becomes of them.

LMCache's worker keeps its health in an event that its heartbeat sets and clears. Clearing it here
says "the server is lost" at once, and the heartbeat's recovery attaches again; that a quick
restart went unnoticed shows as a failed call, and ends the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from lmcache.integration.vllm.lmcache_mp_metadata import LMCacheMPRequestMetadata
from lmcache.v1.multiprocess.futures import MessagingFuture
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorWorkerMetadata

_log = logging.getLogger(__name__)
_UNREACHABLE = (OSError, RuntimeError)
"""Time-outs and refused connections are OSErrors; an order to a context that is not registered is
a RuntimeError."""


class NotStored(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """From workers to the scheduler: by request, the first token whose KV was not stored."""

    def __init__(self, first_token: dict[str, int]) -> None:
        self.first_token = first_token

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        assert isinstance(other, NotStored)
        both = (*self.first_token.items(), *other.first_token.items())
        merged: dict[str, int] = {}
        for request, token in both:
            merged[request] = min(token, merged.get(request, token))
        return NotStored(merged)


class TierWorker:
    """Around LMCache's worker adapter."""

    def __init__(self, worker: Any, chunk_tokens: int) -> None:
        self._worker = worker
        self._chunk_tokens = chunk_tokens
        self._not_stored: dict[str, int] = {}
        self._storing: dict[str, int] = {}
        self._is_unfit = False

    def register(self, register: Callable[[], None]) -> None:
        """Never fails an engine's start: an absent server is attached to when it comes."""
        self._worker._reregister_kv_caches_callback = self._attach_again
        try:
            register()
            self._check_chunk_tokens()
        except _UNREACHABLE as error:
            _log.warning("no KV tier for the moment: %s", type(error).__name__)
            self._lose_server()
        except ValueError as error:
            _log.warning("this model's KV does not fit the tier: %s", error)
            self._is_unfit = True
            self._lose_server()
        self._worker._ensure_heartbeat_started()

    def load(self, load: LMCacheMPRequestMetadata) -> None:
        with self._losing_server_on_failure():
            self._worker.submit_retrieve_request(
                load.request_id,
                load.op,
                self._worker.create_recorded_event(),
                cache_salt=load.cache_salt,
                request_configs=load.request_configs,
            )
            return
        # Once more: of a lost server it only notes that these blocks were not loaded.
        self._worker.submit_retrieve_request(load.request_id, load.op, None)

    def store(self, store: LMCacheMPRequestMetadata) -> None:
        self._storing[store.request_id] = store.op.start
        with self._losing_server_on_failure():
            self._worker.submit_store_request(
                store.request_id,
                store.op,
                self._worker.create_recorded_event(),
                cache_salt=store.cache_salt,
                request_configs=store.request_configs,
            )
        if not self._worker.is_healthy:
            self._note_not_stored(store.request_id)

    def settle(self) -> None:
        """Turn what has failed into what LMCache's worker takes for a failure."""
        for request, stored in list(self._worker.store_futures.items()):
            if self._has_failed(stored):
                self._worker.store_futures[request] = _failed()
                self._note_not_stored(request)
        for request, (loaded, blocks) in list(self._worker.retrieve_futures.items()):
            if self._has_failed(loaded):
                self._worker.retrieve_futures[request] = (_failed(), blocks)

    def forget(self, request: str) -> None:
        self._storing.pop(request, None)

    def not_stored(self) -> NotStored | None:
        """Since it was last asked."""
        news, self._not_stored = self._not_stored, {}
        return NotStored(news) if news else None

    def _note_not_stored(self, request: str) -> None:
        first = self._storing.get(request, 0)
        self._not_stored[request] = min(first, self._not_stored.get(request, first))

    def _has_failed(self, ordered: MessagingFuture[bool]) -> bool:
        """False too while it is under way."""
        with self._losing_server_on_failure():
            return ordered.query() and not ordered.result(timeout=0)
        return True

    @contextmanager
    def _losing_server_on_failure(self) -> Iterator[None]:
        try:
            yield
        except _UNREACHABLE as error:
            _log.warning("lost the KV tier: %s", type(error).__name__)
            self._lose_server()

    def _lose_server(self) -> None:
        self._worker._health_event.clear()

    def _attach_again(self) -> bool:
        """On LMCache's heartbeat thread, when the server answers again."""
        if self._is_unfit:
            return False
        try:
            self._check_chunk_tokens()
        except (*_UNREACHABLE, ValueError):
            return False
        reregister = adapters.LMCacheMPWorkerAdapter._reregister_kv_caches_callback
        with self._shown_a_layout():
            return bool(reregister(self._worker))

    @contextmanager
    def _shown_a_layout(self) -> Iterator[None]:
        """LMCache looks at the layout of KV alone, but would not look at what has no storage, as
        that of an engine which sleeps on a CPU. Nothing is stored or loaded meanwhile: the server
        counts as lost until this is over."""
        caches = self._worker.kv_caches
        if any(not each.untyped_storage().nbytes() for each in caches.values()):
            self._worker.kv_caches = {name: _like(each) for name, each in caches.items()}
        try:
            yield
        finally:
            self._worker.kv_caches = caches

    def _check_chunk_tokens(self) -> None:
        worker = self._worker
        answered = adapters.get_lmcache_chunk_size(worker.req_client, timeout=worker._mq_timeout)
        if answered != self._chunk_tokens:
            raise ValueError(f"the server's chunks have {answered} tokens")


def _like(cache: torch.Tensor) -> torch.Tensor:
    """Of that layout. Nobody writes to it, so it takes no memory."""
    return torch.empty_strided(cache.size(), cache.stride(), dtype=cache.dtype)


def _failed() -> MessagingFuture[bool]:
    """One that raises would end the engine."""
    settled: MessagingFuture[bool] = MessagingFuture()
    settled.set_result(False)
    return settled
