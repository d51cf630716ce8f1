"""The inference path: plain ASGI beside FastAPI, a pass-through that copies bytes.

A request is granted a lease, its body goes to that engine, the engine's bytes come back as they
arrive. Nothing of the answer is parsed.

Until the engine's first byte has been forwarded, a broken engine costs the client nothing: it is
reported, and the request asks for another lease within what remains of its waiting time. The
head of the answer is therefore held back until its first bytes are here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from secrets import token_hex

from starlette.types import Receive, Send

from controller.api.auth import Caller
from controller.api.bodies import Call, ClientGone, parse_json, read_body, salted
from controller.api.connection import EngineBroken
from controller.api.errors import ApiError, as_api_error
from controller.api.forms import parse_form
from controller.api.reply import Reply, Stage
from controller.api.routes import InferenceLimits, Route, max_wait_s, passed_headers
from controller.api.upstream import Answer, Upstream
from controller.api.waiting import ClientWatch, Heartbeat
from controller.metrics import Metrics
from controller.ports import Lease, Leases, Outlook
from kv_store.keys import domain_of, salt_of

log = logging.getLogger("torpor.api")

_CLIENT_LEFT = 499
_DEAD_CORE = b"EngineCore encountered an issue"
"""What vLLM's server says of itself once its engine core is dead (EngineDeadError)."""
_SILENT = "The engine said nothing for too long."
_ERROR_EVENTS = (b'data: {"error"', b"event: error")


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for what, as the gateway knows it."""

    route: Route
    path: str
    caller: Caller
    request_id: str
    headers: Mapping[bytes, bytes]


class Inference:
    """Serves the allow-listed routes."""

    def __init__(
        self, limits: InferenceLimits, leases: Leases, upstream: Upstream, metrics: Metrics
    ) -> None:
        self.limits = limits
        self.leases = leases
        self.upstream = upstream
        self.metrics = metrics

    async def serve(
        self, asked: Asked, receive: Receive, send: Send, known: Callable[[], tuple[str, ...]]
    ) -> None:
        """One request, to its end. ``known``: the models' names, for who asks for another."""
        reply = Reply(send, asked.request_id, asked.route.dialect)
        exchange = _Exchange(self, asked, reply)
        try:
            await exchange.run(receive)
        except ClientGone:
            reply.status = _CLIENT_LEFT
        except Exception as error:
            refused = as_api_error(error, known)
            if refused.code == "internal_error":
                log.exception("request %s failed", asked.request_id)
            if refused.code == "model_not_found":
                exchange.model = ""
            reply.waited(exchange.waited_s())
            await reply.fail(refused)
        finally:
            self.metrics.request(exchange.model, asked.path, reply.status or _CLIENT_LEFT)


