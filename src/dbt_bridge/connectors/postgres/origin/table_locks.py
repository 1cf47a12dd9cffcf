"""Locks on the tables that are read, in sessions of their own, so that each ends when its table is finished.

A session in a snapshot cannot give up one lock alone. The locks of thousands of tables would fill the server's lock
table (max_locks_per_transaction), and the application would fail too.
https://www.postgresql.org/docs/current/runtime-config-locks.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from dbt_bridge.connectors.postgres.wire.watch import WatchedConnection
from dbt_bridge.nouns.table import TableName, quote_table_name

_TABLES = 32  # that a session locks before it is to be emptied
_SESSIONS = 4  # beyond those, tables that nobody finishes share them


@dataclass(slots=True)
class _Session:
    connection: WatchedConnection
    taken: int = 0
    live: set[TableName] = field(default_factory=set)


class TableLocks:
    """The locks of one origin; one thread at a time uses it, but for `cancel`.

    Args:
        connect: a connection in a transaction, with its settings.
        begin: begins the next one on a connection whose transaction has ended.

    Raises (from `take`):
        psycopg.Error: the table is not there, may not be read, or the server broke off.
    """

    def __init__(self, connect: Callable[[], WatchedConnection], begin: Callable[[WatchedConnection], None]) -> None:
        self._connect = connect
        self._begin = begin
        self._sessions: list[_Session] = []
        self._waiting: WatchedConnection | None = None

    def take(self, name: TableName, *, by_columns: bool = False) -> None:
        """Keep a table (and those that inherit from it) from being dropped or rewritten until it is let go of.

        Args:
            by_columns: the role may read some columns alone, which before PostgreSQL 16 is not enough for LOCK; a query
                takes the same lock.
        """
        if any(name in session.live for session in self._sessions):
            return
        session = self._choose()
        self._waiting = session.connection
        table = quote_table_name(name)
        locking = f"SELECT FROM {table} LIMIT 0" if by_columns else f"LOCK TABLE {table} IN ACCESS SHARE MODE"
        lock = f"SAVEPOINT one; {locking}; RELEASE SAVEPOINT one"
        try:
            session.connection.execute(lock.encode())
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):  # the connection may be gone; the first error matters
                session.connection.execute(b"ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one")
            raise
        finally:
            self._waiting = None
        session.live.add(name)
        session.taken += 1

    def let_go(self, name: TableName) -> None:
        """A table is finished. Its lock ends with those that were taken beside it."""
        for session in self._sessions:
            if name in session.live:
                session.live.remove(name)
                if not session.live:
                    session.connection.execute(b"ROLLBACK")
                    self._begin(session.connection)
                    session.taken = 0

    def cancel(self) -> None:
        """End the wait for a lock, from another thread."""
        if (waiting := self._waiting) is not None:
            with contextlib.suppress(psycopg.Error):  # it ended by itself, or the server is gone
                waiting.cancel_safe(timeout=5)

    def close(self) -> None:
        for session in self._sessions:
            session.connection.close()
        self._sessions.clear()

    def _choose(self) -> _Session:
        for session in self._sessions:
            if session.taken < _TABLES:
                return session
        if len(self._sessions) < _SESSIONS:
            self._sessions.append(_Session(self._connect()))
            return self._sessions[-1]
        return min(self._sessions, key=lambda session: session.taken)
