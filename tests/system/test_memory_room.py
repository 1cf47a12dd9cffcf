"""The limits of memory that this process is under, as files of the kernel tell them."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dbt_bridge.system.memory_room import find_limit, list_limits, measure_room, share_memory

GB, MB = 1 << 30, 1 << 20
MOUNT_V1 = "36 32 0:31 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
MOUNT_V2 = "42 32 0:39 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
STAT = "anon 5\nactive_file {cached}\ninactive_file 0\n"


def write(root: Path, files: dict[str, str]) -> Path:
    files = {"proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n", "proc/self/status": ""} | files
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(folder: str, limits: dict[str, int | str], usage: str, used: int, stat: str) -> dict[str, str]:
    texts = {name: str(limit) for name, limit in limits.items()} | {usage: str(used), "memory.stat": stat}
    return {f"sys/fs/cgroup/{folder}{name}": f"{text}\n" for name, text in texts.items()}


def test_without_a_control_group_it_is_the_machine(tmp_path: Path) -> None:
    root = write(tmp_path, {})
    assert find_limit(root).bytes == 8 * GB
    assert measure_room(root) == int(6 * GB * 0.8)


def test_a_group_of_version_1_is_bound_by_those_above_it_and_the_cache_of_files_is_free(tmp_path: Path) -> None:
    stat = f"total_active_file {100 * MB}\ntotal_inactive_file {200 * MB}\n"
    own = group("memory/a/b/", {"memory.limit_in_bytes": 9223372036854771712}, "memory.usage_in_bytes", 0, "")
    above = group("memory/a/", {"memory.limit_in_bytes": GB}, "memory.usage_in_bytes", 500 * MB, stat)
    mounts = {"proc/self/cgroup": "4:cpu:/x\n3:memory:/a/b\n", "proc/self/mountinfo": MOUNT_V1.format(root="/")}
    root = write(tmp_path, mounts | own | above)
    assert find_limit(root).bytes == GB
    assert measure_room(root) == int((GB - 200 * MB) * 0.8)


@pytest.mark.parametrize(
    ("line", "mounted", "folder"),
    [("0::/a", "/", "a/"), ("0::/docker/1", "/docker/1", ""), ("0::/", "/", ""), ("0::/../x", "/", "")],
)
def test_a_group_of_version_2_is_found_where_it_is_mounted(
    tmp_path: Path, line: str, mounted: str, folder: str
) -> None:
    limits = {"memory.max": "max", "memory.high": 2 * GB}
    own = group(folder, limits, "memory.current", GB, STAT.format(cached=GB // 2))
    mounts = {"proc/self/cgroup": line + "\n", "proc/self/mountinfo": MOUNT_V2.format(root=mounted)}
    root = write(tmp_path, mounts | own)
    assert find_limit(root).bytes == 2 * GB
    assert measure_room(root) == int(1.5 * GB * 0.8)


def test_files_that_are_not_there_limit_nothing(tmp_path: Path) -> None:
    assert [limit.name for limit in list_limits(tmp_path) if "ulimit" not in limit.name] == []


def test_a_limit_of_the_process_counts_what_it_has() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, resource.RLIM_INFINITY))\n"
        "from dbt_bridge.system.memory_room import *\n"
        "limit = min(list_limits(), key=lambda limit: limit.bytes)\n"
        "print(limit.bytes, limit.name, 0 < limit.used < 2 << 30)"
    )
    if resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY:
        pytest.skip("these tests run under a limit of their own")
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert answer.split() == [str(2 << 30), "this", "process", "(ulimit", "-d)", "True"]


def test_what_waits_in_memory_has_a_part_of_the_limit() -> None:
    limit = find_limit().bytes
    assert share_memory(limit, 16) == limit // 16
    assert share_memory(5 * MB, 16) == 5 * MB
