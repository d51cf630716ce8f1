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
from contextlib import AsyncExitStack
from dataclasses import dataclass
from secrets import token_hex

from controller.api.auth import Caller
from controller.api.bodies import (
    Call,
    ClientGone,
    conversation_id,
    parse_json,
    read_body,
    salted,
)
from controller.api.client_exchange import ClientExchange
from controller.api.connection import EngineBroken
from controller.api.errors import ApiError, as_api_error
from controller.api.forms import parse_form
from controller.api.forwarding import Forwarding
from controller.api.history import HistoryTurn, Wish, begin, wish_of
from controller.api.prefixes import prefix_keys
from controller.api.reply import Reply, Stage
from controller.api.routes import (
    InferenceLimits,
    Route,
    can_freeze,
    max_wait_s,
    passed_headers,
)
from controller.api.turns import told_of_turn
from controller.api.upstream import Answer, Upstream
from controller.api.waiting import ClientWatch, Heartbeat
from controller.conversation_ports import Conversations, Turn
from controller.core.names import NO_AFFINITY, Affinity, ReplicaId
from controller.history_ports import Histories
from controller.ports import Lease, Leases, Outlook, RequestCounts
from kv_store.conversations import ConversationKey
from kv_store.keys import domain_of, salt_of
from kv_store.reports import NEAR, WITH_TOKENS

log = logging.getLogger("torpor.api")

_CLIENT_LEFT = 499
_DEAD_CORE = b"EngineCore encountered an issue"
"""What vLLM's server says of itself once its engine core is dead (EngineDeadError)."""
_SILENT = "The engine said nothing for too long."
_ERROR_EVENTS = (b'data: {"error"', b"event: error")


@dataclass(slots=True)
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
        self,
        limits: InferenceLimits,
        leases: Leases,
        upstream: Upstream,
        metrics: RequestCounts,
        conversations: Conversations | None = None,
        elsewhere: Forwarding | None = None,
        histories: Histories | None = None,
    ) -> None:
        """``conversations`` None: none are kept, and their names only tell salts apart; or they
        are kept ``elsewhere``, and whatever names one is handed over."""
        self.conversations = conversations
        self.elsewhere = elsewhere
        self.histories = histories
        self.limits = limits
        self.leases = leases
        self.upstream = upstream
        self.metrics = metrics

    async def serve(
        self, asked: Asked, client: ClientExchange, known: Callable[[], tuple[str, ...]]
    ) -> None:
        """One request, to its end. ``known``: the models' names, for who asks for another."""
        stall_s = self.limits.client_stall_s
        reply = Reply(client, asked.request_id, asked.route.dialect, stall_s)
        exchange = _Exchange(self, asked, client, reply)
        try:
            await exchange.run()
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
            if not exchange.is_elsewhere:
                self.metrics.request(exchange.model, asked.path, reply.status or _CLIENT_LEFT)


