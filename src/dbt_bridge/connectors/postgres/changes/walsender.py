"""A connection to a walsender: replication commands, and COPY BOTH, through libpq.

https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import re
import selectors
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.wire.session import CONTROL_SETTINGS, build_settings_sql
from dbt_bridge.connectors.postgres.wire.watch import Silence, Watch
from dbt_bridge.contracts.change_feed import Unreadable
from dbt_bridge.errors import BridgeError, OriginError

# `SET`, not libpq's `options`: unknown settings are passed over on older servers, and the user's own `options` stay.
# A walsender that waits for transactions, or keeps a snapshot, is idle in a transaction and must not be ended for it.
SET = build_settings_sql(CONTROL_SETTINGS, for_transaction=False)


class Walsender:
    """One replication connection to a database. Constructing connects; a context manager.

    Args:
        connections: of the same origin: its libpq string, and what its errors mean.

    Raises:
        ConnectionFailed: the server cannot be reached or logged in to.
        OriginError: the role may not replicate, or all walsenders are in use.
    """

    def __init__(self, connections: Connections) -> None:
        self.name = connections.name
        self._connections = connections
        self._watch = Watch(connections.conninfo())
        try:
            walsender = make_conninfo(connections.conninfo(), replication="database")
            self._connection = psycopg.connect(walsender, autocommit=True)
        except psycopg.Error as error:
            raise translate_error(connections, error, connecting=True) from error
        self.pgconn = self._connection.pgconn
        self.server_version = self.pgconn.server_version
        try:
            rows, _ = self.command(SET)
            self._watch.pid = int(rows[0][-1])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Walsender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def command(
        self, sql: str, *, waiting: Callable[[float], None] | None = None
    ) -> tuple[list[tuple[Any, ...]], pq.abc.PGresult]:
        """Run one replication command, or a query without parameters: its rows as text, and its result.

        Args:
            waiting: called about twice a second with the seconds so far; what it raises cancels the command.
        """
        self.pgconn.send_query(sql.encode())
        begun = time.monotonic()
        results = []
        while (result := self._next_result(begun, waiting)) is not None:
            if result.status == pq.ExecStatus.COPY_BOTH:
                return [], result
            results.append(result)
        if not results:
            raise self.make_broken_error()
        result = results[0]
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise self.make_refusal(result)
        rows = [tuple(_text(result.get_value(r, c)) for c in range(result.nfields)) for r in range(result.ntuples)]
        return rows, result

    def _next_result(self, begun: float, waiting: Callable[[float], None] | None) -> pq.abc.PGresult | None:
        heard = time.monotonic()
        while True:
            self.flush()
            if not self.pgconn.is_busy():
                return self.pgconn.get_result()
            if self._readable(0.5):
                self.consume()
                heard = time.monotonic()
                continue
            self._look(time.monotonic() - heard)
            if waiting is not None:
                try:
                    waiting(time.monotonic() - begun)
                except BaseException:
                    self._connection.cancel_safe(timeout=5)
                    raise

    def _look(self, silent: float) -> None:
        try:
            self._watch.look(silent)
        except Silence as error:
            raise translate_error(self._connections, error) from error

    def read_history(self, timeline: int) -> str:
        """The content of a timeline's history file.

        Raises:
            OriginError: the server has none (any more).
        """
        rows, _ = self.command(f"TIMELINE_HISTORY {timeline}")
        return str(rows[0][1])

    def _readable(self, seconds: float) -> bool:
        """`select` knows only the first thousand files of a process."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pgconn.socket, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def consume(self) -> None:
        """Read once what the socket holds."""
        try:
            self.pgconn.consume_input()
        except psycopg.Error as error:
            raise translate_error(self._connections, error) from error

    def flush(self) -> None:
        try:
            self.pgconn.flush()
        except psycopg.Error as error:
            raise translate_error(self._connections, error) from error

    def make_refusal(self, result: pq.abc.PGresult) -> BridgeError:
        """What the server said instead of a result."""
        error = psycopg.errors.error_from_result(result)
        return _find_unreadable(self._connections, error) or translate_error(self._connections, error)

    def make_broken_error(self) -> BridgeError:
        """What libpq says of a connection that has just failed."""
        said = self.pgconn.get_error_message() or "the server closed the connection"
        return translate_error(self._connections, psycopg.OperationalError(said))


