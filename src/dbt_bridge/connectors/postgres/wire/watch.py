"""Connections to PostgreSQL that are watched while they wait; see `system/silence.py`.

Which of the server's processes waits for its client is told by its wait event:
https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-CLIENT-TABLE
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.generators import fetch_many
from psycopg.waiting import Wait

from dbt_bridge.system import silence
from dbt_bridge.system.silence import Keepalives, Said

_T = TypeVar("_T")

_WAITS_FOR_US = """
SELECT a.wait_event_type OPERATOR(pg_catalog.=) 'Client'
       AND a.wait_event OPERATOR(pg_catalog.=) ANY ('{ClientRead,ClientWrite}'::pg_catalog.text[])
FROM pg_catalog.pg_stat_activity a
WHERE a.pid OPERATOR(pg_catalog.=) %(pid)s
"""
# Since PostgreSQL 14. What a driver reads or writes meanwhile is not seen from here: it may be long on a slow network.
_COPIED = """
SELECT c.bytes_processed
FROM pg_catalog.pg_stat_progress_copy c
WHERE c.pid OPERATOR(pg_catalog.=) %(pid)s
"""
_END = "SELECT pg_catalog.pg_terminate_backend(%(pid)s)"
_NO_ANSWER = re.compile("timeout|timed out|refused|unreachable|no route|reset by peer|closed the connection|translate")
_ASKING = 15  # seconds that a connection may take, and then its question, where the user sets no connect_timeout


class Silence(psycopg.OperationalError):
    """The server cannot be heard any more; the connection is of no use."""


def find_keepalives(conninfo: str) -> Keepalives:
    """What the user set with libpq's parameters of these names, and our own numbers for the rest."""
    known = conninfo_to_dict(conninfo)
    given = Keepalives()
    # 0 is libpq's word for the system's own number, which is of hours.
    return Keepalives(
        float(known.get("keepalives_idle") or 0) or given.idle,
        float(known.get("keepalives_interval") or 0) or given.interval,
        int(known.get("keepalives_count") or 0) or given.count,
    )


def name_keepalives(keepalives: Keepalives) -> dict[str, str]:
    """As libpq's parameters, for the kernel too."""
    return {
        "keepalives_idle": f"{keepalives.idle:.0f}",
        "keepalives_interval": f"{keepalives.interval:.0f}",
        "keepalives_count": str(keepalives.count),
    }


class Watch(silence.Watch):
    """Over one connection to PostgreSQL.

    Args:
        conninfo: with what it was connected.

    Attributes:
        pid: of the server's process, as it says itself: a pooler greets with a number of its own.
    """

    lost = Silence

    def __init__(self, conninfo: str) -> None:
        super().__init__(find_keepalives(conninfo))
        self.pid: int | None = None
        self._conninfo = conninfo
        self._copied: int | None = None  # bytes of a COPY, at the last question

    def ask(self, *, ends: bool) -> Said:
        """See `silence.Watch.ask`."""
        try:
            with closing(_connect_briefly(self._conninfo)) as asking:
                if self.pid is None:
                    return Said.UNKNOWN
                row = asking.execute(_WAITS_FOR_US.encode(), {"pid": self.pid}).fetchone()
                if (row is not None and not row[0]) or (self._has_copied(asking) and ends):
                    return Said.WORKS
                if row is not None and ends:
                    asking.execute(_END.encode(), {"pid": self.pid})
                return Said.WAITS_FOR_US
        except psycopg.Error as error:
            is_away = isinstance(error, Silence) or _NO_ANSWER.search(str(error)) is not None
            return Said.NOTHING if is_away else Said.WORKS

    def end(self) -> None:
        """End the connection at the server: what nobody waits for any more holds no lock there."""
        with contextlib.suppress(psycopg.Error), closing(_connect_briefly(self._conninfo)) as asking:
            asking.execute(_END.encode(), {"pid": self.pid})

    def _has_copied(self, asking: WatchedConnection) -> bool:
        """Whether the rows of a COPY have moved on since the last question."""
        if asking.info.server_version < 140000:
            return False
        row = asking.execute(_COPIED.encode(), {"pid": self.pid}).fetchone()
        before, self._copied = self._copied, None if row is None else row[0]
        return None not in (before, self._copied) and before != self._copied


class WatchedConnection(psycopg.Connection[Any]):
    """A connection whose every wait is watched; from `connect_watched`.

    Attributes:
        look: called with the seconds since the last byte, while it waits.
    """

    watch: Watch
    look: Callable[[float], None] | None = None

    def prepare(self, settings: str) -> None:
        """Run SQL of `build_settings_sql`."""
        row = self.execute(settings.encode()).fetchone()
        if row is not None:
            self.watch.pid = row[-1]

    def expect_end(self) -> None:
        """The results of a command, after its last row was taken out of libpq.

        Raises:
            psycopg.Error: it failed.
        """
        for result in self.wait(fetch_many(self.pgconn)):
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """As psycopg's, which is what it does between two looks."""
        if self.look is None:
            return super().wait(gen, *args, **kwargs)
        try:
            wanted = next(gen)
        except StopIteration as end:  # of a COPY, libpq has many rows already
            return end.value  # type: ignore[no-any-return]
        try:
            return super().wait(_watched(gen, wanted, self.look), *args, **kwargs)
        except Silence:
            self.pgconn.finish()  # else whoever tidies up would wait again
            raise


def _watched(gen: PQGen[_T], wanted: Wait, look: Callable[[float], None]) -> PQGen[_T]:
    """The steps of psycopg's generator, with a look where nothing was ready.

    Args:
        wanted: its first step.
    """
    since = time.monotonic()
    try:
        while True:
            ready = yield wanted
            if ready:
                since = time.monotonic()
            else:
                look(time.monotonic() - since)
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _connect_briefly(conninfo: str) -> WatchedConnection:
    """One that asks, and waits for a few seconds only, whatever the server does."""
    known = conninfo_to_dict(conninfo)
    seconds = min(int(known.get("connect_timeout") or 0) or _ASKING, _ASKING)

    def give_up(silent: float) -> None:
        if silent >= seconds:
            raise Silence(f"no answer for {silent:.0f} s")

    asked = make_conninfo(**{**known, "connect_timeout": str(seconds)})  # type: ignore[arg-type]
    connection = WatchedConnection.connect(asked, autocommit=True)
    connection.look = give_up
    return connection


def connect_watched(conninfo: str) -> WatchedConnection:
    """A connection in autocommit; `watch.pid` is to be set by whoever asks the server for its settings.

    Raises:
        psycopg.Error: as from psycopg itself.
    """
    connection = WatchedConnection.connect(conninfo, autocommit=True)
    connection.watch = Watch(conninfo)
    connection.look = connection.watch.look
    return connection
