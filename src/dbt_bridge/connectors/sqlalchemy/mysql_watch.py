"""PyMySQL's connections are watched while they wait for the server; see `system/silence.py`.

PyMySQL (1.2) knows one bound for all reads, which would end a long query, too. So what it reads from is replaced by
one that wakes up now and then and looks.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from dbt_bridge.system import silence
from dbt_bridge.system.silence import Keepalives, Said

_LOOK = 0.5  # seconds
_BOUND = 60  # seconds for what the server answers at once: its greeting, and to take a statement
_ASKING = 15  # seconds that a connection may take which only asks
_WAITS = {"Writing to net", "Sending to client", "Reading from net"}


class _Watch(silence.Watch):
    """Over one connection.

    Args:
        connect: another one, by the driver alone.
        number: of the server's thread, as it says itself.
    """

    lost = OSError  # which PyMySQL tells as the loss of the connection

    def __init__(self, connect: Callable[[], Any], number: int, keepalives: Keepalives) -> None:
        super().__init__(keepalives)
        self._connect = connect
        self._number = number

    def ask(self, *, ends: bool) -> Said:
        """See `silence.Watch.ask`."""
        try:
            with contextlib.closing(self._connect()) as asking, asking.cursor() as cursor:
                cursor.execute(
                    "SELECT command, state FROM information_schema.processlist WHERE id = %s", [self._number]
                )
                row = cursor.fetchone()
                if row is not None and row[0] != "Sleep" and row[1] not in _WAITS:
                    return Said.WORKS
                if row is not None and ends:
                    cursor.execute(f"KILL {self._number:d}")
                return Said.WAITS_FOR_US
        except Exception as error:  # the driver's own, whose module is imported where there is such a connection
            number = error.args[0] if error.args else None
            is_away = isinstance(error, OSError) or number in (2002, 2003, 2006, 2013)
            return Said.NOTHING if is_away else Said.WORKS


class _WatchedReads(io.RawIOBase):
    """The bytes of a socket whose timeout is `_LOOK`."""

    def __init__(self, sock: socket.socket, watch: _Watch) -> None:
        self._sock = sock
        self._watch = watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        since = time.monotonic()
        while True:
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                self._watch.look(time.monotonic() - since)


def make_watched_engine(url: sa.URL, **arguments: Any) -> sa.Engine:
    """An engine whose connections are watched. `read_timeout` in the URL are the seconds of silence after which the
    server is asked, where they are to be others than 30.

    Args:
        arguments: for the driver.
    """
    known = Keepalives()
    idle = float(url.query.get("read_timeout") or 0) or known.idle  # type: ignore[arg-type]
    keepalives = Keepalives(idle, min(known.interval, idle), known.count)
    bounds = {"connect_timeout": _ASKING, "write_timeout": _BOUND}
    chosen = {name: seconds for name, seconds in bounds.items() if name not in url.query}
    chosen["read_timeout"] = _BOUND  # until the watch begins
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={**chosen, **arguments})

    def connect() -> Any:
        positional, named = engine.dialect.create_connect_args(url)
        own = {**named, **chosen, **arguments, "read_timeout": _ASKING, "autocommit": True}
        return engine.dialect.loaded_dbapi.connect(*positional, **own)

    def watch(raw: Any, _: object) -> None:
        with raw.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID()")
            (number,) = cursor.fetchone()
        reads = _WatchedReads(raw._sock, _Watch(connect, int(number), keepalives))
        raw._read_timeout = _LOOK
        raw._rfile = io.BufferedReader(reads)

    sa.event.listen(engine, "connect", watch)
    return engine
