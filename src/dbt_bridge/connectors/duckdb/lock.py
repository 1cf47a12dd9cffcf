"""A DuckDB file belongs to one process at a time: while another one has it, it is waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from dbt_bridge.errors import ConnectionFailed
from dbt_bridge.system.lock_wait import find_lock_wait

_PAUSE = 0.2
"""Seconds between two attempts."""
_HOLDER = re.compile(r"lock is held in (?P<command>.*?)\s*\(?PID (?P<pid>\d+)\)?(?P<user> by user \w+)?")


def open_when_free(path: str | Path, connect: Callable[[], Any]) -> Any:
    """What `connect` answers, as soon as no other process holds the file, or one that it attaches.

    Raises:
        ConnectionFailed: the file was held all the time that there was patience for; names the process.
        duckdb.Error: anything else.
    """
    wait = find_lock_wait()
    began = time.monotonic()
    told = False
    while True:
        try:
            return connect()
        except duckdb.IOException as error:
            holder = name_holder(str(error))
            if holder is None:
                raise
            if time.monotonic() - began >= wait.seconds:
                waited = f", also after {wait.seconds:g} seconds" if wait.seconds else ""
                raise ConnectionFailed(
                    f"the DuckDB file {path} is in use: {holder} has it open{waited}",
                    mend="close that program, or wait longer for it: --lock-wait 10m",
                ) from error
        if not told:
            told = True
            wait.tell(f"waiting up to {wait.seconds:g} seconds for {path}, which {holder} has open")
        time.sleep(_PAUSE)


def name_holder(message: str) -> str | None:
    """The process that holds the lock, as DuckDB says it; None where the message is about something else."""
    if "Could not set lock on file" not in message:
        return None
    found = _HOLDER.search(message)
    if found is None:
        return "another process"
    return f"PID {found['pid']}{found['user'] or ''}" + (f" ({found['command']})" if found["command"] else "")
