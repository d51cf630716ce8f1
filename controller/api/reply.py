"""The client's side of one inference request: what it has been sent, and how it may go on.

Four stages, in order: nothing sent; comments sent (a stream that still waits: its status is 200
for good); the engine's bytes are being forwarded (no other engine can take over); ended.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from enum import Enum

from controller.api.bodies import ClientGone
from controller.api.client_exchange import ClientExchange
from controller.api.errors import ApiError, Dialect
from controller.api.upstream import Answer
from controller.ports import Lease, Outlook

RawHeaders = list[tuple[bytes, bytes]]

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_FROZEN = b": torpor phase=frozen\n\n"
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def _nothing() -> None:
    pass


class Stage(Enum):
    NOTHING = "nothing"
    COMMENTS = "comments"
    FORWARDING = "forwarding"
    ENDED = "ended"


class Reply:
    """Owns what is said to the client of one request. A client that takes nothing of it for
    ``stall_s`` has left, as it would hold its lease for ever: ClientGone."""

    def __init__(
        self, client: ClientExchange, request_id: str, dialect: Dialect, stall_s: float
    ) -> None:
        self.stage = Stage.NOTHING
        self.status = 0
        """For the metrics; that of the error where a stream failed. 0: nothing was sent."""
        self.ends: Callable[[], None] = _nothing
        """Called when the client is about to be given the end of it."""
        self._client = client
        self._stall_s = stall_s
        self._own = [(b"x-request-id", request_id.encode())]
        self._dialect = dialect
        self._tail = b""
        self._is_sse = False

    def granted(self, lease: Lease, queued_s: float) -> None:
        """The wait is over; its figures go with whatever is sent next."""
        self._own[1:] = [
            (b"x-torpor-model-state", lease.state.value.encode()),
            (b"x-torpor-queue-ms", b"%d" % round(queued_s * 1e3)),
            (b"x-torpor-wake-ms", b"%d" % round(lease.wake_s * 1e3)),
        ]

    def _figures(self) -> bytes:
        """Of the wait, for a stream whose headers are gone; nothing where it was not granted."""
        if len(self._own) < 4:
            return b""
        state, queue_ms, wake_ms = [value for _, value in self._own[1:]]
        return b": torpor state=%b queue_ms=%b wake_ms=%b\n\n" % (state, queue_ms, wake_ms)

    def waited(self, seconds: float) -> None:
        """The wait ended without a grant."""
        if len(self._own) == 1:
            self._own.append((b"x-torpor-queue-ms", b"%d" % round(seconds * 1e3)))

    async def comment(self, outlook: Outlook) -> None:
        """Tell a waiting stream how it stands; the first one settles status and headers."""
        if self.stage is Stage.NOTHING:
            self.stage = Stage.COMMENTS
            self._start(200, [*self._own[:1], *_SSE_HEADERS])
        estimate_ms = round(min(outlook.estimate_s, 1e6) * 1e3)
        await self._body(f": torpor phase={outlook.phase} estimate_ms={estimate_ms}\n\n".encode())

    async def frozen(self) -> None:
        """Tell a stream that its engine is; between two events, never within one."""
        match self.stage:
            case Stage.NOTHING:
                self.stage = Stage.COMMENTS
                self._start(200, [*self._own[:1], *_SSE_HEADERS])
            case Stage.COMMENTS:
                pass
            case Stage.FORWARDING if self._is_sse and self._tail.endswith(_EVENT_ENDS):
                pass
            case _:
                return
        await self._body(_FROZEN)

    async def begin(self, answer: Answer, first: bytes) -> None:
        """The engine's head and its first bytes; from here on there is no way back."""
        is_commented = self.stage is Stage.COMMENTS
        self.stage = Stage.FORWARDING
        self._is_sse = answer.is_sse
        if is_commented:
            kv = b": torpor kv %b\n\n" % answer.kv if answer.kv else b""
            first = self._figures() + kv + first
        else:
            self._start(answer.status, answer.headers + self._own)
        await self.forward(first, is_last=answer.is_over)

    async def forward(self, chunk: bytes, is_last: bool = False) -> None:
        await self.drained()
        self.take(chunk, is_last)

    def take(self, chunk: bytes, is_last: bool) -> bool:
        """The engine's next bytes; whether there is room for more."""
        self._tail = chunk[-4:] if len(chunk) >= 4 else (self._tail + chunk)[-4:]
        self._say(chunk, is_last)
        return not self._client.is_full

    async def translate(self, status: int, whole: bytes) -> None:
        """An engine's answer that is no stream, to a client that was already promised one."""
        event = b"event: error\n" if status >= 400 else b""
        try:
            said = json.loads(whole)
        except ValueError:
            return await self.fail(ApiError("engine_failed", f"The engine answered {status}."))
        self.stage = Stage.FORWARDING
        self.status = status
        line = json.dumps(said, separators=(",", ":")).encode()
        return await self._body(self._figures() + event + b"data: " + line + b"\n\n", is_last=True)

    async def fail(self, error: ApiError) -> None:
        """Say what went wrong in the way that is still open. Where none is, return without
        ending: the server then cuts the connection, which no client takes for a whole answer."""
        match self.stage:
            case Stage.NOTHING:
                self._refuse(error)
            case Stage.COMMENTS:
                self.status = error.status
                await self._body(self._figures() + error.event(self._dialect), is_last=True)
            case Stage.FORWARDING:
                self.status = error.status
                if self._is_sse and self._tail.endswith(_EVENT_ENDS):
                    await self._body(error.event(self._dialect), is_last=True)
            case Stage.ENDED:
                pass

    def _refuse(self, error: ApiError) -> None:
        body = error.body(self._dialect)
        self.stage = Stage.ENDED
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *error.headers(),
        ]
        self._start(error.status, head + self._own)
        self._client.say(body, is_last=True)

    def _start(self, status: int, headers: RawHeaders) -> None:
        self.status = status
        self._client.begin(status, headers)

    async def _body(self, chunk: bytes, is_last: bool = False) -> None:
        await self.drained()
        self._say(chunk, is_last)

    def _say(self, chunk: bytes, is_last: bool) -> None:
        """Ended is what the client has been given to its end, not what waits to be taken."""
        if is_last:
            self.ends()
        self._client.say(chunk, is_last)
        if is_last:
            self.stage = Stage.ENDED

    async def drained(self) -> None:
        """Returns when there is room."""
        if not self._client.is_full:
            return
        try:
            async with asyncio.timeout(self._stall_s):
                await self._client.drained()
        except TimeoutError:
            raise ClientGone from None
