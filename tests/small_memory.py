"""The product in a process that has little memory: a control group where this machine lets one be made, else a limit of
the process. `python small_memory.py` is that process: it answers calls that come pickled on its standard input."""

from __future__ import annotations

import itertools
import os
import pickle
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_numbers = itertools.count(1)


class SmallProcess:
    """Calls functions of modules in a process of its own.

    Attributes:
        kind: what limits it, and why it is not a control group.
    """

    def __init__(self, process: subprocess.Popen[bytes], kind: str) -> None:
        self.kind = kind
        self._process = process

    def call(self, function: Callable[..., Any], *given: Any) -> Any:
        """The function's answer. What it raises is raised here, as text."""
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((function, given, dict(os.environ)), self._process.stdin)
        self._process.stdin.flush()
        try:
            answer, error = pickle.load(self._process.stdout)
        except EOFError:
            raise AssertionError(
                f"it ended with {self._process.wait()} (-9: no memory was left), {self.kind}"
            ) from None
        assert error is None, error
        return answer


@contextmanager
def small_process(most: int) -> Iterator[SmallProcess]:
    """A process that may take so many bytes."""
    with _group(most) as (group, kind):
        command = [sys.executable, __file__, str(most), str(group or "")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        print(f"limited by {kind}")
        try:
            yield SmallProcess(process, kind)
        finally:
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            process.stdout.close()


@contextmanager
def _group(most: int) -> Iterator[tuple[Path | None, str]]:
    """A new control group below this process's own; None where there can be none, and why."""
    folder, limit = _own_group()
    made = folder / f"dbt_bridge_test_{os.getpid()}_{next(_numbers)}"
    try:
        made.mkdir()
        (made / limit).write_text(str(most))
    except OSError as error:
        with suppress(OSError):
            made.rmdir()
        yield None, f"ulimit -d, as no control group can be made: {error}"
        return
    try:
        yield made, f"the control group {limit}"
    finally:
        made.rmdir()


def _own_group() -> tuple[Path, str]:
    """The folder of this process's group, and the file of its limit."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/"), "memory.limit_in_bytes"
    return Path("/sys/fs/cgroup") / groups[-1][2].lstrip("/"), "memory.max"


def _serve(most: int, group: str) -> None:
    if group:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    sys.path[0] = str(Path(__file__).parent.parent)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            function, given, environment = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        os.environ.update(environment)
        try:
            answer = (function(*given), None)
        except BaseException:
            answer = (None, traceback.format_exc())
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
