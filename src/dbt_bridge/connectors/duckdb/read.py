"""Rows leave DuckDB as Arrow exactly, whatever the connection's Arrow settings are (dbt's may be anything)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import duckdb
import pyarrow as pa

from dbt_bridge.arrow.duckdb_rows import stream_query, stream_relation
from dbt_bridge.errors import DestinationError, scrubbed
from dbt_bridge.nouns.table import quote_identifier
from dbt_bridge.system.owned_reader import make_reader

# DuckDB's Arrow export drops a TIMETZ's offset, wraps a HUGEINT beyond 38 digits, and gives BIT its inner bytes.
# A HUGEINT (the type of every sum of integers) is a number: the cast to DECIMAL raises where it does not fit.
_SENT_AS = {
    "TIME WITH TIME ZONE": "VARCHAR",
    "BIT": "VARCHAR",
    "BIGNUM": "VARCHAR",
    "HUGEINT": "DECIMAL(38,0)",
    "UHUGEINT": "DECIMAL(38,0)",
}
# One of these types, at any depth of a list, struct or map; quoted names and values of enums are passed over.
_INNER = re.compile(
    r"""
    "(?:[^"]|"")*" | '(?:[^']|'')*' | (?<![\w"])(?:TIME[ ]WITH[ ]TIME[ ]ZONE|BIT|BIGNUM|U?HUGEINT)(?=[,)\[]|$)
    """,
    re.VERBOSE,
)


def select_exactly(column: str, sql_type: str, *, as_text: bool = False) -> str:
    """The select expression whose Arrow form keeps every value."""
    name = quote_identifier(column)
    if as_text:
        return f"CAST({name} AS VARCHAR) AS {name}"
    if sql_type == "UUID":
        return f"unhex(replace(CAST({name} AS VARCHAR), '-', '')) AS {name}"
    if sql_type == "JSON" or sql_type.startswith("ENUM("):
        return f"CAST({name} AS VARCHAR) AS {name}"
    sent_as = cast_for_arrow(name, sql_type)
    return name if sent_as == name else f"{sent_as} AS {name}"


def cast_for_arrow(column: str, sql_type: str) -> str:
    """A quoted column, cast where Arrow has no such type and DuckDB's export would lose something."""
    sent_as = _INNER.sub(lambda found: _SENT_AS.get(found[0], found[0]), sql_type)
    return column if sent_as == sql_type else f"CAST({column} AS {sent_as})"


def read_type(arrow: pa.DataType, sql_type: str) -> pa.DataType:
    """The Arrow type of a column of this SQL type, given that of its `select_exactly`."""
    if sql_type == "UUID":
        return pa.uuid()
    if sql_type == "JSON":
        return pa.json_()
    if pa.types.is_timestamp(arrow) and arrow.tz is not None:
        return pa.timestamp(arrow.unit, "UTC")
    return arrow


def schema_of(cur: Any, query: str, columns: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of `read(cur, query, columns)`; reads no row."""
    return _schema(stream_query(cur, f"{query}\nLIMIT 0").schema, columns)


def read(
    cur: Any, where: object, query: str, columns: Mapping[str, str], vector_bytes: int = 0
) -> pa.RecordBatchReader:
    """Stream a query over `select_exactly`s of these columns (name -> SQL type); closes the cursor at the end.

    Args:
        where: what is read, for messages.
        vector_bytes: see `stream_relation`.

    Raises (while it is read):
        DestinationError: a value does not fit its Arrow type, or DuckDB broke off.
    """
    source = stream_query(cur, query, vector_bytes)
    schema = _schema(source.schema, columns)
    return make_reader(schema, _batches(cur, where, source, schema), source)


def read_relation(relation: Any) -> pa.RecordBatchReader:
    """A DuckDB relation's rows as a stream, on the relation's own connection."""
    columns = {name: str(type_) for name, type_ in zip(relation.columns, relation.types, strict=True)}
    projected = relation.project(", ".join(select_exactly(name, sql) for name, sql in columns.items()))
    source = stream_relation(projected)
    schema = _schema(source.schema, columns)
    return make_reader(schema, _cast_batches(source, schema), source)


def _schema(arrow: pa.Schema, columns: Mapping[str, str]) -> pa.Schema:
    pairs = zip(arrow, columns.values(), strict=True)
    return pa.schema([pa.field(field.name, read_type(field.type, sql)) for field, sql in pairs])


def _batches(cur: Any, where: object, source: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with closing(cur):
        try:
            yield from _cast_batches(source, schema)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise DestinationError(
                f"DuckDB broke off while {where} was read: {scrubbed(' '.join(str(error).split()))}",
                mend="if the message is about a value, cast its column in the model that builds it",
            ) from error


def _cast_batches(source: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in source:
        arrays = [_as(array, field.type) for array, field in zip(batch.columns, schema, strict=True)]
        yield pa.record_batch(arrays, schema=schema)


def _as(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type == type_:
        return array
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, array.cast(type_.storage_type))
    return array.cast(type_)
