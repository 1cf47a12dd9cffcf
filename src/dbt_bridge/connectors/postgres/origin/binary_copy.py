"""Rows of one table as Postgres's own binary COPY, never decoded: the short way to another Postgres.

Each stream is a complete COPY (header, rows, trailer) over a part of the table, in the origin's snapshot. A value is
as the server sends it, so what Arrow cannot hold (NaN in a numeric, arrays with odd bounds, far dates) passes. The
binary form belongs to the type (PostgreSQL manual, COPY, "Binary Format"): both ends must agree on it, and what has no
type at the other end is sent as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import psycopg
import pyarrow as pa
from psycopg.abc import Buffer

from dbt_bridge.connectors.postgres.origin.catalog import Relation
from dbt_bridge.connectors.postgres.origin.column_types import resolve_reading
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.ctid_ranges import split_evenly
from dbt_bridge.connectors.postgres.origin.initial_copy import Part
from dbt_bridge.connectors.postgres.wire.watch import WatchedConnection
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_table_name

_CHUNK = 1 << 18
_PAGES = 8192  # 64 MB: below it a second stream costs more than it gives


def copy_binary(
    connections: Connections,
    relation: Relation,
    columns: Sequence[str],
    casts: Mapping[str, str],
    part: Part,
    *,
    workers: int = 1,
) -> list[Iterator[bytes]]:
    """Up to `workers` streams, each to be read by one thread; together they have every row once.

    Args:
        casts: column -> SQL type that it is sent as; `text` is the server's text form of the value.

    Raises (while a stream is read):
        OriginError: a privilege is missing, or the server broke off.
    """
    expressions = [_select_expression(relation, c, casts.get(c)) for c in columns]
    name = relation.table.name
    select = f"SELECT {', '.join(expressions)} FROM {quote_table_name(name)}"  # noqa: S608
    streams = []
    for range_ in split_evenly(relation.pages, min(workers, relation.pages // _PAGES)):
        streams.append(_stream(connections, name, select + part.build_clauses(range_)))
    return streams


def _select_expression(relation: Relation, column: str, cast: str | None) -> str:
    if cast == "text":
        return resolve_reading(relation.types[column], pa.string()).expression(quote_identifier(column))
    return f"{quote_identifier(column)}::{cast}" if cast else quote_identifier(column)


def _stream(connections: Connections, name: TableName, select: str) -> Iterator[bytes]:
    try:
        with (
            connections.open_copy() as connection,
            connection.cursor() as cur,
            cur.copy(f"COPY ({select}) TO STDOUT (FORMAT binary)".encode()) as copy,
        ):
            pending: list[bytes] = []
            size = 0
            for data in _read(connection, copy):
                pending.append(bytes(data))
                size += len(data)
                if size >= _CHUNK:
                    yield b"".join(pending)
                    pending, size = [], 0
            yield b"".join(pending)
    except psycopg.Error as error:
        raise connections.translate_error(error, name) from error


def _read(connection: WatchedConnection, copy: psycopg.Copy) -> Iterator[Buffer]:
    """The rows of a COPY. Those that libpq has already are taken from it: psycopg's own way takes twice as long."""
    take = connection.pgconn.get_copy_data
    while True:
        size, row = take(1)
        if size > 0:
            yield row
            continue
        if size < 0:
            connection.expect_end()
            return
        waited_for = copy.read()
        if not waited_for:
            return
        yield waited_for
