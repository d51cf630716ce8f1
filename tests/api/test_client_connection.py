"""The server's side of HTTP, against bytes on the wire, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from controller.api.client_connection import ClientConnection
from tests.api.wire import Pipe, cut
from tests.drivers.virtual_loop import run

GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;ext=1\r\n \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\n"
)
EXPECTS = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
UPGRADES = POST.replace(b"Host: x", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost: x")
ABSOLUTE = POST.replace(b" /p ", b" http://x/p ")
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"
GOT = ANSWER % (8, b"GET /a b")
POSTED = ANSWER % (19, b"POST /p hello world")
VALID = [
    (GET, GOT),
    (POST, POSTED),
    (CHUNKED, POSTED),
    (EXPECTS, POSTED),
    (UPGRADES, POSTED),
    (ABSOLUTE, POSTED),
    (GET + CHUNKED + UPGRADES + GET, GOT + POSTED + POSTED + GOT),
]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            said = f"{scope['method']} {scope['path']} ".encode() + body
            await answer(send, 200, said.rstrip(), b"content-length: %d" % len(said.rstrip()))
            return


async def answer(send: Any, status: int, body: bytes, *headers: bytes) -> None:
    pairs = [tuple(line.split(b": ", 1)) for line in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


class Stand:
    """A connection without a socket, and the application behind it."""

    def __init__(self, app: Any = echo) -> None:
        config = uvicorn.Config(app, lifespan="off", log_config=None, proxy_headers=False)
        config.load()
        self.pipe = Pipe()
        self.state = ServerState()
        self.connection = ClientConnection(config, self.state, {})
        self.connection.connection_made(self.pipe)

    async def hear(self, *pieces: bytes) -> bytes:
        """All that was said until everybody rests."""
        for piece in pieces:
            if not self.pipe.is_closed:
                self.connection.data_received(piece)
                await asyncio.sleep(0.001)
        return self.pipe.written

    async def leave(self) -> None:
        self.pipe.is_closed = True
        self.connection.connection_lost(None)
        await asyncio.sleep(0.001)
        assert self.state.tasks == self.state.connections == set()


def told(*pieces: bytes, app: Any = echo) -> tuple[bytes, bool]:
    """What is said to these reads, and whether the connection is closed then."""

    async def talk() -> tuple[bytes, bool]:
        stand = Stand(app)
        said = await stand.hear(*pieces)
        is_closed = stand.pipe.is_closed
        await stand.leave()
        return said, is_closed

    return run(talk())


@given(st.sampled_from(VALID), st.lists(st.integers(0, 500), max_size=30))
def test_however_it_is_split_the_answer_is_the_same(
    pair: tuple[bytes, bytes], places: list[int]
) -> None:
    said, is_closed = told(*cut(pair[0], places))
    assert said.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"") == pair[1]
    assert not is_closed


@given(st.sampled_from([pair[0] for pair in VALID[:-1]]), st.integers(0, 500))
def test_what_is_cut_short_is_not_answered(raw: bytes, end: int) -> None:
    said, _ = told(raw[: end % len(raw)])
    assert said in (b"", b"HTTP/1.1 100 Continue\r\n\r\n")


@given(
    st.one_of(
        st.lists(st.binary(max_size=200), max_size=5),
        st.lists(st.binary(max_size=80).map(lambda tail: POST[:30] + tail), max_size=3),
        st.lists(st.binary(max_size=80).map(lambda tail: CHUNKED[:70] + tail), max_size=3),
    )
)
@settings(max_examples=300)
def test_garbage_never_hangs(raw: list[bytes]) -> None:
    said, is_closed = told(*raw)
    assert not said or said.startswith(b"HTTP/1.1 ")
    assert is_closed or b" 400 " not in said


@given(st.binary(min_size=1, max_size=200).filter(lambda raw: not raw[:1].isalpha()))
def test_what_is_no_http_gets_a_400(raw: bytes) -> None:
    said, is_closed = told(raw + b"\0")
    assert said.startswith(b"HTTP/1.1 400 ")
    assert is_closed


@pytest.mark.parametrize(
    "raw",
    [
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /p HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"POST /p HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET \xff HTTP/1.1\r\n\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    said, is_closed = told(raw)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert is_closed


def test_heads_are_bounded() -> None:
    said, is_closed = told(b"GET / HTTP/1.1\r\n", *[b"X: %b\r\n" % (b"x" * 1000)] * 70)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert is_closed


def test_what_is_refused_is_refused_once() -> None:
    said, is_closed = told(b"\0" * 200_000)
    assert (said.count(b"HTTP/1.1"), is_closed) == (1, True)


def test_upgrades_are_declined_one_after_the_other() -> None:
    assert told(UPGRADES * 1000) == (POSTED * 1000, False)


def test_garbage_after_a_request_ends_the_connection_after_its_answer() -> None:
    assert told(POST + b"\0\0\0") == (POSTED, True)


@pytest.mark.parametrize(
    "raw",
    [
        CHUNKED[:75] + b"no length\r\n",
        CHUNKED.replace(b"1;ext", b"1 ;ext"),
        CHUNKED.replace(b"Trailer: x", b"Content-Length: 11"),
        POST.replace(b"Content-Length: 11", b"Transfer-Encoding: gzip"),
    ],
)
def test_a_body_that_breaks_gets_a_400(raw: bytes) -> None:
    said, is_closed = told(raw)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert is_closed


def test_a_body_that_breaks_is_answered_after_the_request_before_it() -> None:
    said, is_closed = told(POST + CHUNKED[:75] + b"no length\r\n")
    assert said.startswith(POSTED + b"HTTP/1.1 400 ")
    assert is_closed


def test_who_takes_nothing_of_the_last_answer_is_not_waited_for() -> None:
    async def talk() -> None:
        stand = Stand()
        stand.pipe.untaken = 2000
        await stand.hear(POST)
        await asyncio.sleep(5)
        assert stand.pipe.is_closed
        stand.pipe.untaken = 1000
        await asyncio.sleep(300)
        assert not stand.pipe.is_aborted
        await asyncio.sleep(300)
        assert stand.pipe.is_aborted
        await stand.leave()

    run(talk())


def test_requests_wait_for_the_one_before_them() -> None:
    async def talk() -> None:
        gate = asyncio.Event()
        asked = []

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope["path"])
            await gate.wait()
            await echo(scope, receive, send)

        stand = Stand(slow)
        assert await stand.hear(GET + POST) == b""
        assert asked == ["/a b"]
        assert stand.pipe.is_paused
        gate.set()
        assert await stand.hear(b"") == GOT + POSTED
        assert not stand.pipe.is_paused
        await stand.leave()

    run(talk())


def test_a_body_that_nobody_takes_is_not_read_on() -> None:
    async def talk() -> None:
        gate = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await echo(scope, receive, send)

        stand = Stand(slow)
        head = b"POST /p HTTP/1.1\r\nContent-Length: 100000\r\n\r\n"
        await stand.hear(head, b"x" * 70_000)
        assert stand.pipe.is_paused
        gate.set()
        await stand.hear(b"")
        assert not stand.pipe.is_paused
        said = await stand.hear(b"x" * 30_000)
        assert said.endswith(b"x" * 100_000)
        await stand.leave()

    run(talk())


@pytest.mark.parametrize("is_lost", [False, True])
def test_an_answer_that_nobody_takes_is_not_gone_on_with(is_lost: bool) -> None:
    async def talk() -> None:
        stand = Stand()
        stand.connection.pause_writing()
        assert await stand.hear(POST) == b""
        if not is_lost:
            stand.connection.resume_writing()
            assert await stand.hear(b"") == POSTED
        await stand.leave()

    run(talk())


def test_who_says_nothing_is_not_waited_for() -> None:
    async def talk() -> None:
        idle, slow, busy = Stand(), Stand(), Stand()
        await slow.hear(POST, POST[:30])
        await asyncio.sleep(4.9)
        assert await busy.hear(POST) == POSTED
        await asyncio.sleep(0.2)
        assert [one.pipe.is_closed for one in (idle, slow, busy)] == [True, False, False]
        await asyncio.sleep(5)
        assert [one.pipe.is_closed for one in (slow, busy)] == [False, True]
        await slow.hear(POST[30:40])
        await asyncio.sleep(21)
        assert slow.pipe.is_closed
        for stand in (idle, slow, busy):
            await stand.leave()

    run(talk())


def test_a_request_that_is_with_the_application_has_time() -> None:
    async def talk() -> None:
        stand = Stand()
        await stand.hear(POST[:-1])
        await asyncio.sleep(3600)
        assert await stand.hear(POST[-1:]) == POSTED
        await stand.leave()

    run(talk())


BROKEN = [
    (b"x: a\r\nset-cookie: b",),
    (b"x: a\nb",),
    (b"x: a\0b",),
    (b"content-length: 3",),
    (b"content-length: 30",),
]


@pytest.mark.parametrize("headers", BROKEN)
def test_what_an_application_does_wrong_is_no_whole_answer(headers: tuple[bytes, ...]) -> None:
    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, b"hello", *headers)

    said, is_closed = told(POST, app=wrong)
    assert b"hello" not in said
    assert b"set-cookie" not in said
    assert is_closed


SHAPES = [
    (b"HEAD / HTTP/1.1\r\n\r\n", 200, (b"content-length: 5",), b"", False),
    (GET, 204, (), b"", False),
    (GET, 599, (), b"5\r\nhello\r\n0\r\n\r\n", False),
    (b"GET / HTTP/1.0\r\n\r\n", 200, (), b"hello", True),
    (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, (), b"hello", True),
    (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), 204, (), b"", True),
    (EXPECTS[:-11], 413, (b"content-length: 5",), b"hello", True),
]


@pytest.mark.parametrize(("raw", "status", "headers", "body", "is_last"), SHAPES)
def test_where_an_answer_ends(
    raw: bytes, status: int, headers: tuple[bytes, ...], body: bytes, is_last: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, status, b"hello", *headers)

    said, is_closed = told(raw, app=app)
    head, _, rest = said.partition(b"\r\n\r\n")
    assert rest == body
    assert is_closed is is_last is (b"connection: close" in head)
    assert (b"transfer-encoding: chunked" in head) is rest.endswith(b"0\r\n\r\n")


def test_who_upgrades_may_still_want_the_end() -> None:
    said, is_closed = told(UPGRADES.replace(b"Upgrade\r", b"close, Upgrade\r"))
    assert b"connection: close" in said
    assert is_closed


def test_http_1_0_is_not_told_to_go_on() -> None:
    expects = EXPECTS.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert told(expects[:-11]) == (b"", False)
    said, _ = told(expects[:-11], expects[-11:])
    assert said.startswith(b"HTTP/1.1 200 ")


async def test_leaving_is_told_at_once() -> None:
    left: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        scope["torpor.exchange"].when_gone = lambda: left.append("told")
        while (await receive())["type"] != "http.disconnect":
            pass
        left.append("received")

    stand = Stand(waits)
    await stand.hear(POST)
    assert left == []
    stand.connection.connection_lost(None)
    assert left == ["told"]
    await asyncio.wait(stand.state.tasks)
    assert left == ["told", "received"]


def test_at_the_end_what_was_asked_is_answered() -> None:
    async def talk() -> None:
        idle, busy = Stand(), Stand()
        await busy.hear(POST[:-1])
        for stand in (idle, busy):
            stand.connection.shutdown()
        assert idle.pipe.is_closed
        said = await busy.hear(POST[-1:])
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in said
        assert busy.pipe.is_closed
        for stand in (idle, busy):
            await stand.leave()

    run(talk())
