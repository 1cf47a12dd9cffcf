"""Connections to a Postgres origin, all in one exported snapshot.

One psycopg connection controls: it exports the snapshot and asks the catalog. ADBC connections carry the rows; each
imports the snapshot before its first query (https://www.postgresql.org/docs/current/sql-set-transaction.html).
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
import pyarrow as pa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbt_bridge.connectors.postgres.origin import driver_errors
from dbt_bridge.connectors.postgres.origin.column_types import WireColumn
from dbt_bridge.connectors.postgres.origin.driver_errors import DriverOrigin
from dbt_bridge.connectors.postgres.origin.table_locks import TableLocks
from dbt_bridge.connectors.postgres.wire import bulk
from dbt_bridge.connectors.postgres.wire.bulk import BulkConnection
from dbt_bridge.connectors.postgres.wire.session import (
    READ_SETTINGS,
    StartUp,
    build_settings_sql,
    driver_conninfo,
    with_encoding,
)
from dbt_bridge.connectors.postgres.wire.watch import Watch, WatchedConnection, connect_watched
from dbt_bridge.errors import BridgeError, ConnectionFailed, OriginError
from dbt_bridge.nouns.table import TableName

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


_SAVEPOINT = "dbt_bridge"
# SQL that gives another session the same path: what its driver connected with may be another.
_PATH = """
SELECT pg_catalog.format(
    'SELECT pg_catalog.set_config(''search_path'', %L, true)', pg_catalog.current_setting('search_path')
)
"""


class Connections:
    """The connections of one origin. Constructing does no I/O; the first use connects.

    Args:
        name: the origin's name, for messages.
        url: a libpq URL or `key=value` string; `postgresql+driver://` is read as `postgresql://`.
        snapshot: an exported one to work in, such as that of a slot's creation; None to begin one.
        own_path: keep the user's `search_path`, for queries that a person wrote.
    """

    def __init__(self, name: str, url: str, snapshot: str | None = None, *, own_path: bool = False) -> None:
        self.name = name
        self.default_schema = "public"
        self.server_version = 0
        self._url = re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", url)
        self._origin = DriverOrigin(name, self._url)
        self._control: WatchedConnection | None = None
        self._imported = snapshot
        settings = [(name, value) for name, value in READ_SETTINGS if not own_path or name != "search_path"]
        self._set = build_settings_sql(settings, for_transaction=True)
        self._snapshot = ""
        self._locks = TableLocks(self._connect_for_locks, self._begin_for_locks)
        self._idle: list[BulkConnection] = []
        self._stops: list[Callable[[], None]] = []
        self._closed = False
        self._lock = threading.RLock()

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query in the snapshot; one thread at a time. A query that fails leaves the snapshot usable."""
        with self._lock:
            control = self._connect()
            try:
                return control.execute(sql.encode(), parameters).fetchall()
            except psycopg.Error as error:
                self._roll_back(control)
                raise self.translate_error(error) from error

    def describe_query(self, sql: str) -> list[WireColumn]:
        """The columns of a query. No row is read."""
        with self._lock:
            control = self._connect()
            try:
                cur = control.execute(f"SELECT * FROM (\n{sql}\n) AS described LIMIT 0".encode())  # noqa: S608
            except psycopg.Error as error:
                self._roll_back(control)
                raise self.translate_error(error) from error
            result, columns = cur.pgresult, cur.description
            assert result is not None and columns is not None, "a SELECT has columns"
            return [WireColumn(c.name, result.ftype(place), result.fmod(place)) for place, c in enumerate(columns)]

    def end_snapshot(self) -> None:
        """End the snapshot. The connection stays open, and the next query begins another snapshot."""
        with self._lock:
            if self._control is None or not self._snapshot:
                return
            self._snapshot = ""
            try:
                self._control.execute(b"ROLLBACK")
            except psycopg.Error as error:
                raise self.translate_error(error) from error

    def lock(self, name: TableName, *, by_columns: bool = False) -> None:
        """Keep a table (and those that inherit from it) from being dropped or rewritten until `let_go` or `close`.

        Args:
            by_columns: see `TableLocks.take`.
        """
        with self._lock:
            self._connect()
            try:
                self._locks.take(name, by_columns=by_columns)
            except psycopg.Error as error:
                raise self.translate_error(error, name) from error

    def let_go(self, name: TableName) -> None:
        """Nothing more is read of a table, as far as its user knows; it is locked no more."""
        with self._lock:
            if self._control is None:
                return
            with contextlib.suppress(psycopg.Error):  # a connection that is gone has no locks any more
                self._locks.let_go(name)
            self._roll_back(self._control)  # what queries have locked

    def _connect_for_locks(self) -> WatchedConnection:
        connection = connect_watched(self.conninfo())
        self._begin_for_locks(connection)
        return connection

    def _begin_for_locks(self, connection: WatchedConnection) -> None:
        connection.execute(b"BEGIN READ ONLY")
        connection.prepare(self._set)

    def borrow_bulk(self, watched: Callable[[Watch], None] = lambda _: None) -> BulkConnection:
        """An ADBC connection in the snapshot, for one thread. `return_bulk` it, or `drop_bulk` it after an error.

        Args:
            watched: takes the connection's watch, before it is waited for.
        """
        with self._lock:
            control = self._connect()
            if self._idle:
                idle = self._idle.pop()
                watched(idle.watch)
                return idle
            start = StartUp.ask(control)
            ((path,),) = control.execute(_PATH.encode()).fetchall()
        watch = Watch(self.conninfo())
        watched(watch)
        try:
            connection = BulkConnection(driver_conninfo(self.conninfo(), start), watch)
        except bulk.Error as error:
            raise self.translate_connect_error(error) from error
        try:
            for statement in (_BEGIN, f"SET TRANSACTION SNAPSHOT '{self._snapshot}'"):
                connection.execute(statement)
            connection.prepare(self._set)
            connection.execute(path)
            connection.execute(f"SAVEPOINT {_SAVEPOINT}")
        except (bulk.Error, OSError, pa.ArrowException) as error:
            self.drop_bulk(connection)
            raise self.translate_error(error) from error
        return connection

    @contextlib.contextmanager
    def open_copy(self) -> Iterator[WatchedConnection]:
        """A connection in the snapshot for one COPY; `close` breaks it off."""
        with self._lock:
            self._connect()
            snapshot = self._snapshot
        try:
            connection = connect_watched(self.conninfo())
        except psycopg.Error as error:
            raise self.translate_connect_error(error) from error

        def stop() -> None:
            with contextlib.suppress(psycopg.Error):  # the COPY has ended, or the server is gone
                connection.cancel_safe(timeout=5)

        with contextlib.closing(connection):
            for statement in (_BEGIN, f"SET TRANSACTION SNAPSHOT '{snapshot}'"):
                connection.execute(statement.encode())
            connection.prepare(self._set)
            self.stop_on_close(stop)
            try:
                yield connection
            finally:
                self.forget_stop(stop)

    def return_bulk(self, connection: BulkConnection) -> None:
        """It locks no table any more."""
        try:
            connection.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        except (bulk.Error, OSError, pa.ArrowException):  # what it read has arrived, and another one can be had
            self.drop_bulk(connection)
            return
        with self._lock:
            if self._control is not None:
                self._idle.append(connection)
                return
        self.drop_bulk(connection)

    def drop_bulk(self, connection: BulkConnection) -> None:
        with contextlib.suppress(bulk.Error):  # it may be broken already; nothing is lost with it
            connection.close()

    def stop_on_close(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the origin is closed."""
        with self._lock:
            self._stops.append(stop)

    def forget_stop(self, stop: Callable[[], None]) -> None:
        with self._lock, contextlib.suppress(ValueError):  # closed already
            self._stops.remove(stop)

    def close(self) -> None:
        """May be called while another thread's query waits, for a lock say: that query is cancelled."""
        self._closed = True  # a thread between two queries must not begin another snapshot
        while not self._lock.acquire(timeout=0.1):
            self._locks.cancel()
            if (control := self._control) is not None:
                with contextlib.suppress(psycopg.Error):  # it ended by itself, or the server is gone
                    control.cancel_safe(timeout=5)
        try:
            for stop in self._stops:
                stop()
            self._stops.clear()
            for connection in self._idle:
                self.drop_bulk(connection)
            self._idle.clear()
            self._locks.close()
            if self._control is not None:
                self._control.close()
                self._control = None
        finally:
            self._lock.release()

    def translate_error(self, error: Exception, table: TableName | None = None) -> BridgeError:
        """The bridge's error for one of the drivers', of this origin."""
        return driver_errors.translate_error(error, self._origin, table)

    def translate_connect_error(self, error: Exception) -> ConnectionFailed:
        return driver_errors.translate_connect_error(error, self._origin, self.conninfo())

    def format_error(self, error: Exception) -> str:
        """The driver's message on one line, without the password."""
        return driver_errors.format_error(error, self._origin)

    def conninfo(self) -> str:
        """What libpq connects with; its own defaults for what the URL leaves open."""
        try:
            known = conninfo_to_dict(self._url)
            defaults = {"fallback_application_name": "dbt-bridge"}
            return with_encoding(make_conninfo(**{**defaults, **known}))  # type: ignore[arg-type]
        except psycopg.ProgrammingError:  # its message quotes the URL
            raise ConnectionFailed(
                f"{self.name!r}: its credentials are not a Postgres URL",
                mend=f"write postgresql://user:password@host:port/database in [sources.{self.name}] credentials",
                role=driver_errors.ROLE,
            ) from None

    def _roll_back(self, control: psycopg.Connection[Any]) -> None:
        with contextlib.suppress(psycopg.Error):  # the connection may be gone; the first error is the one that matters
            control.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}".encode())

    def _connect(self) -> WatchedConnection:
        if self._control is not None and self._snapshot:
            return self._control
        if self._closed:
            raise OriginError(
                f"{self.name!r} was closed while it was read",
                mend="run the same command again",
                role=driver_errors.ROLE,
            )
        if (kept := self._control) is not None:
            try:
                kept.execute(b"SELECT 1")
            except psycopg.OperationalError:  # it was idle between two snapshots, for longer than the server lets it
                kept.close()
                self._control = None
        try:
            control = self._control or connect_watched(self.conninfo())
        except psycopg.Error as error:
            raise self.translate_connect_error(error) from error
        try:
            self.server_version = control.info.server_version
            control.execute(_BEGIN.encode())
            if self._imported is not None:
                control.execute(f"SET TRANSACTION SNAPSHOT '{self._imported}'".encode())
            row = control.execute("SELECT pg_catalog.current_schema()").fetchone()  # by the user's own path
            self.default_schema = (row and row[0]) or "public"
            control.prepare(self._set)
            row = control.execute("SELECT pg_export_snapshot()").fetchone()
            control.execute(f"SAVEPOINT {_SAVEPOINT}".encode())
        except psycopg.Error as error:
            control.close()
            self._control = None
            raise self.translate_error(error) from error
        self._snapshot = str(row[0]) if row else ""
        self._control = control
        return control
