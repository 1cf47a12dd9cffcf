"""Arrow arrays of any side brought to their canonical form, in which equal values are equal.

    to_canonical   what is compared value by value, and shown to people
    to_text        PostgreSQL's text form of the values

The Arrow type for each kind stands in `dbt_bridge.contracts.canon`.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon, choose_canon
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Column
from dbt_bridge.verify.canonical import json_text, postgres_text
from dbt_bridge.verify.canonical.buffers import (
    Moments,
    split_intervals,
    split_lists,
    to_microseconds,
    to_storage,
    view_fixed_width,
)
from dbt_bridge.verify.canonical.hash_numeric import format_number

_ALL_WHOLE = 2.0**53
"""From here on a double has no digits after the point."""

REAL = Canon("text")
"""The canon in which 32 bit floats have their own text form: in the canon `float` they have the digits of 64 bits."""


def to_canonical(array: pa.Array | pa.ChunkedArray, canon: Canon) -> pa.Array:
    """The values in canonical form; NULL stays NULL.

    NaN is a value here: two of them are the same (`IS NOT DISTINCT FROM` in DuckDB; Arrow's `equal` says otherwise).

    Raises:
        TypeRefused: the type, or a value, has no form in the canon.
    """
    array = to_storage(array)
    try:
        return _CANONICAL[canon.kind](array, canon)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, OverflowError, KeyError) as error:
        raise TypeRefused(
            f"a value of the type {array.type} cannot be compared as {canon.kind}: {error}",
            mend="compare the column through an expression, or leave it out",
        ) from error


def to_text(array: pa.Array, canon: Canon) -> pa.Array:
    """PostgreSQL's text form of the elements of a list, in the canon that both sides' elements share."""
    array = to_storage(array)
    if canon.kind in ("text", "json") and _is_text(array.type):
        return _text(array, canon)
    if canon.kind == "decimal":
        return _decimal(array, canon)
    if canon.kind == "int":
        return pc.cast(pc.cast(array, pa.int64()), pa.string())
    if canon.kind == "float" and is_.is_floating(array.type):
        array = pc.cast(array, pa.float64())  # -0 stays: PostgreSQL writes it in an array
    elif canon.kind == "float":
        array = _float(array, canon)
    elif canon.kind == "timestamp" and not _is_text(array.type):
        return _format_timestamps(array, zoned=False)
    elif canon.kind in ("uuid", "binary", "date") and _is_text(array.type):
        array = _CANONICAL[canon.kind](array, canon)
    return _as_postgres_text(array, canon.kind)


def _with_validity(values: NDArray[Any], type_: pa.DataType, of: pa.Array) -> pa.Array:
    """Values of a fixed width, NULL where `of` is."""
    mask = np.asarray(of.is_null()) if of.null_count else None
    return pa.array(values, mask=mask).view(type_)


def _format_each(array: pa.Array, format_row: Callable[[int], str]) -> pa.Array:
    """A text for each row that is not NULL."""
    valid = np.asarray(array.is_valid())
    return pa.array([format_row(row) if ok else None for row, ok in enumerate(valid)], pa.string())


def _is_text(type_: pa.DataType) -> bool:
    return bool(is_.is_string(type_) or is_.is_large_string(type_) or is_.is_string_view(type_))


def _is_zoned(type_: pa.DataType) -> bool:
    return is_.is_timestamp(type_) and type_.tz is not None


def _int(array: pa.Array, _: Canon) -> pa.Array:
    return pc.cast(array, pa.int64(), safe=True)


def _decimal(array: pa.Array, canon: Canon) -> pa.Array:
    if is_.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    if _is_text(array.type):
        written = array.to_pylist()
    elif is_.is_floating(array.type):
        written = [None if v is None else _write_double(v) for v in pc.cast(array, pa.float64()).to_pylist()]
    else:
        written = [None if v is None else f"{Decimal(v):f}" for v in array.to_pylist()]
    return pa.array([None if v is None else format_number(v, canon.scale) for v in written], pa.string())


def _write_double(value: float) -> str:
    """A double as a number: the fewest digits that read back as it; of one that can only be whole, every digit."""
    return str(int(value)) if _ALL_WHOLE <= abs(value) < math.inf else repr(value)


def _float(array: pa.Array, _: Canon) -> pa.Array:
    if is_.is_decimal(array.type):  # Arrow's own cast is not the nearest double
        array = pa.array([None if v is None else float(v) for v in array.to_pylist()], pa.float64())
    elif is_.is_integer(array.type) or is_.is_boolean(array.type):
        integers = _integers(array)
        array = _with_validity(integers.astype(np.float64), pa.float64(), array)
    elif not is_.is_float64(array.type):
        array = pc.cast(array, pa.float64())
    values = view_fixed_width(array, np.float64) + 0.0  # -0 becomes 0
    values[np.isnan(values)] = np.nan
    return _with_validity(values, pa.float64(), array)


def _integers(array: pa.Array) -> NDArray[Any]:
    if is_.is_uint64(array.type):
        return view_fixed_width(array, np.uint64)
    return view_fixed_width(pc.cast(array, pa.int64()), np.int64)


def _text(array: pa.Array, canon: Canon) -> pa.Array:
    if not _is_text(array.type):
        array = _as_postgres_text(array, canon.kind)
    if not is_.is_string(array.type):
        array = pc.cast(array, pa.string())
    if canon.form == "char":
        return pc.utf8_rtrim(array, characters=" ")
    if canon.form == "uuid":
        lowered = pc.utf8_lower(array)
        reads = pc.match_substring_regex(lowered, r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        return pc.if_else(reads, lowered, array)
    return array


def _binary(array: pa.Array, _: Canon) -> pa.Array:
    if is_.is_large_string(array.type) or is_.is_string_view(array.type):
        array = pc.cast(array, pa.string())
    return pc.cast(array, pa.binary())


def _uuid(array: pa.Array, _: Canon) -> pa.Array:
    wanted = pa.binary(16)
    if is_.is_fixed_size_binary(array.type):
        return array
    if not _is_text(array.type):
        return pc.cast(array, wanted)
    array = pc.cast(array, pa.string())
    values = postgres_text.parse_uuids(array.fill_null(postgres_text.ZERO_UUID) if array.null_count else array)
    if values is None:
        return pa.array([None if v is None else postgres_text.parse_uuid(v) for v in array.to_pylist()], wanted)
    valid = pa.py_buffer(np.packbits(np.asarray(array.is_valid()), bitorder="little")) if array.null_count else None
    return pa.Array.from_buffers(wanted, len(array), [valid, pa.py_buffer(values)])


def _date(array: pa.Array, _: Canon) -> pa.Array:
    return pc.cast(array, pa.date32())


def _time(array: pa.Array, _: Canon) -> pa.Array:
    return _whole_microseconds(array, pa.time64("us"), "a time with nanoseconds")


def _timestamp(array: pa.Array, canon: Canon) -> pa.Array:
    if canon.fine:
        return _format_timestamps(array, zoned=False)
    return _whole_microseconds(array, pa.timestamp("us"), "a timestamp with nanoseconds")


def _whole_microseconds(array: pa.Array, type_: pa.DataType, otherwise: str) -> pa.Array:
    moments = to_microseconds(array)
    if moments.nanoseconds is not None:
        raise ValueError(otherwise)
    return _with_validity(moments.microseconds, type_, array)


def _format_timestamps(array: pa.Array, *, zoned: bool) -> pa.Array:
    moments = to_microseconds(array)

    def format_row(row: int) -> str:
        return postgres_text.format_timestamp(int(moments.microseconds[row]), zoned, moments.nanoseconds_at(row))

    return _format_each(array, format_row)


def _interval(array: pa.Array, _: Canon) -> pa.Array:
    parts = split_intervals(array)

    def format_row(row: int) -> str:
        nanoseconds = int(parts.time.microseconds[row]) * 1000 + parts.time.nanoseconds_at(row)
        return postgres_text.format_interval(int(parts.months[row]), int(parts.days[row]), nanoseconds)

    return _format_each(array, format_row)


def _json(array: pa.Array, _: Canon) -> pa.Array:
    if not _is_text(array.type):
        values = [None if v is None else json_text.format_nested(v, array.type) for v in array.to_pylist()]
        return pa.array(values, pa.string())
    return pa.array([None if v is None else json_text.sort_json(v) for v in array.to_pylist()], pa.string())


def _list(array: pa.Array, canon: Canon) -> pa.Array:
    """In PostgreSQL's text form of an array."""
    lists = split_lists(array)
    written = to_text(lists.elements, canon.of or Canon("text"))
    if canon.of is not None and canon.of.kind == "json":
        written = _json(written, canon.of)
    values = written.to_pylist()

    def format_row(row: int) -> str:
        start = lists.starts[row]
        return postgres_text.format_array(values[start : start + lists.lengths[row]])

    return _format_each(array, format_row)


def _as_postgres_text(array: pa.Array, kind: str) -> pa.Array:
    """PostgreSQL's text form of values in their own type."""
    type_ = array.type
    if _is_text(type_):
        return array
    if is_.is_integer(type_) or is_.is_boolean(type_) or is_.is_null(type_):
        return pc.cast(array, pa.string())
    if is_.is_floating(type_):
        return _format_floats(array)
    if is_.is_decimal(type_):
        return _decimal(array, Canon("decimal", scale=type_.scale))
    if is_.is_date(type_):
        days = view_fixed_width(pc.cast(array, pa.date32()), np.int32)
        return _format_each(array, lambda row: postgres_text.format_date(int(days[row])))
    if is_.is_interval(type_) or is_.is_duration(type_) or kind == "interval":
        return _interval(array, Canon("interval"))
    if is_.is_timestamp(type_):
        return _format_timestamps(array, zoned=_is_zoned(type_))
    if is_.is_time(type_):
        return _format_times(to_microseconds(array), array)
    values = array.to_pylist()
    if is_.is_fixed_size_binary(type_) and type_.byte_width == 16 and kind in ("uuid", "text"):
        return _format_each(array, lambda row: str(uuid.UUID(bytes=values[row])))
    if is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_):
        return _list(array, Canon("list", of=_own_canon(array.type.value_type)))
    return _format_each(array, lambda row: "\\x" + values[row].hex())


