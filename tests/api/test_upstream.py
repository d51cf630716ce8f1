"""The client to engines, against bytes on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.connection import EngineBroken, EngineConnection
from controller.api.upstream import Upstream
from tests.api.wire import KEY, Pipe, a_wire, asked, cut, limits
from workers.engine import Endpoint

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
BOUNDED = HEAD + b"Content-Length: 11\r\n\r\nhello world"
CHUNKED = (
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;ext=1\r\n \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\n"
)
UNTIL_CLOSE = HEAD + b"\r\nhello world"
CLOSING = HEAD + b"Connection: close\r\nContent-Length: 11\r\n\r\nhello world"
EARLY = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
VALID = [BOUNDED, CHUNKED, UNTIL_CLOSE, CLOSING, EARLY + BOUNDED, EARLY + CHUNKED]


async def heard(
    pieces: list[bytes], exc: Exception | None = None
) -> tuple[int, bytes, bool] | EngineBroken:
    """What a connection makes of these reads and the end after them; it never waits for more."""
    connection, pipe = EngineConnection(lambda _: None), Pipe()
    connection.connection_made(pipe)
    await connection.send(b"head", b"body")
    for piece in pieces:
        if not pipe.is_aborted:
            connection.data_received(piece)
    connection.connection_lost(exc)
    body = b""
    try:
        await asyncio.wait_for(connection.head(), 1)
        while chunk := await asyncio.wait_for(connection.chunk(), 1):
            body += chunk
    except EngineBroken as broken:
        return broken
    return connection.status, body, pipe.is_aborted


@given(raw=st.sampled_from(VALID), places=st.lists(st.integers(0, 500), max_size=30))
async def test_however_it_is_split_the_answer_is_the_same(raw: bytes, places: list[int]) -> None:
    assert await heard(cut(raw, places)) == (200, b"hello world", False)


@given(raw=st.sampled_from(VALID), end=st.integers(0, 500))
async def test_what_is_cut_short_is_broken_unless_its_end_is_the_close(
    raw: bytes, end: int
) -> None:
    short = raw[: end % len(raw)]
    result = await heard([short] if short else [])
    if not isinstance(result, EngineBroken):
        is_open_ended = raw is UNTIL_CLOSE and b"\r\n\r\n" in short
        is_only_the_connection = result[1] == b"hello world"
        assert is_open_ended or is_only_the_connection


@given(
    raw=st.one_of(
        st.lists(st.binary(max_size=200), max_size=5),
        st.lists(st.binary(max_size=80).map(lambda tail: HEAD + tail), min_size=1, max_size=3),
    )
)
@settings(max_examples=300)
async def test_garbage_never_hangs(raw: list[bytes]) -> None:
    result = await heard(raw)
    assert isinstance(result, EngineBroken) or result[0] == 200


@given(raw=st.binary(min_size=1, max_size=200).filter(lambda raw: raw[:1] not in b"H\r\n"))
async def test_what_is_no_http_is_broken(raw: bytes) -> None:
    assert isinstance(await heard([raw]), EngineBroken)


@pytest.mark.parametrize(
    "drip",
    [
        lambda: HEAD + b"X: " + b"x" * 70_000,
        lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 70_000,
        lambda: EARLY * 2_000,
    ],
)
async def test_heads_and_chunk_headers_are_bounded(drip: Callable[[], bytes]) -> None:
    raw = drip()
    pieces = [raw[i : i + 1000] for i in range(0, len(raw), 1000)]
    result = await heard(pieces)
    assert isinstance(result, EngineBroken)
    assert "without an end" in result.reason


async def test_a_reset_is_no_end() -> None:
    assert isinstance(await heard([UNTIL_CLOSE], ConnectionResetError()), EngineBroken)


async def test_an_upgrade_is_broken() -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc"
    assert isinstance(await heard([raw]), EngineBroken)


async def test_reading_pauses_until_the_body_is_taken() -> None:
    connection, pipe = EngineConnection(lambda _: None), Pipe()
    connection.connection_made(pipe)
    await connection.send(b"head", b"")
    connection.data_received(HEAD + b"Content-Length: 1000000\r\n\r\n")
    connection.data_received(b"x" * 300_000)
    assert pipe.is_paused
    connection.look(0.0)
    assert len(await connection.chunk()) == 300_000
    assert not pipe.is_paused
    connection.look(0.0)
    with pytest.raises(EngineBroken) as raised:
        await connection.chunk()
    assert raised.value.is_silent


async def test_bytes_that_nobody_asked_for_end_an_idle_connection() -> None:
    connection, pipe = EngineConnection(lambda _: None), Pipe()
    connection.connection_made(pipe)
    await connection.send(b"head", b"")
    connection.data_received(BOUNDED)
    assert connection.release()
    connection.data_received(BOUNDED)
    assert pipe.is_aborted


@pytest.mark.parametrize("raw", [CLOSING, BOUNDED + b"HTTP/1.1 200 OK\r\n", UNTIL_CLOSE])
async def test_what_may_not_be_kept_is_not(raw: bytes) -> None:
    connection, pipe = EngineConnection(lambda _: None), Pipe()
    connection.connection_made(pipe)
    await connection.send(b"head", b"")
    connection.data_received(raw)
    assert await connection.chunk() == b"hello world"
    assert not connection.release()
    assert pipe.is_aborted


async def test_connections_are_kept_and_requests_are_whole() -> None:
    async with a_wire([BOUNDED], [CHUNKED], [BOUNDED]) as wire, Upstream(limits()) as upstream:
        for _ in range(3):
            status, headers, body = await asked(upstream, wire, b'{"a": 1}')
            assert (status, body) == (200, b"hello world")
            assert (b"content-type", b"text/plain") in headers
            assert b"transfer-encoding" not in dict(headers)
    assert wire.connections == 1
    head, _, body = wire.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x HTTP/1.1"
    assert f"Authorization: Bearer {KEY}".encode() in lines
    assert body == b'{"a": 1}'


async def test_a_kept_connection_that_was_closing_costs_nothing() -> None:
    async with a_wire([BOUNDED], [], [BOUNDED]) as wire, Upstream(limits()) as upstream:
        await asked(upstream, wire)
        assert (await asked(upstream, wire))[0] == 200
    assert (wire.connections, len(wire.requests)) == (2, 3)


async def test_a_fresh_connection_that_dies_is_not_asked_again() -> None:
    async with a_wire([], [BOUNDED]) as wire, Upstream(limits()) as upstream:
        with pytest.raises(EngineBroken):
            await asked(upstream, wire)
    assert wire.connections == 1


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    connection, pipe = EngineConnection(lambda _: None), Pipe()
    connection.connection_made(pipe)
    await connection.send(b"head", b"")
    connection.data_received(b"H")
    connection.connection_lost(None)
    assert connection.has_begun
    with pytest.raises(EngineBroken):
        await connection.head()


async def test_leaving_an_answer_closes_its_connection() -> None:
    endless = HEAD + b"Content-Length: 100\r\n\r\nhello"
    async with a_wire([endless]) as wire, Upstream(limits()) as upstream:
        async with upstream.post(wire.endpoint, "/v1/x", b"{}", b"") as answer:
            assert await answer.chunk() == b"hello"
            assert not answer.is_over
        await asyncio.wait_for(wire.ended.wait(), 10)


async def test_bytes_that_drip_in_are_silence() -> None:
    connection, pipe = EngineConnection(lambda _: None), Pipe()
    connection.connection_made(pipe)
    await connection.send(b"head", b"")
    asked_at = connection.since
    for byte in b"HTTP/1.1 200 OK\r\nX-Drip: x":
        connection.data_received(bytes([byte]))
    assert connection.since == asked_at
    connection.look(0.0)
    with pytest.raises(EngineBroken) as raised:
        await connection.head()
    assert raised.value.is_silent


async def test_an_answer_ends_the_sending_of_a_large_body() -> None:
    connection, pipe = EngineConnection(lambda _: None), Pipe()
    connection.connection_made(pipe)
    connection.pause_writing()
    sending = asyncio.ensure_future(connection.send(b"head", b"x" * 1_000_000))
    await asyncio.sleep(0)
    assert not sending.done()
    connection.data_received(BOUNDED)
    await asyncio.wait_for(sending, 10)
    assert await connection.chunk() == b"hello world"
    assert not connection.release()


async def test_what_we_abort_is_not_whole() -> None:
    """An answer that ends where the connection does, and it is we who end it."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], KEY)
    upstream = Upstream(limits())
    async with upstream:
        asking = upstream.post(endpoint, "/v1/completions", b"{}", b"")
        answer = await asking.__aenter__()
        assert await answer.chunk() == b"half"
    with pytest.raises(EngineBroken):
        await answer.chunk()
    server.close()
    await server.wait_closed()


