"""A landing is held still: who brings its source up waits while it is compared or repaired, and then goes on.

Two advisory locks for each slot, at the origin, say who wants what:

    move   shared by those who bring the landing up (`stream`, `sync`); exclusive for the one who holds it still
    hold   exclusive for the one who wants it still; meanwhile movers let go, and wait

A `sync` finishes what it has begun. A `stream` looks once a second whether anyone wants to hold. Locks end with their
sessions, so that whoever is killed holds nobody up; they need no privilege, no table and no free slot, and are local to
a database as logical slots are. A pooler (PgBouncer) that lends sessions of the server would keep the locks after their
owner has gone: through one, nobody takes any, and nobody can hold a landing still.
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
from psycopg import pq

from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.wire.session import CONTROL_SETTINGS, build_settings_sql
from dbt_bridge.connectors.postgres.wire.watch import connect_watched
from dbt_bridge.errors import ConnectionFailed, OriginError

PATIENCE = 600.0  # seconds to wait for a mover to let go: it finishes its transaction, its copy or its dbt build
_LOOK = 1.0  # seconds between looks of a mover
_SILENCE = 60.0  # seconds without an answer, after which the server counts as gone (as for a replication stream)
_TELL = 3.0  # seconds of waiting, after which a person hears for whom

# Nobody waits for a lock here but by trying again, and the session may be idle for hours. The server is to notice
# soon when its peer is gone without a word.
_SETTINGS = (
    *CONTROL_SETTINGS,
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
)
_WHO = """
SELECT a.pid, coalesce(nullif(a.application_name, ''), 'an unnamed application'),
       coalesce(host(a.client_addr), 'the local socket')
FROM pg_stat_activity a
"""
_HOLDERS = f"""{_WHO}JOIN pg_locks l ON l.pid = a.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = %(key)s::bigint
ORDER BY a.pid
"""  # noqa: S608 (constants only)
_READER = f"{_WHO}JOIN pg_replication_slots s ON s.active_pid = a.pid WHERE s.slot_name = %(slot)s"


def _key(what: Literal["move", "hold"], slot: str) -> int:
    """A signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(f"dbt-bridge {what} {slot}".encode()).digest()[:8], "big", signed=True)


class _Session:
    """A connection that locks are held by. It never connects anew by itself: its locks would be gone unnoticed.

    Attributes:
        is_lent: by a pooler, which greets its clients with a process id of its own.
    """

    def __init__(self, name: str, url: str, slot: str) -> None:
        self.move, self.hold = _key("move", slot), _key("hold", slot)
        self._connections = Connections(name, url)
        try:
            self._connection = connect_watched(self._connections.conninfo())
        except psycopg.Error as error:
            raise self._connections.translate_connect_error(error) from error
        try:
            [(self._connection.watch.pid,)] = self.query("SELECT pg_catalog.pg_backend_pid()")
            self.is_lent = self._connection.watch.pid != self._connection.info.backend_pid
            if not self.is_lent:  # else whoever has the session next would have its settings
                self.query(build_settings_sql(_SETTINGS, for_transaction=False))
        except BaseException:
            self.close()
            raise

    def query(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql.encode(), parameters or None).fetchall()
        except psycopg.Error as error:
            raise self._connections.translate_error(error) from error

    @property
    def pgconn(self) -> pq.abc.PGconn:
        return self._connection.pgconn

    def make_broken_error(self, why: str) -> ConnectionFailed:
        return ConnectionFailed(f"origin {self._connections.name!r}: {why}", mend="see whether the server is up")

    def close(self) -> None:
        self._connection.close()


