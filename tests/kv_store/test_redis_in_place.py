"""Answers of a Redis as they come over a socket: in pieces, with errors, and broken off."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from redis.exceptions import (
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
)
from redis.exceptions import ConnectionError as Unreachable

from kv_store.redis_in_place import InPlaceParser, Place

LIMIT_S = 60.0
LARGE = bytes(range(256)) * 400


@dataclass
class Ours:
    """As much of redis-py's connection as a parser sees."""

    _sock: socket.socket


@dataclass
class Line:
    parser: InPlaceParser
    server: socket.socket
    speaker: ThreadPoolExecutor

    def says(self, *pieces: bytes) -> None:
        self.speaker.submit(self._say, pieces)

    def _say(self, pieces: Iterable[bytes]) -> None:
        with suppress(OSError):  # Of a listener who has gone.
            for piece in pieces:
                self.server.sendall(piece)
            self.server.shutdown(socket.SHUT_WR)

    def answer(self, *places: Place) -> Any:
        self.parser.places.extend(places)
        return self.parser.read_response()


@contextmanager
def opened() -> Iterator[Line]:
    ours, server = socket.socketpair()
    with ThreadPoolExecutor(1) as speaker, server, ours:
        ours.settimeout(LIMIT_S)
        parser = InPlaceParser()
        parser.on_connect(Ours(ours))
        yield Line(parser, server, speaker)


@pytest.fixture
def line() -> Iterator[Line]:
    with opened() as line:
        yield line


def strings(*them: bytes | None) -> bytes:
    told = [b"$-1\r\n" if each is None else b"$%d\r\n%b\r\n" % (len(each), each) for each in them]
    return b"*%d\r\n" % len(told) + b"".join(told)


@given(
    some.lists(some.none() | some.binary(max_size=40) | some.just(LARGE), max_size=6),
    some.lists(some.integers(0, 100_000), max_size=8),
)
def test_strings_come_to_their_places_however_they_are_cut(
    them: list[bytes | None], cuts: list[int]
) -> None:
    whole = strings(*them)
    places = [memoryview(bytearray(len(each or b"") + 3)) for each in them]
    ends = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    with opened() as line:
        line.says(*(whole[begin:end] for begin, end in pairwise(ends)), b":7\r\n")

        assert line.answer(*places) == [None if each is None else len(each) for each in them]
        for place, each in zip(places, them, strict=True):
            assert bytes(place) == (each or b"") + bytes(3)
        assert line.parser.read_response() == 7


def test_what_has_no_place_is_handed_out(line: Line) -> None:
    place = memoryview(bytearray(3))
    line.says(strings(b"head", None, b"abc"))

    assert line.answer(None, None, place) == [b"head", None, 3]
    assert bytes(place) == b"abc"


def test_what_is_too_long_for_its_place_leaves_it_alone_and_the_next_in_step(line: Line) -> None:
    short, next_one = memoryview(bytearray(3)), memoryview(bytearray(3))
    line.says(strings(LARGE, b"abc"))

    assert line.answer(short, next_one) == [len(LARGE), 3]
    assert (bytes(short), bytes(next_one)) == (bytes(3), b"abc")


@pytest.mark.parametrize(
    ("told", "meant"),
    [(b"OOM command not allowed", OutOfMemoryError), (b"NOPERM no", NoPermissionError)],
)
def test_an_error_is_an_answer(line: Line, told: bytes, meant: type[Exception]) -> None:
    line.says(b"*2\r\n-" + told + b"\r\n+OK\r\n")

    refused, done = line.answer()

    assert isinstance(refused, meant)
    assert done == b"OK"


def test_a_server_that_is_not_ready_is_not_reached(line: Line) -> None:
    line.says(b"-LOADING the dataset\r\n")

    with pytest.raises(BusyLoadingError):
        line.answer()


@pytest.mark.parametrize("said", [b"", b"*1", strings(LARGE)[:-3], strings(LARGE)[:5000]])
def test_an_answer_that_is_broken_off_is_an_error(line: Line, said: bytes) -> None:
    line.says(said)

    with pytest.raises(Unreachable):
        line.answer(memoryview(bytearray(len(LARGE))))


@pytest.mark.parametrize("said", [b"hello\r\n", b"+" + bytes(100_000)])
def test_who_speaks_otherwise_is_not_understood(line: Line, said: bytes) -> None:
    line.says(said)

    with pytest.raises(InvalidResponse):
        line.answer()


def test_it_tells_whether_there_is_more_to_read(line: Line) -> None:
    assert not line.parser.can_read()
    line.says(b"+OK\r\n:1\r\n")
    assert line.parser.can_read(LIMIT_S)
    line.answer()
    assert line.parser.can_read()
    line.answer()
    assert line.parser.can_read(LIMIT_S)  # That the server has hung up.
