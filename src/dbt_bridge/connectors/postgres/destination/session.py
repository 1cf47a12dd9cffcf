"""Connections to a Postgres destination, and its errors in the bridge's words, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors

from dbt_bridge.connectors.postgres.wire.session import (
    StartUp,
    driver_conninfo,
    is_broken,
    prepare_session,
    with_encoding,
)
from dbt_bridge.connectors.postgres.wire.watch import WatchedConnection, connect_watched
from dbt_bridge.errors import BridgeError, ConnectionFailed, DestinationError, scrubbed
from dbt_bridge.nouns.table import TableName

WRITING = "USAGE, CREATE on the schema (and ownership of the table)"
READING = "USAGE on the schema and SELECT on the table"


def connect(conninfo: str, name: str) -> WatchedConnection:
    """A connection, in autocommit.

    Args:
        name: the destination's, for messages.
    """
    try:
        connection = connect_watched(with_encoding(conninfo, writes=True))
    except psycopg.OperationalError as error:
        raise ConnectionFailed(
            f"the Postgres destination {name!r} cannot be reached: {scrubbed(str(error)).strip()}",
            mend="check host, port, user and password in the dbt profile or [destination] settings",
        ) from None  # the driver's error holds the connection's parameters
    try:
        with translate_errors("a new session"):
            pid = prepare_session(lambda statement: connection.execute(statement.encode()).fetchone() or ())
            connection.watch.pid = pid
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class Driver:
    """How ADBC's driver connects to the same database as the same user.

    Attributes:
        path: the `search_path` of `connect`'s sessions: what hangs on a table may find its own by it.
    """

    conninfo: str
    path: str


def find_driver(conninfo: str, connection: psycopg.Connection | None = None, *, writes: bool = False) -> Driver:
    """Asks the server.

    Args:
        writes: see `with_encoding`.
        connection: one of `connect`'s, where there is one; else it is asked through a new one.
    """
    if connection is None:
        with closing(connect(conninfo, "")) as asked:
            return find_driver(conninfo, asked, writes=writes)
    start = StartUp.ask(connection)
    return Driver(driver_conninfo(conninfo, start, writes=writes), start.path)


@contextmanager
def blaming(name: TableName) -> Iterator[None]:
    """What fails is this table's fault, and told as such: the others of a transaction may go on without it."""
    try:
        with translate_errors(name):
            yield
    except BridgeError as error:
        is_everybodys = isinstance(error.__cause__, psycopg.OperationalError)  # the server went away, or is full
        if not is_everybodys or isinstance(error.__cause__, errors.LockNotAvailable):
            error.table = name
        raise


@contextmanager
def translate_errors(where: object, rights: str = WRITING) -> Iterator[None]:
    """Tell Postgres's errors as ours.

    Args:
        where: the table, for messages.
        rights: what is to be granted where a privilege is missing.
    """
    try:
        yield
    except BridgeError:
        raise
    except psycopg.Error as error:
        text = scrubbed(error.diag.message_primary or str(error)).strip()
        broken = isinstance(error, psycopg.OperationalError) and is_broken(error.sqlstate or "", text)
        said = f"Postgres failed on {where}: {text}"
        if isinstance(error, errors.LockNotAvailable):  # worth another try, as in `do_when_free`
            raise ConnectionFailed(said, mend=_mend(error, rights)) from error
        raise DestinationError(said, mend=_mend(error, rights), broke_off=broken) from error


def refuse_hidden_rows(cur: psycopg.Cursor[Any], name: TableName) -> None:
    """Raises DestinationError: policies of the table are for the user of the connection, too."""
    cur.execute(
        "SELECT row_security_active(c.oid)\n"
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n"
        "WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
        [name.schema, name.name],
    )
    if cur.fetchone() == (True,):
        raise DestinationError(
            f"{name}: a row-level security policy hides rows from the user of the connection",
            mend=advise_grant("row-level security", ""),
        )


def advise_grant(said: str, rights: str) -> str:
    """What to do where a privilege is missing; empty where the server's sentence says something else.

    Args:
        said: by psycopg or ADBC, whose errors in the middle of a read have no SQLSTATE.
    """
    if "row-level security" in said:
        return "ALTER ROLE <the user of the connection> BYPASSRLS; then run the same command again"
    return f"GRANT {rights} to the user of the connection" if "permission denied" in said else ""


def _mend(error: psycopg.Error, rights: str) -> str:
    if isinstance(error, errors.InsufficientPrivilege):
        return advise_grant(str(error), rights) or f"GRANT {rights} to the user of the connection"
    if isinstance(error, errors.DiskFull):
        return "free disk space at the Postgres server, then run the same command again"
    if isinstance(error, errors.UniqueViolation | errors.ForeignKeyViolation | errors.NotNullViolation):
        return error.diag.message_detail or "correct the rows, or the constraint"
    if isinstance(error, errors.LockNotAvailable):
        ends = "end the transaction that holds it or rows of it (pg_locks, pg_stat_activity)"
        return f"{ends}, or wait longer for it: --lock-wait 10m; nothing of it was written"
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:  # its COMMIT may have arrived
        return "run the same command again: what had arrived by then is not written twice"
    if isinstance(error, psycopg.OperationalError):
        return "run the same command again; nothing of it was written"
    return "see the log of the Postgres server; nothing of it was written"