class LandingLease:
    """The `LandingLease` of a slot: a shared lock, as long as nobody wants an exclusive one.

    Args:
        source: dbt's name of it.
        name, url: the origin's.

    Raises (from every method): ConnectionFailed, OriginError; the right is then gone, until `take` says otherwise.
    """

    def __init__(self, source: str, name: str, url: str, slot: str) -> None:
        self.source = source
        self._of = (name, url, slot)
        self._session: _Session | None = None
        self._asked_at: float | None = None  # an unanswered question's time
        self._is_wanted = False
        self._looked = 0.0

    @property
    def is_mine(self) -> bool:
        """Whether it is had, as far as is known here."""
        return self._session is not None

    def take(self) -> bool:
        """Have it, or have it already; False while somebody holds the landing still or wants to."""
        if self._session is not None:
            return not self.is_wanted()
        session = self._session = _Session(*self._of)
        if session.is_lent:
            return True
        try:
            free = session.query("SELECT pg_try_advisory_xact_lock_shared(%(key)s)", key=session.hold) == [(True,)]
            got = free and session.query("SELECT pg_try_advisory_lock_shared(%(key)s)", key=session.move) == [(True,)]
        except BaseException:
            self.let_go()
            raise
        if not got:
            self.let_go()
        return got

    def is_wanted(self) -> bool:
        """Whether it is time to let go. Looks once a second; never waits, for the server may have gone silent."""
        session = self._session
        if session is None or self._is_wanted:
            return True
        try:
            self._is_wanted = self._look(session)
            return self._is_wanted
        except BaseException as error:
            self.let_go()
            if isinstance(error, psycopg.Error):
                raise session.make_broken_error("the connection that says who wants the landing broke off") from error
            raise

    def let_go(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session, self._asked_at, self._is_wanted = None, None, False

    def _look(self, session: _Session) -> bool:
        if session.is_lent:
            return False
        now = time.monotonic()
        if self._asked_at is None:
            if now - self._looked >= _LOOK:
                session.pgconn.send_query(f"SELECT pg_try_advisory_xact_lock_shared({session.hold})".encode())
                session.pgconn.flush()
                self._looked = self._asked_at = now
            return False
        session.pgconn.consume_input()
        if session.pgconn.is_busy():
            if now - self._asked_at > _SILENCE:
                raise session.make_broken_error(f"no answer for {_SILENCE:.0f} s")
            return False
        self._asked_at = None
        free = True
        while (result := session.pgconn.get_result()) is not None:
            if result.status != pq.ExecStatus.TUPLES_OK:
                raise session.make_broken_error(result.error_message.decode(errors="replace").strip())
            free = result.get_value(0, 0) == b"t"
        return not free


@contextmanager
def lock_landing(
    name: str, url: str, slot: str, tell: Callable[[str], None], *, patience: float = PATIENCE
) -> Iterator[None]:
    """Hold the landing of a source still: a `stream` of another process has let go of slot and warehouse.

    Enter it before the warehouse is opened (a DuckDB file belongs to one process) and leave it after that is closed.
    It touches no data; a second one waits for the first.

    Args:
        name, url: the origin's.
        slot: of the source; it need not exist yet.
        tell: takes a sentence for a person, who is waited for, after a few seconds.
        patience: seconds to wait.

    Raises:
        OriginError: somebody did not let go in time; names the server process. Or a pooler is in between.
        ConnectionFailed: the origin cannot be reached.
    """
    session = _Session(name, url, slot)
    try:
        if session.is_lent:
            raise OriginError(
                f"origin {name!r} is reached through a pooler, which lends its connections to others too, so its"
                " landing cannot be held still while it is compared",
                mend=f"give [sources.{name}] credentials the address of the server itself",
            )
        waiting = _Waiting(name, slot, tell, patience)
        for key in (session.hold, session.move):
            while session.query("SELECT pg_try_advisory_lock(%(key)s)", key=key) != [(True,)]:
                waiting.wait_for(session.query(_HOLDERS, key=key))
        while readers := session.query(_READER, slot=slot):
            waiting.wait_for(readers)
        yield
    finally:
        session.close()


@contextmanager
def share_landing(
    name: str, url: str, slot: str, tell: Callable[[str], None], *, patience: float = PATIENCE
) -> Iterator[None]:
    """Bring a landing up once, when nobody holds it still any more. Whoever wants to waits until the context ends.

    Raises: as `lock_landing` does.
    """
    session = _Session(name, url, slot)
    try:
        waiting = _Waiting(name, slot, tell, patience)
        wanted = "SELECT pg_try_advisory_xact_lock_shared(%(hold)s) AND pg_try_advisory_lock_shared(%(move)s)"
        while not session.is_lent and session.query(wanted, hold=session.hold, move=session.move) != [(True,)]:
            waiting.wait_for(session.query(_HOLDERS, key=session.hold))
        yield
    finally:
        session.close()


class _Waiting:
    """For others to let go of a landing."""

    def __init__(self, name: str, slot: str, tell: Callable[[str], None], patience: float) -> None:
        self._place = f"origin {name!r}: slot {slot!r}"
        self._tell = tell
        self._patience = patience
        self._began = time.monotonic()
        self._reported: list[tuple[Any, ...]] = []

    def wait_for(self, others: list[tuple[Any, ...]]) -> None:
        """Wait a moment for these (server process, application, address).

        Raises:
            OriginError: patience is over.
        """
        waited = time.monotonic() - self._began
        who = ", ".join(f"{name} at {address} (server process {pid})" for pid, name, address in others)
        if waited >= self._patience:
            end = " ".join(f"SELECT pg_terminate_backend({pid});" for pid, _, _ in others)
            raise OriginError(
                f"{self._place} was not let go of in {waited:.0f} s by {who or 'somebody who has left'}",
                mend=f"wait for it to finish, or stop it; where it is dead already: {end}",
            )
        if waited >= _TELL and others and others != self._reported:
            self._reported = others
            self._tell(f"{self._place}: waiting for {who} to let go of it")
        time.sleep(0.1)