# What a change's own values bring about, and brings about again: a row of more than 1 GB, as texts or with its old
# values (54000, or XX000 for a request of memory beyond that), a text that is none in its encoding (class 22).
_OF_VALUES = re.compile("22|54000|XX000")
_IN_CHANGE = re.compile(r"in the (?:stream_)?change callback")


def _find_unreadable(connections: Connections, error: psycopg.Error) -> Unreadable | None:
    """The error, where it is that of one change and not of the walsender."""
    diagnosis = error.diag
    if not (_OF_VALUES.match(diagnosis.sqlstate or "") and _IN_CHANGE.search(diagnosis.context or "")):
        return None
    detail = f": {diagnosis.message_detail}" if diagnosis.message_detail else ""
    return Unreadable(
        f"origin {connections.name!r}: its server cannot send a change, as it is too large (a row of more than 1 GB) or"
        f" no valid text ({diagnosis.message_primary}{detail})",
        mend="where the table has REPLICA IDENTITY FULL, which sends old and new values together, give it a key;"
        " where a row itself is as large, replication: incremental with `columns: {exclude: [...]}`; then dbt-bridge"
        " sync",
        sqlstate=diagnosis.sqlstate or "",
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def translate_error(connections: Connections, error: Exception, *, connecting: bool = False) -> BridgeError:
    """The error of the tree, with what mends it, that a walsender's or a slot's error stands for."""
    if isinstance(error, BridgeError):
        return error
    state = getattr(error, "sqlstate", None) or ""
    said = re.sub(r"\s+", " ", str(error)).strip()
    place = f"origin {connections.name!r}"
    for pattern, what, mend in _KNOWN:
        if re.search(pattern, said):
            return OriginError(f"{place}: {what} ({connections.format_error(error)})", mend=mend, sqlstate=state)
    if connecting and not state.startswith(("42", "55", "53")):
        return connections.translate_connect_error(error)
    return connections.translate_error(error)


_ROLE = "ALTER ROLE <the origin's user> REPLICATION;"
_MANAGED = "RDS: GRANT rds_replication TO <the origin's user>; Cloud SQL, Neon: the ALTER ROLE as their admin role"
_KNOWN = (
    (
        r"must be superuser or replication role|permission denied to (start WAL sender|use replication slots)"
        r"|Only roles with the REPLICATION attribute",
        "its user may not replicate",
        f"{_ROLE} ({_MANAGED})",
    ),
    (
        "wal_level",
        "its log does not hold row changes",
        "ALTER SYSTEM SET wal_level = logical; then restart the server (RDS: rds.logical_replication = 1, "
        "Cloud SQL: cloudsql.logical_decoding = on, Neon: enable logical replication in the project's settings)",
    ),
    (
        "number of requested standby connections exceeds",
        "all its walsenders are in use",
        "SELECT pid, application_name FROM pg_stat_replication; "
        "then ALTER SYSTEM SET max_wal_senders = <more>; and restart the server",
    ),
    (
        "no pg_hba.conf entry for replication",
        "its pg_hba.conf lets no replication in",
        "add a `host` line for this user and database to pg_hba.conf; SELECT pg_reload_conf();",
    ),
    (
        "all replication slots are in use",
        "no slot is free",
        "SELECT slot_name FROM pg_replication_slots WHERE NOT active; drop one that nobody needs with "
        "SELECT pg_drop_replication_slot('<slot>'); or raise max_replication_slots and restart the server",
    ),
    (
        "can no longer (get changes|be used)|has been invalidated|invalidating|can no longer access replication slot",
        "the slot lost log that was still needed",
        "dbt-bridge slots drop <slot>; then dbt-bridge sync --full-refresh",
    ),
    (
        "publication .* does not exist",
        "its log is read from before the publication was made",
        "dbt-bridge slots drop <slot>; then dbt-bridge sync --full-refresh",
    ),
)