class _Exchange:
    """One request on its way through."""

    def __init__(self, inference: Inference, asked: Asked, reply: Reply) -> None:
        self.model = ""
        """As metrics may name it: set once it is asked of the fleet, empty if there is none."""
        self._was_granted = False
        self._inference = inference
        self._asked = asked
        self._reply = reply
        self._arrived = time.monotonic()
        self._queued_s = 0.0
        self._limit_s: float | None = None

    def waited_s(self) -> float:
        return self._queued_s if self._was_granted else time.monotonic() - self._arrived

    async def run(self, receive: Receive) -> None:
        call = await self._read(receive)
        self._limit_s = max_wait_s(self._asked.headers)
        self.model = call.model
        heartbeat = self._heartbeat(call)
        stall_s = self._inference.limits.client_stall_s
        async with ClientWatch(receive, self._reply, stall_s) as watch:
            try:
                await self._until_answered(call, heartbeat)
            finally:
                await heartbeat.stop()
        if watch.is_gone:
            raise ClientGone

    async def _read(self, receive: Receive) -> Call:
        headers, limits = self._asked.headers, self._inference.limits
        raw = await read_body(receive, headers, limits.max_body_bytes, limits.body_s)
        if self._asked.route.is_form:
            return parse_form(raw, headers.get(b"content-type", b""))
        return parse_json(raw)

    def _heartbeat(self, call: Call) -> Heartbeat:
        is_told = call.is_stream and self._asked.route.streams
        every_s = self._inference.limits.heartbeat_s if is_told else None
        return Heartbeat(self._reply, self._outlook, every_s)

    def _outlook(self) -> Outlook:
        return self._inference.leases.outlook(self.model)

    async def _until_answered(self, call: Call, heartbeat: Heartbeat) -> None:
        """On one engine, or on as many as break before they said anything."""
        limits = self._inference.limits
        for attempt in range(limits.retries + 1):
            try:
                return await self._on_one_engine(call, heartbeat)
            except EngineBroken as broken:
                if broken.is_silent:
                    raise ApiError("engine_silent", _SILENT) from None
                if self._reply.stage is Stage.FORWARDING:
                    raise ApiError("engine_failed", "The engine failed while answering.") from None
                log.warning("request %s: %s", self._asked.request_id, broken.reason)
            if attempt == limits.retries:
                break
            self._inference.metrics.retried(call.model)
            heartbeat.begin()
            await asyncio.sleep(limits.retry_backoff_s * 2**attempt)
        raise ApiError("engine_failed", "The engine failed before it answered, several times.")

    async def _on_one_engine(self, call: Call, heartbeat: Heartbeat) -> None:
        asked, leases = self._asked, self._inference.leases
        heartbeat.begin()
        async with leases.acquire(
            call.model,
            request_id=asked.request_id,
            tenant=asked.caller.tenant,
            max_wait_s=self._remaining_s(),
        ) as lease:
            await heartbeat.stop()
            self._granted(lease)
            try:
                await self._relay(call, lease)
            except EngineBroken as broken:
                leases.report_broken(lease, broken.reason)
                raise

    def _remaining_s(self) -> float | None:
        if self._limit_s is None:
            return None
        return max(0.0, self._limit_s - self._queued_s)

    def _granted(self, lease: Lease) -> None:
        self._was_granted = True
        self._queued_s += lease.queued_s
        if self._limit_s is None:
            self._limit_s = lease.max_wait_s
        self._reply.granted(lease, self._queued_s)
        self._inference.metrics.granted(self.model, lease.state, lease.queued_s)

    async def _relay(self, call: Call, lease: Lease) -> None:
        route, reply = self._asked.route, self._reply
        headers = passed_headers(self._asked.headers, self._engines_id(lease))
        async with self._inference.upstream.post(
            lease.endpoint, route.upstream, self._body(call, lease), headers
        ) as answer:
            first = await answer.chunk()
            _check(answer, first)
            if answer.status < 400:
                ttft_s = time.monotonic() - self._arrived
                self._inference.metrics.first_byte(self.model, lease.state, ttft_s)
            if answer.kv:
                self._inference.metrics.kv.found(self.model, answer.kv)
            if reply.stage is Stage.COMMENTS and not answer.is_sse:
                await reply.translate(answer.status, first + await answer.rest())
                return
            await reply.begin(answer, first)
            while not answer.is_over:
                chunk = await answer.chunk()
                await reply.forward(chunk, is_last=answer.is_over)

    def _engines_id(self, lease: Lease) -> str:
        """The engine tells what KV it found by request: the same id must not come twice, and
        callers choose theirs."""
        own = self._asked.request_id
        return f"{own}-{token_hex(8)}" if lease.kv_identity else own

    def _body(self, call: Call, lease: Lease) -> bytes:
        """With the salt that tells its KV from everybody else's."""
        if not lease.kv_identity or not self._asked.route.is_salted:
            return call.body
        conversation = self._asked.headers.get(b"x-conversation-id", b"").decode("latin-1")
        isolation, tenant = self._inference.limits.kv_isolation, self._asked.caller.tenant
        domain = domain_of(isolation, tenant=tenant, conversation=conversation)
        return salted(call.body, salt_of(lease.kv_identity, domain))


def _check(answer: Answer, first: bytes) -> None:
    """Raises EngineBroken for an answer that no living engine of ours gives."""
    if answer.status == 401:
        raise EngineBroken("the engine refused our key")
    is_error = answer.status >= 500 or (answer.is_sse and first.startswith(_ERROR_EVENTS))
    if is_error and _DEAD_CORE in first:
        raise EngineBroken("the engine's core is dead")
