"""A connection that waits is watched: a server that works is waited for, one that can no longer be heard is not.

TCP's keepalives are answered by the kernel at the other end: of a proxy or a pooler whose own other side is gone, or of
a host whose process hangs. So where a connection waits and no byte comes, another one asks the server what the process
of the first one does. It may compute, or wait for a lock or a disk, for hours. One that waits for us while we wait for
it will do so for ever: something between was lost. It is ended, so that no lock, snapshot or slot stays with it, and no
COMMIT that is still on its way is taken later.
https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-CLIENT-TABLE
"""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_T = TypeVar("_T")

_WHAT_IT_DOES = """
SELECT a.wait_event_type OPERATOR(pg_catalog.=) 'Client'
       AND a.wait_event OPERATOR(pg_catalog.=) ANY ('{ClientRead,ClientWrite}'::pg_catalog.text[])
FROM pg_catalog.pg_stat_activity a
WHERE a.pid OPERATOR(pg_catalog.=) %(pid)s
"""
_END = "SELECT pg_catalog.pg_terminate_backend(%(pid)s)"
_NO_ANSWER = re.compile("timeout|timed out|refused|unreachable|no route|reset by peer|closed the connection|translate")
_ASKING = 15  # seconds that a connection may take, and then its question, where the user sets no connect_timeout


class Silence(psycopg.OperationalError):
    """The server cannot be heard any more; the connection is of no use."""


@dataclass(frozen=True, slots=True)
class Keepalives:
    """How long a silent server is waited for: libpq's parameters of these names, in seconds.

    Attributes:
        idle: without a byte, after which the server is asked.
        interval: between two questions where the answer was a bad one.
        count: of unanswered questions, after which the server counts as gone.
    """

    idle: float = 30.0
    interval: float = 10.0
    count: int = 3

    @property
    def bound(self) -> float:
        return self.idle + self.interval * self.count

    def as_parameters(self) -> dict[str, str]:
        """libpq's, for the kernel."""
        return {
            "keepalives_idle": f"{self.idle:.0f}",
            "keepalives_interval": f"{self.interval:.0f}",
            "keepalives_count": str(self.count),
        }


def find_keepalives(conninfo: str) -> Keepalives:
    """What the user set, and our own numbers for the rest."""
    known = conninfo_to_dict(conninfo)
    given = Keepalives()
    # 0 is libpq's word for the system's own number, which is of hours.
    return Keepalives(
        float(known.get("keepalives_idle") or 0) or given.idle,
        float(known.get("keepalives_interval") or 0) or given.interval,
        int(known.get("keepalives_count") or 0) or given.count,
    )


class _Said(enum.Enum):
    """What a look at the server found."""

    WORKS = enum.auto()  # or the server lets nobody in just now, which tells nothing
    WAITS_FOR_US = enum.auto()
    UNKNOWN = enum.auto()  # it answers, but which of its processes is ours was lost, too
    NOTHING = enum.auto()


class Watch:
    """Over one connection, for one that waits for it.

    Args:
        conninfo: with what it was connected.

    Attributes:
        pid: of the server's process, as it says itself: a pooler greets with a number of its own.
    """

    def __init__(self, conninfo: str) -> None:
        self.pid: int | None = None
        self.is_over = False
        self._conninfo = conninfo
        self._keepalives = find_keepalives(conninfo)
        self._since: float | None = None
        self._due = self._keepalives.idle
        self._suspects = False

    @property
    def is_waiting(self) -> bool:
        return self._since is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Here a driver waits, which says nothing meanwhile; another thread calls `look_at_waiting`."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Here, within `waiting`, the driver has us do something."""
        self._since = None
        try:
            yield
        finally:
            self._since = time.monotonic()

    def look_at_waiting(self) -> None:
        """As `look`, by a thread beside the one that waits."""
        if (since := self._since) is not None:
            self.look(time.monotonic() - since)

    def look(self, silent: float) -> None:
        """Called now and then while the connection waits.

        Args:
            silent: seconds since the last byte.

        Raises:
            Silence: nothing more will come.
        """
        known = self._keepalives
        if silent < known.idle:
            self._due, self._suspects = known.idle, False
        if silent < self._due:
            return
        said = self._ask()
        if said is _Said.WORKS:
            self._due, self._suspects = silent + known.idle, False
            return
        waits = said is _Said.WAITS_FOR_US
        if silent >= known.bound or (waits and self._suspects):
            self.is_over = True
            raise Silence(f"the connection is lost: no answer for {silent:.0f} s, {_WHY[said]}")
        self._suspects |= waits
        self._due = silent + known.interval

    def _ask(self) -> _Said:
        try:
            with closing(_connect_briefly(self._conninfo)) as asking:
                if self.pid is None:
                    return _Said.UNKNOWN
                row = asking.execute(_WHAT_IT_DOES.encode(), {"pid": self.pid}).fetchone()
                if row is not None and not row[0]:
                    return _Said.WORKS
                if row is not None and self._suspects:
                    asking.execute(_END.encode(), {"pid": self.pid})
                return _Said.WAITS_FOR_US
        except psycopg.Error as error:
            is_away = isinstance(error, Silence) or _NO_ANSWER.search(str(error)) is not None
            return _Said.NOTHING if is_away else _Said.WORKS


_WHY = {
    _Said.WAITS_FOR_US: "while the server has answered or waits for us: the network between lost something",
    _Said.UNKNOWN: "though the server answers others: the network between lost something",
    _Said.NOTHING: "and the server does not answer another connection either",
}


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

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """As psycopg's, which is what it does between two looks."""
        if self.look is None:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_watched(gen, self.look), *args, **kwargs)
        except Silence:
            self.pgconn.finish()  # else whoever tidies up would wait again
            raise


def _watched(gen: PQGen[_T], look: Callable[[float], None]) -> PQGen[_T]:
    """The steps of psycopg's generator, with a look where nothing was ready."""
    try:
        wanted = next(gen)
        since = time.monotonic()
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
