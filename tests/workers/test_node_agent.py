"""The node agent, without Ray: a plain object in this loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.workers.stand import is_there
from workers import processes
from workers.capacity import MemoryPolicy, memory_limit
from workers.node_agent import NodeAgent

FLEET = f"test@{os.getpid()}"
MARK = f"{FLEET}/m#0/1"


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process with a mark, as the engine's would be; reaps it at the end."""
    children = []

    def start(command: str = "exec sleep infinity", mark: str = MARK) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            ["bash", "-c", command],
            env={**os.environ, processes.MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def segment() -> Iterator[Path]:
    path = Path(f"/dev/shm/torpor-test-{uuid.uuid4().hex[:8]}")
    path.write_bytes(b"x")
    yield path
    path.unlink(missing_ok=True)


Spawn = Callable[..., "subprocess.Popen[bytes]"]
WAIT = "import time; time.sleep(600)"
HOLDING = "exec 3<{}; echo held; exec sleep infinity"
SHARING = """
from multiprocessing.shared_memory import SharedMemory
shared = SharedMemory(create=True, size=100)
shared.close()
print(shared.name, flush=True)
import time; time.sleep(600)
"""
"""What is shared so is known to Python's resource tracker, and to nobody else."""


async def test_a_node_without_a_gpu_is_one_device_of_one_memory() -> None:
    found = await NodeAgent(FLEET).measure("n", MemoryPolicy(share=0.5))
    [(device, size)] = found.devices
    if device == "cpu":
        assert size == memory_limit() // 2
        assert found.host_bytes == 0


async def test_what_the_fleets_processes_hold_is_told_from_what_others_do(
    spawn: Spawn, segment: Path
) -> None:
    agent = NodeAgent(FLEET)
    before = (await agent.memory("n")).host

    child = spawn(f"exec {sys.executable} -c 'x = b\"x\" * 10 ** 8; print(1, flush=True); {WAIT}'")
    await asyncio.to_thread(child.stdout.readline)  # type: ignore[union-attr]
    await asyncio.to_thread(segment.write_bytes, bytes(10**7))
    holder = spawn(HOLDING.format(segment))
    await asyncio.to_thread(holder.stdout.readline)  # type: ignore[union-attr]
    await agent.watch("m#0", 1, MARK, [holder.pid])
    host = (await agent.memory("n")).host
    assert before.own_bytes == 0
    assert host.own_bytes is not None
    assert 1.1e8 <= host.own_bytes < 1.8e8
    assert host.free_bytes < host.total_bytes


async def test_budgets_that_are_given_are_taken() -> None:
    policy = MemoryPolicy(device_bytes=10, host_bytes=20)
    found = await NodeAgent(FLEET).measure("n", policy)
    assert {size for _, size in found.devices} == {10}
    assert found.host_bytes == 20


async def test_one_process_ends_and_the_others_follow(spawn: Spawn) -> None:
    agent = NodeAgent(FLEET)
    actor, core = spawn(), spawn()
    await agent.watch("m#0", 1, MARK, [actor.pid, core.pid])
    core.kill()
    [died] = await asyncio.wait_for(agent.deaths(0), 60)
    assert (died.replica, died.incarnation) == ("m#0", 1)
    assert str(core.pid) in died.reason
    assert await asyncio.to_thread(actor.wait, 60) == -9
    assert await agent.deaths_so_far() == 1


async def test_a_process_in_the_middle_of_an_exec_follows_too(spawn: Spawn) -> None:
    """Its environment is unreadable just then; one without a mark stands for it."""
    agent = NodeAgent(FLEET)
    actor, core = spawn(mark=""), spawn()
    await agent.watch("m#0", 1, MARK, [actor.pid, core.pid])
    core.kill()
    assert await asyncio.to_thread(actor.wait, 60) == -9


async def test_a_process_that_ended_before_it_was_watched_is_a_death(spawn: Spawn) -> None:
    agent = NodeAgent(FLEET)
    child = spawn("true")
    await asyncio.to_thread(child.wait, 60)
    await agent.watch("m#0", 1, MARK, [child.pid])
    assert len(await asyncio.wait_for(agent.deaths(0), 60)) == 1


async def test_a_burial_is_no_death_and_takes_all_with_the_mark(spawn: Spawn) -> None:
    agent = NodeAgent(FLEET)
    actor, orphan, other = spawn(), spawn("setsid sleep infinity"), spawn(mark=f"{FLEET}/m#0/2")
    directory = Path(await agent.prepare(MARK))
    (directory / "socket").touch()
    await agent.watch("m#0", 1, MARK, [actor.pid])
    assert await agent.bury(MARK) == []
    assert await agent.marks() == [f"{FLEET}/m#0/2"]
    assert not is_there(directory)
    assert await agent.deaths_so_far() == 0
    assert orphan.wait(60) == -9
    assert other.poll() is None


async def test_the_dead_are_named_until_they_are_buried(spawn: Spawn, segment: Path) -> None:
    agent = NodeAgent(FLEET)
    child = spawn(HOLDING.format(segment))
    await asyncio.to_thread(child.stdout.readline)  # type: ignore[union-attr]
    await agent.watch("m#0", 1, MARK, [child.pid])
    child.kill()
    await asyncio.wait_for(agent.deaths(0), 60)
    await asyncio.to_thread(child.wait, 60)
    assert await agent.marks() == [MARK]
    await agent.bury(MARK)
    assert await agent.marks() == []
    assert not is_there(segment)


async def test_a_burial_removes_the_segments_of_the_dead(spawn: Spawn, segment: Path) -> None:
    agent = NodeAgent(FLEET)
    child = spawn(HOLDING.format(segment))
    await asyncio.to_thread(child.stdout.readline)  # type: ignore[union-attr]
    await agent.watch("m#0", 1, MARK, [child.pid])
    await agent.bury(MARK)
    assert not is_there(segment)


@pytest.mark.parametrize("killed", ["by nobody", "by a stranger", "by the fleet"])
async def test_what_only_a_tracker_knows_goes_with_the_burial(spawn: Spawn, killed: str) -> None:
    agent = NodeAgent(FLEET)
    actor, sharer = spawn(), spawn(f"exec {sys.executable} -c '{SHARING}'")
    name = await asyncio.to_thread(sharer.stdout.readline)  # type: ignore[union-attr]
    shared = Path("/dev/shm", name.decode().strip())
    assert is_there(shared)
    await agent.watch("m#0", 1, MARK, [actor.pid])
    if killed == "by a stranger":
        actor.kill()
    elif killed == "by the fleet":
        await agent.kill(MARK)
    if killed != "by nobody":
        await asyncio.wait_for(agent.deaths(0), 60)
    assert await agent.bury(MARK) == []
    assert not is_there(shared)
    assert processes.marked(MARK) == []


async def test_a_tracker_that_does_not_end_is_killed(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_TRACKER_S", 0.01)
    tracker = spawn("exec -a resource_tracker sleep infinity")
    await NodeAgent(FLEET).kill(MARK)
    assert tracker.poll() is None
    assert await NodeAgent(FLEET).bury(MARK) == []
    assert await asyncio.to_thread(tracker.wait, 60) == -9


async def test_sockets_of_the_dead_go_when_an_agent_starts_and_with_the_next_burial(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = spawn("true")
    await asyncio.to_thread(child.wait, 60)
    dead = tmp_path / f"torpor-engine-{child.pid}-abc"
    living = tmp_path / f"torpor-engine-{os.getpid()}-abc"
    living.mkdir()
    dead.mkdir()
    agent = NodeAgent(FLEET)
    assert not is_there(dead)
    dead.mkdir()
    await agent.bury(MARK)
    assert not is_there(dead)
    assert is_there(living)


async def test_a_segment_that_somebody_else_uses_stays(spawn: Spawn, segment: Path) -> None:
    agent = NodeAgent(FLEET)
    for mark in (MARK, f"{FLEET}/other#0/1"):
        child = spawn(HOLDING.format(segment), mark)
        await asyncio.to_thread(child.stdout.readline)  # type: ignore[union-attr]
    await agent.bury(MARK)
    assert is_there(segment)


async def test_deaths_are_told_to_whoever_asks_from_where_he_was(spawn: Spawn) -> None:
    agent = NodeAgent(FLEET)
    for incarnation in (1, 2):
        child = spawn(mark=f"{FLEET}/m#0/{incarnation}")
        await agent.watch("m#0", incarnation, f"{FLEET}/m#0/{incarnation}", [child.pid])
        child.kill()
        await asyncio.wait_for(agent.deaths(incarnation - 1), 60)
    assert [died.incarnation for died in await agent.deaths(0)] == [1, 2]
    assert [died.incarnation for died in await agent.deaths(1)] == [2]


async def test_a_burial_waits_until_a_dying_process_has_given_its_memory_back(
    spawn: Spawn,
) -> None:
    holds = "import threading; x = b'x' * (300 << 20)"
    threads = "[threading.Thread(target=time.sleep, args=(600,)).start() for _ in range(4)]"
    child = spawn(f'exec {sys.executable} -c "{holds}; import time; {threads}; print(1, flush=1)"')
    await asyncio.to_thread(child.stdout.readline)  # type: ignore[union-attr]
    agent = NodeAgent(FLEET)
    await agent.watch("m#0", 1, MARK, [child.pid])
    child.kill()
    await agent.deaths(0)
    assert await agent.bury(MARK) == []
    assert processes.await_end(child.pid, 0.0)
