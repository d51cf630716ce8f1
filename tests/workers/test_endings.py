"""The end of a process is told when it begins, whichever of its threads is the first to end."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from workers.endings import Ending, is_ending

_THREADED = """
import sys, threading
lines = [threading.Event() for _ in range(4)]
threads = [threading.Thread(target=line.wait, daemon=True) for line in lines]
for thread in threads: thread.start()
print(*(thread.native_id for thread in threads), flush=True)
for line in lines:
    sys.stdin.readline()
    line.set()
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """Each line that it reads ends one of its threads, the oldest first."""
    with subprocess.Popen(
        [sys.executable, "-c", _THREADED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        yield running
        running.kill()


async def _threads_of(child: subprocess.Popen[str]) -> list[int]:
    assert child.stdout is not None
    return [int(thread) for thread in (await asyncio.to_thread(child.stdout.readline)).split()]


async def _end_of_thread(child: subprocess.Popen[str], thread: int) -> None:
    """Returns when this loop has heard of it."""
    assert child.stdin is not None
    watching = os.pidfd_open(thread, os.O_EXCL)
    child.stdin.write("\n")
    child.stdin.flush()
    await asyncio.to_thread(select.select, [watching], [], [])
    os.close(watching)
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_killed_process_is_told_once(child: subprocess.Popen[str]) -> None:
    await _threads_of(child)
    begun = asyncio.Event()
    told: list[int] = []

    def begins() -> None:
        told.append(child.pid)
        begun.set()

    ending = Ending(child.pid, begins)
    child.kill()
    await begun.wait()
    await asyncio.to_thread(select.select, [ending.pidfd], [], [])
    await asyncio.sleep(0)
    assert told == [child.pid]
    assert is_ending(child.pid)
    ending.close()


async def test_threads_that_end_by_themselves_are_no_end_of_the_process(
    child: subprocess.Popen[str],
) -> None:
    threads = await _threads_of(child)
    begun = asyncio.Event()
    ending = Ending(child.pid, begun.set)
    for thread in threads:
        await _end_of_thread(child, thread)
        assert not begun.is_set()
    assert not is_ending(child.pid)
    child.kill()
    await begun.wait()
    ending.close()


async def test_who_let_go_is_told_nothing(child: subprocess.Popen[str]) -> None:
    await _threads_of(child)
    begun = asyncio.Event()
    ending = Ending(child.pid, begun.set)
    ending.let_go()
    child.kill()
    await asyncio.to_thread(child.wait)
    assert not begun.is_set()
    ending.close()
    with pytest.raises(ProcessLookupError):
        Ending(child.pid, begun.set)
    assert is_ending(child.pid)


async def test_who_let_go_after_threads_had_ended_is_told_nothing(
    child: subprocess.Popen[str],
) -> None:
    threads = await _threads_of(child)
    begun, later = asyncio.Event(), asyncio.Event()
    ending = Ending(child.pid, begun.set)
    for thread in threads[:2]:
        await _end_of_thread(child, thread)
    ending.let_go()
    asyncio.get_running_loop().call_later(0.2, later.set)
    await later.wait()
    child.kill()
    await asyncio.to_thread(select.select, [ending.pidfd], [], [])
    for _ in range(3):
        await asyncio.sleep(0)
    assert not begun.is_set()
    ending.close()


async def test_one_without_other_threads_is_told_too() -> None:
    lone = await asyncio.create_subprocess_exec("sleep", "infinity")
    begun = asyncio.Event()
    ending = Ending(lone.pid, begun.set)
    lone.kill()
    await begun.wait()
    ending.close()
    await lone.wait()