def _format_times(times: Moments, array: pa.Array) -> pa.Array:
    return _format_each(
        array, lambda row: postgres_text.format_time(int(times.microseconds[row]), times.nanoseconds_at(row))
    )


def _own_canon(type_: pa.DataType) -> Canon:
    column = Column("element", type_)
    return choose_canon(column, column)


def _format_floats(array: pa.Array) -> pa.Array:
    if not is_.is_float64(array.type):
        singles = view_fixed_width(pc.cast(array, pa.float32()), np.float32)
        return _format_each(array, lambda row: _format_single(singles[row]))
    doubles = view_fixed_width(array, np.float64)
    size = np.abs(doubles)
    otherwise = ~((size >= 1e-4) & (size < 1e9))  # there Arrow writes what PostgreSQL does, in a tenth of the time
    if array.null_count:
        otherwise &= np.asarray(array.is_valid())
    written = pc.cast(array, pa.string())
    if not otherwise.any():
        return written
    rest = pa.array([postgres_text.format_double(value) for value in doubles[otherwise].tolist()], pa.string())
    return pc.replace_with_mask(written, pa.array(otherwise), rest)


def _format_single(value: np.float32) -> str:
    return postgres_text.format_single(float(value), np.format_float_scientific(value, unique=True, trim="0"))


_CANONICAL: dict[str, Callable[[pa.Array, Canon], pa.Array]] = {
    "int": _int,
    "decimal": _decimal,
    "float": _float,
    "text": _text,
    "binary": _binary,
    "uuid": _uuid,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "interval": _interval,
    "json": _json,
    "list": _list,
}
