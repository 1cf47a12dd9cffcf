"""How Arrow types land in DuckDB, and how a column of an existing table takes a type that changed.

DuckDB reads most Arrow types exactly. Those that it lacks or would round travel in a wider form (`map_type`), and
those without an exact form are refused. Unlike the database's own implicit casts, nothing here loses a digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import Column

MAX_PRECISION = 38

_EXACT: tuple[Callable[[pa.DataType], bool], ...] = (
    is_.is_boolean,
    is_.is_integer,
    is_.is_float32,
    is_.is_float64,
    is_.is_string,
    is_.is_large_string,
    is_.is_string_view,
    is_.is_binary,
    is_.is_large_binary,
    is_.is_binary_view,
    is_.is_fixed_size_binary,
    is_.is_date,
    is_.is_time,
    is_.is_interval,
    is_.is_null,
)


def map_column(column: Column) -> Column:
    """The column as it must travel to land in DuckDB exactly.

    Raises:
        TypeRefused: DuckDB has no exact form (unions, structs without fields, unknown extension types).
    """
    try:
        return Column(column.name, map_type(column.type), column.origin_type, column.nullable)
    except _NoForm as none:
        raise TypeRefused(
            f"column {column.name!r} has the type {column.origin_type or column.type}, for which DuckDB has no exact"
            f" form ({none})",
            mend=f"types: {{{quote_in_yaml(column.name)}: text}}",
        ) from None


class _NoForm(Exception):
    """This part of a type has no exact form in DuckDB."""


def map_type(type_: pa.DataType) -> pa.DataType:
    """The Arrow type that carries every value of this one into DuckDB.

    Seconds and milliseconds become microseconds, DuckDB's own TIMESTAMP; a zoned timestamp in nanoseconds does too,
    and the caller's safe cast refuses values with a rest. Half floats become floats, durations microseconds
    (INTERVAL), decimals beyond 38 digits text.
    """
    if isinstance(type_, pa.BaseExtensionType):
        if type_.extension_name in ("arrow.uuid", "arrow.json", "arrow.bool8"):
            return type_
        raise _NoForm(f"extension type {type_.extension_name}")
    if is_.is_decimal(type_):
        if type_.precision > MAX_PRECISION or not 0 <= type_.scale <= type_.precision:
            return pa.string()
        return pa.decimal128(type_.precision, type_.scale)
    if is_.is_timestamp(type_):
        return type_ if type_.unit == "ns" and type_.tz is None else pa.timestamp("us", type_.tz)
    if is_.is_time32(type_):
        return pa.time64("us")
    if is_.is_float16(type_):
        return pa.float32()
    if is_.is_duration(type_):
        return pa.duration("us")
    if any(exact(type_) for exact in _EXACT):
        return type_
    return _map_nested(type_)


def _map_nested(type_: pa.DataType) -> pa.DataType:
    if is_.is_dictionary(type_):
        value = map_type(type_.value_type)
        return type_ if value == type_.value_type else value
    if is_.is_run_end_encoded(type_):
        return map_type(type_.value_type)
    if is_.is_fixed_size_list(type_):
        return pa.list_(_map_field(type_.value_field), type_.list_size)
    if is_.is_large_list(type_):
        return pa.large_list(_map_field(type_.value_field))
    if is_.is_list(type_) or is_.is_list_view(type_) or is_.is_large_list_view(type_):
        return pa.list_(_map_field(type_.value_field))
    if is_.is_map(type_):
        return pa.map_(_map_field(type_.key_field), _map_field(type_.item_field))
    if is_.is_struct(type_):
        if type_.num_fields == 0:
            raise _NoForm("a struct without fields")
        return pa.struct([_map_field(type_.field(i)) for i in range(type_.num_fields)])
    raise _NoForm(str(type_))


def _map_field(field: pa.Field) -> pa.Field:
    # A NULL type inside a list or struct has no DuckDB column type; its only value, NULL, is also a string's.
    type_ = pa.string() if is_.is_null(field.type) else map_type(field.type)
    return field.with_type(type_)


# Evolution: SQL types as DuckDB's catalog spells them.

_INTEGER_BITS = {
    "TINYINT": (True, 8), "SMALLINT": (True, 16), "INTEGER": (True, 32), "BIGINT": (True, 64), "HUGEINT": (True, 128),
    "UTINYINT": (False, 8), "USMALLINT": (False, 16), "UINTEGER": (False, 32), "UBIGINT": (False, 64),
}  # fmt: skip
_INTEGER_DIGITS = {
    "TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19, "HUGEINT": 39,
    "UTINYINT": 3, "USMALLINT": 5, "UINTEGER": 10, "UBIGINT": 20,
}  # fmt: skip
TIMESTAMPS = ("DATE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP", "TIMESTAMP_NS")
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


def wider(existing: str, incoming: str) -> str | None:
    """The SQL type that can hold the values of both, or None where the two are of different kinds.

    Whether each value really survives (a BIGINT in a DOUBLE, a far date in TIMESTAMP_NS) is checked on the values
    by the caller. Text never swallows another type: a column that silently turns into text breaks the models on it.
    """
    if existing == incoming:
        return existing
    if existing.endswith("[]") and incoming.endswith("[]"):
        element = wider(existing[:-2], incoming[:-2])
        return f"{element}[]" if element else None
    if {existing, incoming} == {"VARCHAR", "JSON"} and existing == "VARCHAR":
        return "VARCHAR"
    if existing in TIMESTAMPS and incoming in TIMESTAMPS:
        return max(existing, incoming, "TIMESTAMP_S", key=TIMESTAMPS.index)
    return _wider_number(existing, incoming)


def _wider_number(existing: str, incoming: str) -> str | None:
    floats = {"FLOAT", "DOUBLE"}
    if kind(existing) is None or kind(incoming) is None:
        return None
    if existing in floats or incoming in floats:
        return "DOUBLE"
    if existing in _INTEGER_BITS and incoming in _INTEGER_BITS:
        return _wider_integer(existing, incoming)
    (whole_a, scale_a), (whole_b, scale_b) = _digits(existing), _digits(incoming)
    whole, scale = max(whole_a, whole_b), max(scale_a, scale_b)
    return f"DECIMAL({whole + scale},{scale})" if whole + scale <= MAX_PRECISION else None


def kind(type_: str) -> str | None:
    """Of a number's type: float, integer or decimal; None for others."""
    if type_ in ("FLOAT", "DOUBLE"):
        return "float"
    if type_ in _INTEGER_BITS:
        return "integer"
    return "decimal" if _DECIMAL.fullmatch(type_) else None


def _wider_integer(a: str, b: str) -> str:
    (signed_a, bits_a), (signed_b, bits_b) = _INTEGER_BITS[a], _INTEGER_BITS[b]
    if signed_a == signed_b:
        return a if bits_a >= bits_b else b
    unsigned, signed = (bits_b, bits_a) if signed_a else (bits_a, bits_b)
    needed = max(signed, unsigned * 2)
    return next(name for name, (is_signed, bits) in _INTEGER_BITS.items() if is_signed and bits >= needed)


def _digits(type_: str) -> tuple[int, int]:
    """Digits before and after the point."""
    decimal = _DECIMAL.fullmatch(type_)
    if decimal:
        precision, scale = int(decimal[1]), int(decimal[2])
        return precision - scale, scale
    return _INTEGER_DIGITS[type_], 0
