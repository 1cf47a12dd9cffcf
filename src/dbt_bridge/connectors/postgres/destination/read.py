"""Relations of the warehouse are read as Arrow: decimals through text (the driver's own numerics are slow text).

numeric with a precision comes as decimal, uuid and json as Arrow's extension types, unbounded numerics, intervals,
arrays and every type that Arrow lacks as Postgres's own text. Timestamps and dates of +-infinity are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import Cursor
from pyarrow import types as is_

from dbt_bridge.arrow import decimals
from dbt_bridge.connectors.postgres.destination.column_types import BY_ARROW, base
from dbt_bridge.connectors.postgres.destination.relation import Relation
from dbt_bridge.connectors.postgres.destination.session import find_driver
from dbt_bridge.connectors.postgres.wire import bulk
from dbt_bridge.connectors.postgres.wire.bulk import BulkConnection, repair_moments
from dbt_bridge.connectors.postgres.wire.watch import Silence, Watch
from dbt_bridge.errors import DestinationError, TypeRefused, scrubbed
from dbt_bridge.nouns.table import (
    Column,
    Table,
    quote_identifier,
    quote_table_name,
)
from dbt_bridge.system.aside import Aside
from dbt_bridge.system.owned_reader import make_reader

_ARROW = {**BY_ARROW, "oid": pa.int64()}
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_EARLIEST_US = -210_866_803_200_000_000  # Postgres's own first moment, 4714-11-24 BC
_EARLIEST_DAY = -2_440_588
_TEXTS = {"text", "character varying", "character", "name"}


def relation_table(cur: Cursor[Any], found: Relation) -> Table:
    """The relation with the Arrow types that its rows come in, and its primary key."""
    cur.execute(
        "SELECT a.attname\n"
        "FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)\n"
        "WHERE k.conrelid = %s AND k.contype = 'p'\n"
        "ORDER BY array_position(k.conkey, a.attnum)",
        [found.oid],
    )
    key = tuple(row[0] for row in cur.fetchall())
    return Table(found.name, tuple(Column(n, _arrow(t), t) for n, t in found.columns.items()), key)


def _arrow(sql_type: str) -> pa.DataType:
    if (decimal := _NUMERIC.fullmatch(sql_type)) and 0 < int(decimal[1]) <= 38 and int(decimal[2]) <= int(decimal[1]):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return pa.string() if sql_type.endswith("[]") else _ARROW.get(base(sql_type), pa.string())


@dataclass(frozen=True, slots=True)
class _Selected:
    column: Column
    expression: str


def read_relation(
    conninfo: str, table: Table, columns: Sequence[str] = (), as_text: Collection[str] = ()
) -> pa.RecordBatchReader:
    """Stream rows on a connection of its own, which ends with the stream.

    Raises:
        DestinationError: no such column, or Postgres broke off.
    """
    known = {c.name: c for c in table.columns}
    if unknown := [c for c in columns if c not in known]:
        raise DestinationError(
            f"{table.name} has no column {unknown[0]!r}; it has {', '.join(known)}",
            mend="correct `columns:`, or build the model again: dbt-bridge build",
        )
    wanted = [known[c] for c in columns] if columns else list(table.columns)
    selected = [_select(c.as_text() if c.name in as_text else c) for c in wanted]
    schema = pa.schema([pa.field(s.column.name, s.column.type) for s in selected])
    return make_reader(schema, _rows(conninfo, table, selected, schema))


def _select(column: Column) -> _Selected:
    name = quote_identifier(column.name)
    if base(column.origin_type) == "inet" and not column.origin_type.endswith("[]"):
        return _Selected(column, f"inet_out({name})::text")  # inet::text appends /32
    if pa.types.is_string(column.type) and base(column.origin_type) not in ("text", "character varying", "character"):
        return _Selected(column, f"{name}::text")
    if pa.types.is_decimal(column.type):
        return _Selected(column, f"{name}::text")
    return _Selected(column, f"{name}::bigint" if column.origin_type == "oid" else name)


def _rows(conninfo: str, table: Table, selected: Sequence[_Selected], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    statement = f"SELECT {', '.join(s.expression for s in selected)}\nFROM {quote_table_name(table.name)}"
    driver = find_driver(conninfo)
    watch = Watch(driver.conninfo)

    def batches() -> Generator[pa.RecordBatch, None, None]:
        with closing(BulkConnection(driver.conninfo, watch)) as connection:
            connection.prepare_session(driver.path)  # the text forms below depend on it
            yield from connection.stream(statement)

    try:
        with Aside(watch.look_at_waiting) as aside:
            for batch in aside.iterate(batches()):
                arrays = [_decode(a, s.column, table) for a, s in zip(batch.columns, selected, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    except (bulk.Error, Silence, OSError, pa.ArrowException) as error:  # pyarrow's own in the middle of a stream
        raise DestinationError(
            f"Postgres broke off while {table.name} was read: {scrubbed(' '.join(str(error).split()))}",
            mend="run the same command again; if the message is about a value, cast its column in the model",
        ) from error


def _decode(array: pa.Array, column: Column, table: Table) -> pa.Array:
    """adbc_driver_postgresql 1.13 lets infinity and far dates wrap around to before Postgres's first moment."""
    try:
        array = array if array.type == column.type else decimals.cast(array, column.type)
    except pa.ArrowInvalid as error:
        raise TypeRefused(
            f"{table.name}, column {column.name!r}: {error}", mend="cast it to text in the model"
        ) from error
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        whole, first = (pa.int32(), _EARLIEST_DAY) if pa.types.is_date(array.type) else (pa.int64(), _EARLIEST_US)
        least = pc.min(array.view(whole)).as_py()
        if least is not None and least < first:
            raise TypeRefused(
                f"{table.name}, column {column.name!r} holds infinity, or a year after 294247",
                mend="cast it to text in the model",
            )
    return array


