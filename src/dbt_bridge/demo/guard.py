"""A server that does not outlive its owner: stopped on leaving, on Ctrl-C, and even after `kill -9`."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server

# The rows can be made again: nothing waits for the disk.
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
_WATCHDOG = Path(__file__).with_name("watchdog.py")


@contextmanager
def open_guarded_server() -> Iterator[tuple[Server, Callable[[], None]]]:
    """A new server with a password of its own, and a function that lets it live on after the block.

    The watchdog starts first, so that there is no moment in which only this process knows of the server.
    """
    data = Path(tempfile.mkdtemp(prefix="dbt-bridge-demo-"))
    try:
        watchdog = _start_watchdog(data)
    except OSError:
        data.rmdir()
        raise
    assert watchdog.stdin is not None
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        server = postgres.start(data, _SETTINGS, password=secrets.token_urlsafe(16))
        yield server, keep
        if not kept:
            server.stop()
    finally:
        with watchdog.stdin as pipe:  # without the word, the watchdog stops what is left and deletes the directory
            if kept:
                pipe.write(b"keep")
        watchdog.wait()
        if not kept:
            shutil.rmtree(data, ignore_errors=True)


def _start_watchdog(data: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_WATCHDOG), str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a closing terminal does not reach it
    )