@given(
    raw=st.sampled_from(VALID),
    places=st.lists(st.integers(0, 500), max_size=30),
    room=st.lists(st.booleans(), max_size=30),
)
async def test_what_is_poured_is_the_whole_body_and_its_end_is_told_once(
    raw: bytes, places: list[int], room: list[bool]
) -> None:
    connection, got, ends = EngineConnection(lambda _: None), b"", 0
    connection.connection_made(Pipe())
    await connection.send(b"head", b"body")

    def take(chunk: bytes, is_last: bool) -> bool:
        nonlocal got, ends
        got, ends = got + chunk, ends + is_last
        return room.pop() if room else True

    async def pour() -> None:
        while not connection.is_whole or connection.has_body:
            assert not await connection.pour(take)

    pouring = asyncio.create_task(pour())
    for piece in cut(raw, places):
        await asyncio.sleep(0)
        connection.data_received(piece)
    connection.connection_lost(None)
    await asyncio.wait_for(pouring, 10)
    assert got == b"hello world"
    assert ends <= 1


async def test_a_frozen_engine_ends_the_pouring_but_not_the_answer() -> None:
    connection, got = EngineConnection(lambda _: None), []
    connection.connection_made(Pipe())
    await connection.send(b"head", b"body")
    connection.data_received(BOUNDED[:-6])

    def take(chunk: bytes, is_last: bool) -> bool:
        got.append((chunk, is_last))
        return True

    pouring = asyncio.create_task(connection.pour(take))
    await asyncio.sleep(0)
    connection.excuse()
    assert await pouring
    connection.data_received(BOUNDED[-6:-3])
    pouring = asyncio.create_task(connection.pour(take))
    await asyncio.sleep(0)
    connection.data_received(BOUNDED[-3:])
    assert not await pouring
    assert got == [(b"hello", False), (b" wo", False), (b"rld", True)]


async def test_an_engine_that_breaks_while_it_pours_is_broken() -> None:
    connection, got = EngineConnection(lambda _: None), []
    connection.connection_made(Pipe())
    await connection.send(b"head", b"body")

    def take(chunk: bytes, is_last: bool) -> bool:
        got.append(chunk)
        return True

    pouring = asyncio.create_task(connection.pour(take))
    await asyncio.sleep(0)
    connection.data_received(BOUNDED[:-1])
    connection.connection_lost(None)
    with pytest.raises(EngineBroken):
        await pouring
    assert got == [b"hello worl"]
