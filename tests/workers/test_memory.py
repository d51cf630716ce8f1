from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

from workers import leavings
from workers.memory import Resident, anonymous_bytes, family, measure, parse_rollup, resident

MIB = 1024 * 1024
ROLLUP = """\
00400000-7ffd4a1d3000 ---p 00000000 00:00 0                              [rollup]
Rss:              123456 kB
Pss:                2048 kB
Pss_Anon:           1024 kB
Pss_Shmem:           512 kB
Anonymous:          1536 kB
THPeligible:           0
"""


def test_the_kernels_table_is_read_in_bytes() -> None:
    assert parse_rollup(ROLLUP) == Resident(
        pss=2 * MIB, anonymous=1536 * 1024, shmem_pss=512 * 1024
    )


def test_several_processes_add_up_and_the_dead_count_nothing(tmp_path: Path) -> None:
    for pid in ("1", "2"):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "smaps_rollup").write_text(ROLLUP)
    assert resident(1, 2, 3, proc=tmp_path).pss == 4 * MIB


def test_memory_that_is_taken_and_given_back_is_seen() -> None:
    before = anonymous_bytes()
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * (64 * MIB))
        assert anonymous_bytes() - before > 60 * MIB
    assert anonymous_bytes() - before < 70 * MIB


def test_a_family_is_a_process_and_what_it_started() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pids = family(os.getpid())
        assert pids[0] == os.getpid()
        assert child.pid in pids
        assert family(child.pid) == (child.pid,)
    finally:
        child.communicate(b"\n")
    assert family(child.pid) == ()


def test_without_a_gpu_all_of_it_is_device_memory() -> None:
    memory = measure(os.getpid(), device="cpu")
    assert memory.device_bytes > MIB
    assert memory.host_bytes == 0


def test_only_the_sockets_of_the_dead_are_swept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f"torpor-engine-{ended.pid}-abc"
    living = tmp_path / f"torpor-engine-{os.getpid()}-abc"
    others = tmp_path / "torpor-engine-notes"
    below = tmp_path / "engine-1" / f"torpor-engine-{ended.pid}-abc"
    for directory in (dead, living, others, below):
        directory.mkdir(parents=True)
    assert leavings.sweep(tmp_path) == [dead, below]
    assert sorted(tmp_path.iterdir()) == sorted([living, others, below.parent])
