"""Rows of one table as Postgres's own binary COPY, undecoded: the short way to another Postgres.

Each stream is a complete COPY (header, rows, trailer) over a part of the table, in the origin's snapshot. A value is
as the server sends it, so what Arrow cannot hold (NaN in a numeric, arrays with odd bounds, far dates) passes. The
binary form belongs to the type (PostgreSQL manual, COPY, "Binary Format"): both ends must agree on it, and what has no
type at the other end is sent as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
import pyarrow as pa

from dbt_bridge.connectors.postgres.origin.catalog import Relation
from dbt_bridge.connectors.postgres.origin.column_types import resolve_reading
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_table_name

_CHUNK = 1 << 18
_PAGES = 8192  # 64 MB: below it a second stream costs more than it gives


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows, and in which order: SQL after WHERE and after ORDER BY; empty for all rows, and for no order."""

    condition: str = ""
    order: str = ""


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
    for ctid in _parts(relation.pages if connections.server_version >= 140000 else 0, workers):
        where = " AND ".join(c for c in (ctid, part.condition) if c)
        rest = (f" WHERE {where}" if where else "") + (f" ORDER BY {part.order}" if part.order else "")
        streams.append(_stream(connections, name, select + rest))
    return streams


def _select_expression(relation: Relation, column: str, cast: str | None) -> str:
    if cast == "text":
        return resolve_reading(relation.types[column], pa.string()).expression(quote_identifier(column))
    return f"{quote_identifier(column)}::{cast}" if cast else quote_identifier(column)


def _parts(pages: int, workers: int) -> list[str]:
    """Conditions on ctid that cut a table of so many pages in equal parts; the last one is open."""
    count = min(workers, pages // _PAGES)
    if count < 2:
        return [""]
    starts = [pages * i // count for i in range(count)]
    return [
        f"ctid >= '({start},0)'::tid" + (f" AND ctid < '({end},0)'::tid" if end else "")
        for start, end in zip(starts, [*starts[1:], 0], strict=True)
    ]


def _stream(connections: Connections, name: TableName, select: str) -> Iterator[bytes]:
    try:
        with (
            connections.copying() as connection,
            connection.cursor() as cur,
            cur.copy(f"COPY ({select}) TO STDOUT (FORMAT binary)".encode()) as copy,
        ):
            held: list[bytes] = []
            size = 0
            while data := copy.read():
                held.append(bytes(data))
                size += len(data)
                if size >= _CHUNK:
                    yield b"".join(held)
                    held, size = [], 0
            yield b"".join(held)
    except psycopg.Error as error:
        raise connections.meaning(error, name) from error