# --- replicas: values exactly as they landed -------------------------------------------------------------------------


def select_exactly(column: Column, stored: str) -> str:
    """The select expression whose Arrow form keeps every value.

    Args:
        stored: the type in the table, as `format_type` spells it.
    """
    name, type_ = quote_identifier(column.name), column.type
    plain = base(stored)
    if is_.is_string(type_) or is_.is_large_string(type_) or isinstance(type_, pa.JsonType):
        return f"{as_text(name, stored)} AS {name}"
    if is_.is_duration(type_):
        return f"(extract(epoch FROM {name}) * 1000000)::int8 AS {name}"
    if is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_):
        inner = type_.value_type
        by_text = is_.is_decimal(inner) or isinstance(inner, pa.BaseExtensionType)
        return f"{name}::text[] AS {name}" if by_text or is_.is_string(inner) else name
    if plain == "numeric":
        return f"{name}::text AS {name}"
    return f"{name}::int8 AS {name}" if plain == "oid" else name


def as_text(name: str, stored: str) -> str:
    """A column in the server's text form, as it landed."""
    if not stored.endswith("[]"):
        if base(stored) in _TEXTS:
            return name
        if base(stored) in ("inet", "xml"):  # inet::text appends /32
            return f"{base(stored)}_out({name})::text"
    return f"{name}::text"


def make_decoder(type_: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """Turns what the driver reads for `select_exactly` into the column's own values."""
    if is_.is_list(type_) and (is_.is_timestamp(type_.value_type) or is_.is_date(type_.value_type)):
        values = repair_moments(type_.value_type)
        return lambda array: pa.ListArray.from_buffers(
            array.type, len(array), array.buffers()[:2], array.null_count, array.offset, children=[values(array.values)]
        )
    repair = repair_moments(type_)
    return lambda array: repair(array) if is_.is_temporal(array.type) else array
