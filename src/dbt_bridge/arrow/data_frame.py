"""Pages of an API as one data frame, all in memory."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pyarrow as pa

from dbt_bridge.arrow.python_frames import to_frames
from dbt_bridge.arrow.python_rows import fit_batch
from dbt_bridge.errors import MissingExtra, TypeRefused, UsageError
from dbt_bridge.nouns.names import DUCKDB, find_twins
from dbt_bridge.system.owned_reader import owning

WHERE = "api_to_df"


def build_data_frame(data: Any, schema: pa.Schema | None) -> Any:
    """A pandas frame with Arrow's types; see `dbt_bridge.api_to_df`."""
    try:
        import pandas as pd  # type: ignore[import-untyped]
    except ImportError as missing:
        raise MissingExtra("pandas", "api_to_df") from missing
    found = to_frames(data, WHERE)
    if len(found) != 1:
        raise UsageError(
            f"api_to_df makes one frame, and the source has {len(found)} resources:"
            f" {', '.join(str(f.name) for f in found)}",
            mend="pass one of them: source.resources['...']",
        )
    with closing(found[0]), owning(found[0].batches) as batches:
        rows = batches.read_all().combine_chunks()
    _check_names(rows.schema, schema)
    columns = {field.name: _simplify(rows.column(field.name)) for field in rows.schema}
    table = pa.table(columns)
    if schema is not None:
        table = _cast_table(table, schema)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _simplify(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """JSON as structs and lists where one shape holds all its values, else as text; UUIDs as text."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_duration(column.type) or pa.types.is_time(column.type) or _is_zoned(column.type):
        return _to_microseconds(column)
    if column.type == pa.json_():
        texts = column.cast(pa.string())
        return _find_structs(texts) or texts
    if column.type == pa.uuid():
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())
    return column


def _check_names(found: pa.Schema, asked: pa.Schema | None) -> None:
    """Raises UsageError: there are no columns, or two that are one to the DuckDB that keeps the frame."""
    if asked is None and not len(found):
        raise UsageError(
            f"{WHERE}: no row came, so no column is known",
            mend="say what an empty answer is made of: api_to_df(..., schema=pa.schema([('id', pa.int64()), ...]))",
        )
    twins = find_twins((asked or found).names, DUCKDB.same_column)
    if twins is not None:
        raise UsageError(
            f"{WHERE}: the columns {twins[0]!r} and {twins[1]!r} are one name to DuckDB",
            mend="rename or leave out one of them in the rows",
        )


def _is_zoned(type_: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(type_)) and type_.tz is not None


def _to_microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Moments with a zone, times and durations as DuckDB keeps them, which would cut off their nanoseconds.

    Raises:
        TypeRefused: there are some.
    """
    type_ = column.type
    whole = pa.time64("us") if pa.types.is_time(type_) else pa.duration("us")
    whole = pa.timestamp("us", type_.tz) if pa.types.is_timestamp(type_) else whole
    try:
        return column.cast(whole)
    except pa.ArrowInvalid as error:
        raise TypeRefused(
            f"{WHERE}: a value of the type {type_} has nanoseconds, which DuckDB does not keep: {error}",
            mend="round it, or make it text, before it is yielded",
        ) from None


def _find_structs(texts: pa.ChunkedArray) -> pa.Array | None:
    values = [None if text is None else json.loads(text) for text in texts.to_pylist()]
    try:
        structured = pa.array(values)
        structured = structured.cast(_name_nulls(structured.type))
    except (pa.ArrowException, OverflowError):
        return None
    if _has_empty_struct(structured.type) or not all(map(_is_same, structured.to_pylist(), values)):
        return None
    return structured


def _name_nulls(type_: pa.DataType) -> pa.DataType:
    """The type with text where only NULLs were: DuckDB would take those for integers."""
    if pa.types.is_null(type_):
        return pa.string()
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_name_nulls(field.type)) for field in type_])
    return pa.list_(_name_nulls(type_.value_type)) if pa.types.is_list(type_) else type_


def _has_empty_struct(type_: pa.DataType) -> bool:
    """DuckDB has no struct without fields."""
    children = [type_.field(i).type for i in range(type_.num_fields)]
    return (pa.types.is_struct(type_) and not children) or any(map(_has_empty_struct, children))


def _is_same(structured: Any, value: Any) -> bool:
    """Whether nothing changed but keys that are absent, which a struct holds as NULL."""
    if isinstance(value, dict):
        return isinstance(structured, dict) and all(_is_same(v, value.get(k)) for k, v in structured.items())
    if isinstance(value, list):
        return isinstance(structured, list) and len(structured) == len(value) and all(map(_is_same, structured, value))
    return bool(structured == value)


def _cast_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches([fit_batch(batch, schema, WHERE) for batch in table.to_batches()], schema=schema)
