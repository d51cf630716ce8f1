"""The kernel's files, in a directory that stands for /proc and for /sys/fs/cgroup."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from workers.capacity import GpuMemory
from workers.host_memory import HostMemory, file_bytes, host_memory, kills, own_bytes
from workers.node_memory import Own, node_memory, own_of
from workers.pool_values import ResourceMemory

MIB = 1 << 20


class Kernel:
    """Sixteen GiB, of which ten can be had; no limits until they are written."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        self.write(
            "proc/meminfo", "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 10485760 kB"
        )

    def write(self, path: str, text: str) -> None:
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def group(self, path: str, limit: str, current: int, reclaimable: int = 0) -> None:
        self.write(f"cgroup/{path}/memory.max", limit)
        self.write(f"cgroup/{path}/memory.current", str(current))
        self.write(f"cgroup/{path}/memory.stat", f"anon 5\ninactive_file {reclaimable}")

    def process(self, pid: int, mib: int) -> None:
        self.write(f"proc/{pid}/status", f"Name:\tx\nRssAnon:\t{mib * 1024} kB\nRssShmem: 9 kB")

    def host(self) -> HostMemory:
        return host_memory(self.proc, self.cgroup)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_without_limits_it_is_what_the_machine_has(kernel: Kernel) -> None:
    assert kernel.host() == HostMemory(16384 * MIB, 10240 * MIB, 0.0)


def test_a_groups_limit_counts_less_what_it_uses_for_good(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/pod/engine")
    kernel.group("pod/engine", "max", 3000 * MIB)
    kernel.group("pod", str(8192 * MIB), 5000 * MIB, reclaimable=1000 * MIB)
    assert kernel.host() == HostMemory(8192 * MIB, 4192 * MIB, 0.0)


def test_a_limit_that_is_full_leaves_nothing(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/")
    kernel.group(".", str(100 * MIB), 120 * MIB)
    assert kernel.host().available_bytes == 0


def test_a_limit_above_what_the_machine_has_is_none(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/")
    kernel.group(".", str(1 << 60), 15000 * MIB)
    assert kernel.host() == HostMemory(16384 * MIB, 10240 * MIB, 0.0)


def test_the_first_version_of_control_groups_is_read_too(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "4:memory:/of/the/host\n2:cpu:/")
    kernel.write("cgroup/memory/memory.limit_in_bytes", str(4096 * MIB))
    kernel.write("cgroup/memory/memory.usage_in_bytes", str(3000 * MIB))
    kernel.write("cgroup/memory/memory.stat", f"total_active_file {500 * MIB}")
    assert kernel.host() == HostMemory(4096 * MIB, 1596 * MIB, 0.0)


def test_stalls_are_those_of_the_machine_or_of_the_group_whichever_is_worse(kernel: Kernel) -> None:
    kernel.write("proc/pressure/memory", "some avg10=1.50 avg60=0.00\nfull avg10=0.10 avg60=0.00")
    assert kernel.host().stalled_percent == 1.5
    kernel.write("proc/self/cgroup", "0::/pod")
    kernel.write("cgroup/pod/memory.pressure", "some avg10=22.00 avg60=0.00 avg300=0.00 total=9")
    assert kernel.host().stalled_percent == 22.0


def test_this_machine_can_be_read() -> None:
    memory = host_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert own_bytes([os.getpid()]) > MIB


def test_the_kernels_kills_are_counted(kernel: Kernel) -> None:
    assert kills(kernel.proc) == 0
    kernel.write("proc/vmstat", "nr_free_pages 5\noom_kill 3")
    assert kills(kernel.proc) == 3


def test_what_processes_hold_adds_up_and_the_dead_count_nothing(kernel: Kernel) -> None:
    kernel.process(7, 100)
    kernel.process(8, 20)
    assert own_bytes([7, 8, 9], kernel.proc) == 120 * MIB


def test_a_file_of_holes_takes_nothing(tmp_path: Path) -> None:
    sparse, full = tmp_path / "sparse", tmp_path / "full"
    with sparse.open("wb") as out:
        out.truncate(50 * MIB)
    full.write_bytes(bytes(64 * 1024))
    assert file_bytes([sparse, tmp_path / "gone"]) == 0
    assert file_bytes([full]) >= 64 * 1024


def test_without_a_gpu_device_and_host_are_one(kernel: Kernel) -> None:
    kernel.process(7, 100)
    memory = node_memory("n", Own([7]), [], kernel.proc, kernel.cgroup)
    assert memory.devices == (memory.host,)
    assert memory.host == ResourceMemory("cpu", 16384 * MIB, 10240 * MIB, 100 * MIB)


GPU = GpuMemory(80, 30, {7: 40, 1234: 10})


def test_what_a_gpu_holds_of_ours_is_told_from_what_is_others(kernel: Kernel) -> None:
    memory = node_memory("n", Own([7, 8]), [GPU], kernel.proc, kernel.cgroup)
    assert memory.devices == (ResourceMemory("cuda:0", 80, 30, 40),)
    assert memory.host.own_bytes is None, "what is pinned shows in no process"


@pytest.mark.parametrize("held", [{1234: 50}, None])
def test_where_our_processes_cannot_be_told_nothing_is_claimed(
    kernel: Kernel, held: dict[int, int] | None
) -> None:
    gpu = replace(GPU, held_by=held)
    [device] = node_memory("n", Own([7]), [gpu], kernel.proc, kernel.cgroup).devices
    assert device.own_bytes is None


def test_an_empty_gpu_and_one_with_nobody_of_ours_are_seen(kernel: Kernel) -> None:
    empty, foreign = replace(GPU, held_by={}), replace(GPU, held_by={1234: 50})
    for own, gpu in ((Own([7]), empty), (Own(), foreign)):
        [device] = node_memory("n", own, [gpu], kernel.proc, kernel.cgroup).devices
        assert device.own_bytes == 0


def test_processes_that_bear_no_mark_of_the_fleet_are_others() -> None:
    assert own_of(f"nobody@{os.getpid()}", [3], []) == Own([3], [])
