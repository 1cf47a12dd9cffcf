"""How much memory this process may take: the machine's, its control groups' (v1 and v2) and its own limits.

A container's limit is no other than its control group's. A group is bound by those above it too; each file says its own
group's limit alone (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, and `memory.txt` of
cgroup-v1), and the folder is found by the mounts, as a container sees but a part of the tree (proc_pid_mountinfo(5)).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NONE = 1 << 60  # version 1 writes the greatest number that it has for no limit
_MOST_PARTS = 0.8  # the rest is for what is not counted, and for neighbours


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """One limit that this process is under.

    Attributes:
        bytes: at most.
        used: of them, by all that it counts.
        name: for messages.
    """

    bytes: int
    used: int
    name: str

    @property
    def left(self) -> int:
        return max(0, self.bytes - self.used)


def list_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """Every limit that there is.

    Args:
        root: where /proc and the control groups are found.
    """
    return [*_machine(root), *_control_groups(root), *_own_limits(root)]


def find_limit(root: Path = Path("/")) -> MemoryLimit:
    """The smallest of all limits."""
    return min(list_limits(root), key=lambda limit: limit.bytes, default=MemoryLimit(_NONE, 0, "nothing"))


def measure_room(root: Path = Path("/")) -> int:
    """Bytes that this process may take beside those that it has now: four fifths of what is left under any limit."""
    return int(min((limit.left for limit in list_limits(root)), default=_NONE) * _MOST_PARTS)


def share_memory(most: int, part: int) -> int:
    """Bytes for what waits in memory: `most`, or less where that is more than one of `part` parts of the limit."""
    return max(1 << 20, min(most, find_limit().bytes // part))


def _machine(root: Path) -> Iterator[MemoryLimit]:
    numbers = _read_numbers(root / "proc/meminfo", unit=1024)
    if "MemTotal" in numbers:
        total = numbers["MemTotal"] + numbers.get("SwapTotal", 0)
        left = numbers.get("MemAvailable", total) + numbers.get("SwapFree", 0)
        yield MemoryLimit(total, max(0, total - left), "this machine")
    elif root == Path("/") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():  # macOS
        yield MemoryLimit(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 0, "this machine")


def _own_limits(root: Path) -> Iterator[MemoryLimit]:
    if sys.platform != "linux":
        return
    import resource

    used = _read_numbers(root / "proc/self/status", unit=1024)
    for limit, name, field in (
        (resource.RLIMIT_AS, "ulimit -v", "VmSize"),
        (resource.RLIMIT_DATA, "ulimit -d", "VmData"),
    ):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            yield MemoryLimit(soft, used.get(field, 0), f"this process ({name})")


# --- control groups --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Files:
    """The names of a version's files."""

    limits: tuple[str, ...]
    usage: str
    cached: tuple[str, ...]  # of memory.stat: the kernel takes these back when it needs them


_V1 = _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_V2 = _Files(("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file"))


def _control_groups(root: Path) -> Iterator[MemoryLimit]:
    groups = _read_text(root / "proc/self/cgroup").splitlines()
    mounts = _read_text(root / "proc/self/mountinfo").splitlines()
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _one_tree(root, mounts, group, "cgroup2", _V2)
        elif "memory" in controllers.split(","):
            yield from _one_tree(root, mounts, group, "cgroup", _V1)


def _one_tree(root: Path, mounts: list[str], group: str, kind: str, files: _Files) -> Iterator[MemoryLimit]:
    """The limits of a group and of those above it, as far as they are mounted here."""
    for mount in mounts:
        here, _, there = mount.partition(" - ")
        mounted, point = here.split()[3:5]
        type_, _, options = there.split(" ", 2)
        if type_ == kind and (kind == "cgroup2" or "memory" in options.split()[-1].split(",")):
            top = root / _unescape(point).lstrip("/")
            inside = os.path.relpath(group, mounted) if not group.startswith("/..") else "."
            folder = top if inside.startswith("..") else top / inside
            for at in (folder, *folder.parents):
                yield from _one_group(at, files)
                if at == top:
                    break


def _one_group(folder: Path, files: _Files) -> Iterator[MemoryLimit]:
    limits = [int(text) for name in files.limits if (text := _read_text(folder / name).strip()).isdigit()]
    if limits and min(limits) < _NONE:
        numbers = _read_numbers(folder / "memory.stat")
        usage = int(_read_text(folder / files.usage).strip() or 0)
        cached = sum(numbers.get(name, 0) for name in files.cached)
        yield MemoryLimit(min(limits), max(0, usage - cached), "the control group of this process")


def _unescape(path: str) -> str:
    """A path of mountinfo, in which a space is `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _read_text(path: Path) -> str:
    """Empty where there is no such file, or it may not be read: then it limits nothing that is known."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _read_numbers(path: Path, unit: int = 1) -> dict[str, int]:
    """The numbers of a file of `name value` or `name: value kB`."""
    found = re.findall(r"^(\w+):?\s+(\d+)(?: kB)?$", _read_text(path), re.MULTILINE)
    return {name: int(number) * unit for name, number in found}