class _Exchange:
    """One request on its way through."""

    def __init__(
        self, inference: Inference, asked: Asked, client: ClientExchange, reply: Reply
    ) -> None:
        self.model = ""
        """As metrics may name it: set once it is asked of the fleet, empty if there is none."""
        self.is_elsewhere = False
        """Handed over, and counted there."""
        self._was_granted = False
        self._inference = inference
        self._asked = asked
        self._client = client
        self._reply = reply
        self._arrived = time.monotonic()
        self._queued_s = 0.0
        self._limit_s: float | None = None
        self._can_freeze = True
        self._conversation = ""
        self._domain = ""
        """Within which its KV is shared."""
        self._turn: Turn | None = None
        self._history: HistoryTurn | None = None
        self._answer: Answer | None = None
        """The one that the client got."""

    def waited_s(self) -> float:
        return self._queued_s if self._was_granted else time.monotonic() - self._arrived

    async def run(self) -> None:
        call = await self._read()
        self._limit_s = max_wait_s(self._asked.headers)
        self._can_freeze = can_freeze(self._asked.headers)
        self.model = call.model
        self._conversation = conversation_id(self._asked.headers, call)
        wish = wish_of(self._asked.path, call.said, self._conversation)
        elsewhere = self._inference.elsewhere
        is_in_line = bool(self._conversation and self._asked.route.is_salted)
        if elsewhere is not None and (is_in_line or wish is not None):
            await self._hand_over(call, elsewhere)
            return
        if wish is not None:
            await self._recall(wish)
        tenant, isolation = self._asked.caller.tenant, self._inference.limits.kv_isolation
        self._domain = domain_of(isolation, tenant=tenant, conversation=self._conversation)
        heartbeat = self._heartbeat(call)
        async with ClientWatch(self._client, self._reply) as watch:
            try:
                await self._in_turn(call, heartbeat)
            finally:
                await heartbeat.stop()
        if watch.is_gone:
            raise ClientGone

    async def _hand_over(self, call: Call, elsewhere: Forwarding) -> None:
        own = [(b"x-request-id", self._asked.request_id.encode())]
        if self._conversation:
            own.append((b"x-conversation-id", self._conversation.encode()))
        names = {name for name, _ in own}
        headers = [pair for pair in self._asked.headers.items() if pair[0] not in names]
        client, path = self._client, self._asked.path
        both = client.receive, client.send
        await elsewhere.hand_over(path, [*headers, *own], call.body, *both)
        self.is_elsewhere = True

    async def _recall(self, wish: Wish) -> None:
        histories, tenant = self._inference.histories, self._asked.caller.tenant
        self._history = await begin(histories, tenant, self._conversation, wish)
        if self._history is not None:
            self._conversation = self._history.conversation

    async def _read(self) -> Call:
        headers, limits = self._asked.headers, self._inference.limits
        raw = self._client.whole_body()
        if raw is None or len(raw) > limits.max_body_bytes:
            raw = await read_body(
                self._client.receive, headers, limits.max_body_bytes, limits.body_s
            )
        if self._asked.route.is_form:
            return parse_form(raw, headers.get(b"content-type", b""))
        return parse_json(raw, is_named=b"x-conversation-id" in headers)

    def _heartbeat(self, call: Call) -> Heartbeat:
        every_s = self._inference.limits.heartbeat_s if self._is_told(call) else None
        return Heartbeat(self._reply, self._outlook, every_s)

    def _is_told(self, call: Call) -> bool:
        """While nothing comes of its answer."""
        return call.is_stream and self._asked.route.streams

    def _outlook(self) -> Outlook:
        return self._inference.leases.outlook(self.model)

    async def _in_turn(self, call: Call, heartbeat: Heartbeat) -> None:
        """After whatever was asked of its conversation before."""
        conversations = self._inference.conversations
        if not self._conversation or not self._asked.route.is_salted or conversations is None:
            return await self._until_answered(call, heartbeat)
        heartbeat.begin()
        key = ConversationKey(self._asked.caller.tenant, self._conversation)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._remaining_s()):
                    turn = conversations.turn(key, call.model)
                    self._turn = await stack.enter_async_context(turn)
                    self._reply.ends = self._turn.answered
            except TimeoutError:
                message = "An earlier request of this conversation took too long."
                raise ApiError("deadline_passed", message) from None
            if self._history is not None:
                call = await self._history.prepared(call)
            self._queued_s += time.monotonic() - self._arrived
            return await self._until_answered(call, heartbeat)

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
            priority=call.priority,
            affinity=self._affinity(call),
            can_freeze=self._can_freeze,
        ) as lease:
            await heartbeat.stop()
            self._granted(lease)
            try:
                engines_id = self._engines_id(lease)
                await self._relay(call, lease, engines_id)
                await self._turn_ended(lease, engines_id)
            except EngineBroken as broken:
                leases.report_broken(lease, broken.reason)
                raise

    def _affinity(self, call: Call) -> Affinity:
        """A retry may as well go back there: an engine that broke is not there to be picked."""
        if not self._asked.route.is_salted:
            return NO_AFFINITY
        home = self._turn.home if self._turn is not None else ""
        domain = self._domain, self._inference.limits.prefix_secret
        return Affinity(ReplicaId(home) if home else None, prefix_keys(call.body, *domain))

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

    async def _turn_ended(self, lease: Lease, engines_id: str) -> None:
        """While the lease still holds the engine where it is. The client has its answer."""
        turn, answer = self._turn, self._answer
        if turn is None or answer is None or answer.status >= 400:
            return
        told = None
        if lease.kv_identity:
            told = await told_of_turn(self._inference.upstream, lease.endpoint, engines_id)
        await turn.spoke(lease.replica, self._salt(lease), answer.kv, told)

    async def _relay(self, call: Call, lease: Lease, engines_id: str) -> None:
        route, reply = self._asked.route, self._reply
        headers = passed_headers(self._asked.headers, engines_id)
        self._answer = None
        if self._turn is not None:
            self._turn.reaches()
        async with self._inference.upstream.post(
            lease.endpoint, route.upstream, self._body(call, lease, engines_id), headers
        ) as answer:
            first = b""
            while not (first or answer.is_over):
                first = await self._chunk(call, answer)
            _check(answer, first)
            self._answer = answer
            if self._turn is not None and answer.is_sse:
                self._turn.began(answer.kv)
            if answer.status < 400:
                ttft_s = time.monotonic() - self._arrived
                self._inference.metrics.first_byte(self.model, lease.state, ttft_s)
            if answer.kv:
                self._inference.metrics.kv_found(self.model, answer.kv)
            if reply.stage is Stage.COMMENTS and not answer.is_sse:
                await reply.translate(answer.status, first + await answer.rest())
                return
            if self._history is not None and answer.status < 400:
                await self._relay_kept(self._history, answer, first)
                return
            await reply.begin(answer, first)
            while reply.stage is not Stage.ENDED:
                await self._pour(call, answer)
                await reply.drained()

    async def _pour(self, call: Call, answer: Answer) -> None:
        """As much as there is room for, or comes until the engine is frozen."""
        reply = self._reply
        is_frozen = await answer.pour(reply.take)
        if is_frozen and answer.is_sse and self._is_told(call):
            await reply.frozen()
        elif answer.is_over and reply.stage is not Stage.ENDED:
            await reply.forward(b"", is_last=True)

    async def _chunk(self, call: Call, answer: Answer) -> bytes:
        """The next bytes; where the engine is frozen there are none, and a stream is told so."""
        chunk = await answer.chunk()
        if not (chunk or answer.is_over) and answer.is_sse and self._is_told(call):
            await self._reply.frozen()
        return chunk

    async def _relay_kept(self, history: HistoryTurn, answer: Answer, first: bytes) -> None:
        """The client has the end of it once it is kept."""
        reply = self._reply
        if not answer.is_sse:
            whole = await history.answered(first + await answer.rest())
            answer.replaced(whole)
            return await reply.begin(answer, whole)
        history.listen()
        await history.passes(first)
        await reply.begin(answer, first)
        while not answer.is_over:
            chunk = await answer.chunk()
            await history.passes(chunk)
            await reply.forward(chunk, is_last=answer.is_over)
        return None

    def _engines_id(self, lease: Lease) -> str:
        """The engine tells what KV it found by request: the same id must not come twice, and
        callers choose theirs. Ids of responses are made from it, and stand in paths."""
        own = self._asked.request_id
        if not lease.kv_identity:
            return own
        turn, mark = self._turn, "-"
        if turn is not None:
            mark = f"{NEAR}{WITH_TOKENS}" if turn.stays_near(lease.replica) else WITH_TOKENS
        return f"{own.replace('/', '-')}{mark}{token_hex(8)}"

    def _body(self, call: Call, lease: Lease, engines_id: str) -> bytes:
        """With the salt that tells its KV from everybody else's, in the engine's own cache too."""
        if not self._asked.route.is_salted:
            return call.body
        takes_id = lease.kv_identity and self._asked.route.takes_id
        own_id = f"resp_{engines_id}" if takes_id else ""
        return salted(call.body, self._salt(lease), own_id)

    def _salt(self, lease: Lease) -> str:
        limits = self._inference.limits
        destination = limits.kv_destinations.get(self._asked.caller.tenant, "")
        return salt_of(lease.kv_identity, self._domain, destination, lossy=limits.kv_lossy)


def _check(answer: Answer, first: bytes) -> None:
    """Raises EngineBroken for an answer that no living engine of ours gives."""
    if answer.status == 401:
        raise EngineBroken("the engine refused our key")
    is_error = answer.status >= 500 or (answer.is_sse and first.startswith(_ERROR_EVENTS))
    if is_error and _DEAD_CORE in first:
        raise EngineBroken("the engine's core is dead")
