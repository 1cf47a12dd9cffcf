"""Types in Delta tables and Parquet files: what is kept, what becomes text, which values are refused.

    bool, int8/16/32/64, float32/64     the same
    uint8, uint16, uint32, uint64       the next wider signed integer; decimal(20,0)
    float16                             float32
    decimal(p,s), p <= 38               the same; wider ones become text
    string, binary, date                the same
    timestamp                           microseconds without zone (Delta: timestamp_ntz)
    timestamp with zone                 microseconds in UTC
    list, struct, map of these          the same
    time, duration, interval            text
    uuid, json                          text
    null                                text

Dates and timestamps have the years 1 to 9999, as Spark and the SQL standard do: neither infinity nor years before
Christ. Such a value is refused; `types: {column: text}` keeps it as text.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.arrow import decimals
from dbt_bridge.arrow.calendar import to_civil
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import Column, Table

_WIDENED: dict[pa.DataType, pa.DataType] = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
}
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31
_DAY_US = 86_400_000_000


def map_column(column: Column) -> Column:
    """The column as it must travel to land in a lake exactly."""
    return replace(column, type=_lake_type(column.type) or pa.string())


def _lake_type(type_: pa.DataType) -> pa.DataType | None:
    """The type in the file; None where only text keeps the values."""
    if is_.is_dictionary(type_) or is_.is_run_end_encoded(type_):
        return _lake_type(type_.value_type)
    if is_.is_decimal(type_):
        exact = type_.precision <= 38 and 0 <= type_.scale <= type_.precision
        return pa.decimal128(type_.precision, type_.scale) if exact else None
    if is_.is_timestamp(type_):
        return pa.timestamp("us", "UTC" if type_.tz else None)
    if is_.is_date(type_):
        return pa.date32()
    if is_.is_large_string(type_) or is_.is_string(type_) or is_.is_string_view(type_):
        return pa.string()
    if is_.is_large_binary(type_) or is_.is_binary(type_) or is_.is_fixed_size_binary(type_):
        return pa.binary()
    if is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_):
        inner = _lake_type(type_.value_type)
        return pa.list_(inner) if inner is not None else None
    if is_.is_map(type_):
        key, item = _lake_type(type_.key_type), _lake_type(type_.item_type)
        return pa.map_(key, item) if key is not None and item is not None else None
    if is_.is_struct(type_):
        fields = [(f.name, _lake_type(f.type)) for f in type_]
        return pa.struct(fields) if fields and all(t is not None for _, t in fields) else None
    if type_ in _WIDENED:
        return _WIDENED[type_]
    if is_.is_boolean(type_) or is_.is_integer(type_) or is_.is_float32(type_) or is_.is_float64(type_):
        return type_
    return None


def build_schema(table: Table) -> pa.Schema:
    """The schema that is written. Every column may be NULL: a lake's NOT NULL would outlive the origin's."""
    return pa.schema([pa.field(c.name, _lake_type(c.type) or pa.string()) for c in table.columns])


def cast_batch(batch: pa.RecordBatch, table: Table, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the written types.

    Raises:
        TypeRefused: a value does not fit; names table, column and value.
    """
    arrays = [_cast_column(array, field, table) for array, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast_column(array: pa.Array, field: pa.Field, table: Table) -> pa.Array:
    if isinstance(array.type, pa.UuidType):
        array = pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())
    elif isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if array.type != field.type:
        try:
            array = decimals.cast(array, field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TypeRefused(
                f"{table.name}, column {field.name!r}: {error}",
                mend=f"types: {{{quote_in_yaml(field.name)}: text}}",
                column=field.name,
            ) from error
    for values in _find_moments(array):
        _check_years(values, field.name, table)
    return array


def _find_moments(array: pa.Array) -> list[pa.Array]:
    """The dates and timestamps of an array, nested ones too."""
    if is_.is_date(array.type) or is_.is_timestamp(array.type):
        return [array]
    if is_.is_list(array.type):
        return _find_moments(array.flatten())
    if is_.is_struct(array.type):
        return [moment for part in array.flatten() for moment in _find_moments(part)]
    if is_.is_map(array.type):
        return [*_find_moments(array.keys), *_find_moments(array.items)]
    return []


def _check_years(array: pa.Array, column: str, table: Table) -> None:
    is_date = is_.is_date(array.type)
    first, last = (_FIRST_DAY, _LAST_DAY) if is_date else (_FIRST_DAY * _DAY_US, (_LAST_DAY + 1) * _DAY_US - 1)
    extremes = pc.min_max(array.view(pa.int32() if is_date else pa.int64())).as_py()
    for value in (extremes["min"], extremes["max"]):
        if value is not None and not first <= value <= last:
            raise TypeRefused(
                f"{table.name}, column {column!r} holds {_format_moment(value, is_date)}, and the destination keeps"
                " the years 1 to 9999",
                mend=f"types: {{{quote_in_yaml(column)}: text}}",
                column=column,
            )


def _format_moment(value: int, is_date: bool) -> str:
    most = 2**31 - 1 if is_date else 2**63 - 1
    if abs(value) >= most:
        return "infinity" if value > 0 else "-infinity"
    year = to_civil(value if is_date else value // _DAY_US).year
    return f"a {'date' if is_date else 'timestamp'} of the year {year}" if year > 0 else f"the year {1 - year} BC"


def fit_schema(existing: pa.Schema, incoming: pa.Schema, table: Table) -> pa.Schema:
    """The incoming schema in the types that the table has: a wider type takes the values, new columns are added.

    Raises:
        TypeRefused: a column's type changed to one whose values the table's column may lose.
    """
    fields = []
    for field in incoming:
        index = existing.get_field_index(field.name)
        if index < 0:
            fields.append(field)
            continue
        there = existing.field(index).type
        if there != field.type and not can_take(there, field.type):
            raise TypeRefused(
                f"column {field.name!r} of {table.name} is {there} and the new rows bring {field.type},"
                " which would lose values",
                mend=f"load the table once with replace (dbt-bridge sync --full-refresh), or set types:"
                f" {{{field.name}: ...}}",
            )
        fields.append(pa.field(field.name, there))
    return pa.schema(fields)


def can_take(there: pa.DataType, new: pa.DataType) -> bool:
    """Whether a safe cast keeps each value or raises."""
    if is_.is_integer(there) or is_.is_decimal(there):
        return bool(is_.is_integer(new) or is_.is_decimal(new))
    return bool(is_.is_floating(there) and (is_.is_integer(new) or is_.is_floating(new)) and there != pa.float32())
