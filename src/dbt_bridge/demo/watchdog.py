"""Stops a server whose owner is gone, even by `kill -9`.

Run as a child with a pipe on standard input. The pipe closes when the owner ends, however it ends; unless the owner
has said "keep" before, the postmaster of the data directory is stopped and the directory deleted. Only the standard
library, and run by its path: it starts in a few milliseconds, beside whatever the owner imports.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path


def read_postmaster(data: Path) -> int | None:
    """The process id in the first line of `postmaster.pid` (PostgreSQL manual, 66.1 "Database File Layout")."""
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def stop(data: Path, seconds: float = 20) -> None:
    """Fast shutdown; immediate when that takes too long. Waits until the server is gone."""
    end = time.monotonic() + seconds
    pid = read_postmaster(data)
    if pid is None:  # the owner may have died between starting the server and the server's first line
        time.sleep(2)
        pid = read_postmaster(data)
    asked = False
    while pid is not None and read_postmaster(data) == pid:  # the server removes the file as its last act
        late = time.monotonic() > end
        try:
            if late or not asked:
                os.kill(pid, signal.SIGQUIT if late else signal.SIGINT)
            asked = True
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if late:
            return
        time.sleep(0.05)


def main() -> None:
    data = Path(sys.argv[1])
    if sys.stdin.read().strip() != "keep":
        stop(data)
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
