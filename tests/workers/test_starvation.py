"""Who says in which words that memory ran out."""

from __future__ import annotations

import pytest

from workers.starvation import is_starvation

TOLD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried",
    "[Errno 12] Cannot allocate memory",
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
    "Free memory on device (3.1/79.1 GiB) on startup is less than desired GPU memory utilization",
)


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


@pytest.mark.parametrize("said", TOLD)
def test_it_is_told_by_the_words(said: str) -> None:
    assert is_starvation(RuntimeError(said))


def test_it_is_told_by_the_kind() -> None:
    assert is_starvation(MemoryError())
    assert is_starvation(OutOfMemoryError("x"))


def test_it_is_found_among_the_causes() -> None:
    outer = RuntimeError("the engine did not start")
    outer.__cause__ = ValueError("bad")
    outer.__cause__.__context__ = MemoryError()
    assert is_starvation(outer)


def test_other_errors_are_none_and_circles_end() -> None:
    one, other = RuntimeError("no weights"), ValueError("bad memory of mine")
    one.__cause__, other.__context__ = other, one
    assert not is_starvation(one)
