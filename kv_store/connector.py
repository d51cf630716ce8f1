"""The vLLM connector of an engine that attaches to the node's KV tier.

LMCache's own connector, but for this:

- Decoded tokens are stored too, so that turn N+1 finds the answer of turn N.
- ``reset_cache`` keeps the tier. vLLM calls it whenever an engine sleeps, and stock it drops the
  host tier of *every* model on the node. Keys hold a fingerprint of the weights, so what weights
  that have changed left behind is never found again.
- The server may be absent at the engine's start, die, hang, restart or run full at any time:
  requests recompute, and the engine attaches again by itself. Each wait is bounded
  (``KVAttachment``).
- A request without a salt passes the tier by: nobody vouches for what its KV depends on.
- What a request found, and what it stored, is told to a datagram socket
  (``kv_store.reports``); a conversation's turn tells its tokens too.

The chunk size is told to the engine, because a server that is absent cannot be asked. A server
with another chunk size is not attached to: its answers would be misread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llvmlite.binding import ffi
from lmcache.integration.vllm import vllm_multi_process_adapter as adapters
from lmcache.integration.vllm.lmcache_mp_connector import LMCacheMPConnector
from lmcache.integration.vllm.lmcache_mp_metadata import (
    LMCacheMPRequestMetadata,
    LMCacheMPRequestState,
)
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

from kv_store.attach import CHUNK_TOKENS, LOOKUP_LIMIT_S, REPORTS
from kv_store.connector_worker import NotStored, TierWorker
from kv_store.found import Why
from kv_store.reports import NEAR, WITH_TOKENS, Found, Reporter, Stored

# LMCache imports numba, whose handle on LLVM answers to every name with a function, ``__dict__``
# included. vLLM, when it replaces its Triton kernels on a CPU, looks into everything imported.
ffi.lib._fntab["__dict__"] = {}


class TorporConnector(LMCacheMPConnector):  # type: ignore[misc]
    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._chunk_tokens = int(extra[CHUNK_TOKENS])
        with _told_instead_of_asking(self._chunk_tokens):
            super().__init__(vllm_config, role, kv_cache_config)
        self._lookup_limit_s = float(extra[LOOKUP_LIMIT_S])
        self._reporter = Reporter(extra.get(REPORTS))
        self._told: dict[str, Found] = {}
        self._given_up: set[str] = set()
        self._ending: dict[str, Stored] = {}
        self._not_stored: dict[str, int] = {}
        if role == KVConnectorRole.SCHEDULER:
            self._watch_as_scheduler()
        else:
            self._worker = TierWorker(self.worker_adapter, self._chunk_tokens)

    def shutdown(self) -> None:
        super().shutdown()
        self._reporter.close()

    # Scheduler

    def reset_cache(self) -> bool:
        """True without doing anything: the tier stays, and the engine's own cache is its own."""
        return True

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        tracker = self._get_or_create_request_tracker(request)
        if not tracker.cache_salt:
            return 0, False
        found, is_loaded_later = super().get_num_new_matched_tokens(request, num_computed_tokens)
        if found is None:
            waited_s = time.monotonic() - (tracker.lookup_started_at or time.monotonic())
            if waited_s < self._lookup_limit_s:
                return None, is_loaded_later
            self._give_up(tracker)
            found, is_loaded_later = 0, False
        prompt_tokens, tier_tokens = request.num_prompt_tokens, tracker.num_lmcache_hit_tokens
        computed_tokens = prompt_tokens - max(num_computed_tokens, tier_tokens)
        self._report_found(
            Found(
                request.request_id,
                prompt_tokens=prompt_tokens,
                engine_tokens=num_computed_tokens,
                tier_tokens=tier_tokens,
                why=self._why_computed(tracker, computed_tokens),
            )
        )
        return found, is_loaded_later

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        self._told.pop(request.request_id, None)
        self._given_up.discard(request.request_id)
        tracker = self.request_trackers.get(request.request_id)
        if tracker is not None and tracker.cache_salt:
            self._ending[request.request_id] = Stored(
                request.request_id,
                tokens=len(tracker.all_token_ids),
                stored_tokens=tracker.num_stored_tokens,
                already_tokens=tracker.num_lmcache_hit_tokens,
                ranks=self.scheduler_adapter.world_size,
                token_ids=_told(request.request_id, tracker.all_token_ids),
            )
        is_freed_later, params = super().request_finished(request, block_ids)
        if not is_freed_later:
            self._report_stored([request.request_id])
        return is_freed_later, params

    def update_connector_output(self, connector_output: Any) -> None:
        super().update_connector_output(connector_output)
        news = connector_output.kv_connector_worker_meta
        if isinstance(news, NotStored):
            merged = NotStored(self._not_stored).aggregate(news)
            assert isinstance(merged, NotStored)
            self._not_stored = merged.first_token
        self._report_stored(connector_output.finished_sending or ())

    def _watch_as_scheduler(self) -> None:
        """Detached until the server has answered, so that no request waits for an absent one."""
        scheduler = self.scheduler_adapter
        for url, client in scheduler.req_clients.items():
            if not adapters.send_ping(client, timeout=scheduler._heartbeat_interval):
                scheduler._health_events[url].clear()
        scheduler._ensure_heartbeat_started()

    def _give_up(self, tracker: Any) -> None:
        """The durable tier is too slow for this request; what it loads stays for the next one."""
        self.scheduler_adapter.cleanup_lookup_result(tracker.request_id)
        tracker.state = LMCacheMPRequestState.BYPASS_LMCACHE
        self._given_up.add(tracker.request_id)

    def _why_computed(self, tracker: Any, computed_tokens: int) -> str:
        """Of ``kv_store.found.Why``; empty where no more could lie in a tier, or was found."""
        if computed_tokens < self._chunk_tokens:
            return ""
        if tracker.state == LMCacheMPRequestState.BYPASS_LMCACHE:
            return Why.SLOW if tracker.request_id in self._given_up else Why.FAILED
        if not self.scheduler_adapter.is_healthy:
            return Why.AWAY
        return Why.NEAR if NEAR in tracker.request_id else ""

    def _report_found(self, found: Found) -> None:
        """Once, though vLLM asks again at each step until there is room for the request."""
        if self._told.get(found.request) != found:
            self._told[found.request] = found
            self._reporter.send(found)

    def _report_stored(self, requests: Iterable[str]) -> None:
        for request in requests:
            ended = self._ending.pop(request, None)
            if ended is not None:
                self._reporter.send(ended.up_to(self._not_stored.pop(request, None)))

    # Worker

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._worker.register(partial(super().register_kv_caches, kv_caches))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        for order in self._ordered("RETRIEVE"):
            self._worker.load(order)

    def wait_for_save(self) -> None:
        for order in self._ordered("STORE"):
            self._worker.store(order)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        self._worker.settle()
        sent, received = super().get_finished(finished_req_ids)
        for request in sent or ():
            self._worker.forget(request)
        return sent, received

    def build_connector_worker_meta(self) -> NotStored | None:
        return self._worker.not_stored()

    def _ordered(self, direction: str) -> Iterator[LMCacheMPRequestMetadata]:
        for order in self._get_connector_metadata().requests:
            if order.direction == direction and order.cache_salt:
                yield order


def _told(request: str, token_ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(token_ids) if WITH_TOKENS in request else ()


@contextmanager
def _told_instead_of_asking(chunk_tokens: int) -> Iterator[None]:
    """LMCache's adapters ask the server for its chunk size as they are made, and fail without."""
    asked = adapters.get_lmcache_chunk_size, adapters.get_experimental
    adapters.get_lmcache_chunk_size = lambda *_, **__: chunk_tokens
    adapters.get_experimental = lambda *_, **__: set()
    try:
        yield
    finally:
        adapters.get_lmcache_chunk_size, adapters.get_experimental = asked
