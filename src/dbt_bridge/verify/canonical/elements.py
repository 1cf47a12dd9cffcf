"""Arrow arrays of any side brought to their canonical form, in which equal values are equal.

    canonical   what is compared value by value, and told to people
    texts       PostgreSQL's text form of the values

The Arrow type for each kind stands in `dbt_bridge.contracts.canon`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon, agreed
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Column
from dbt_bridge.verify.canonical import (
    hash_numeric,
    json_text,
    postgres_text,
    uuid_text,
)

REAL = Canon("text")
"""In which the text form of 32 bit floats is their own: of the canon `float` it has the digits of 64 bits."""

_MOST64, _MOST32 = 2**63 - 1, 2**31 - 1
_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}
_DAY_US = 86_400_000_000
_PARTS = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])


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


def to_storage(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, without dictionary, runs or extension type."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # of no chunks, or of several that fit no single array
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif is_.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif is_.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


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
        whole, beyond = to_microseconds(array)
        return _each(array, lambda i: _moment_text(whole, beyond, i, zoned=False))
    elif canon.kind in ("uuid", "binary", "date") and _is_text(array.type):
        array = _CANONICAL[canon.kind](array, canon)
    return _as_text(array, canon.kind)


def to_microseconds(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Of times, timestamps, durations and dates: (microseconds, nanoseconds beyond them or None where all are 0).

    What does not fit 64 bits is the number next to infinity, which no other side can hold.
    """
    if is_.is_date(array.type):
        days = _fixed(pc.cast(array, pa.date32()), np.int32).astype(np.int64)
        whole = _multiplied(days, _DAY_US)
        whole[days >= _MOST32] = _MOST64
        whole[days <= -_MOST32] = -_MOST64
        return whole, None
    if is_.is_time32(array.type):
        return _fixed(array, np.int32).astype(np.int64) * _PER_UNIT[array.type.unit], None
    numbers = _fixed(array, np.int64)
    if array.type.unit == "us":
        return numbers, None
    if array.type.unit != "ns":
        return _multiplied(numbers, _PER_UNIT[array.type.unit]), None
    whole = numbers // 1000
    beyond = numbers - whole * 1000
    if array.null_count:
        beyond[np.asarray(array.is_null())] = 0
    return whole, beyond if beyond.any() else None


def split_intervals(
    array: pa.Array,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64] | None]:
    """(months, days, microseconds, nanoseconds beyond them or None where all are 0)."""
    if not is_.is_interval(array.type):
        whole, beyond = to_microseconds(array)
        none = np.zeros(len(array), np.int32)
        return none, none, whole, beyond
    parts = _fixed(array, _PARTS)
    whole = parts["nanoseconds"] // 1000
    beyond = parts["nanoseconds"] - whole * 1000
    if array.null_count:
        beyond[np.asarray(array.is_null())] = 0
    return parts["months"], parts["days"], whole, beyond if beyond.any() else None


def split_lists(array: pa.Array) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int64]]:
    """(the elements of these lists, where each list starts in them, its length); the length of NULL is 0."""
    if not len(array):
        return array.values[:0], np.zeros(0, np.int64), np.zeros(0, np.int64)
    if is_.is_fixed_size_list(array.type):
        size = array.type.list_size
        starts = (np.arange(len(array)) + array.offset) * size
        lengths = np.full(len(array), size)
    else:
        wide = is_.is_large_list(array.type)
        offsets = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)
        offsets = offsets[array.offset : array.offset + len(array) + 1].astype(np.int64)
        starts, lengths = offsets[:-1], np.diff(offsets)
    if array.null_count:
        lengths[np.asarray(array.is_null())] = 0
    first, behind = int(starts.min()), int((starts + lengths).max())
    return array.values.slice(first, behind - first), starts - first, lengths


def _fixed(array: pa.Array, type_: type | np.dtype[Any]) -> NDArray[Any]:
    if not len(array):
        return np.zeros(0, type_)
    return np.frombuffer(array.buffers()[1], type_)[array.offset : array.offset + len(array)]


def _multiplied(numbers: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    most = (_MOST64 - 1) // by
    out = numbers * by
    out[numbers > most] = _MOST64 - 1
    out[numbers < -most] = 1 - _MOST64
    return out


def _with_validity(values: NDArray[Any], type_: pa.DataType, of: pa.Array) -> pa.Array:
    """Values of a fixed width, NULL where `of` is."""
    mask = np.asarray(of.is_null()) if of.null_count else None
    return pa.array(values, mask=mask).view(type_)


def _each(array: pa.Array, spelled: Callable[[int], str]) -> pa.Array:
    valid = np.asarray(array.is_valid())
    return pa.array([spelled(i) if ok else None for i, ok in enumerate(valid)], pa.string())


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
    else:
        written = [None if v is None else f"{Decimal(v):f}" for v in array.to_pylist()]
    return pa.array([None if v is None else hash_numeric.spelled(v, canon.scale) for v in written], pa.string())


def _float(array: pa.Array, _: Canon) -> pa.Array:
    if is_.is_decimal(array.type):  # Arrow's own cast is not the nearest double
        array = pa.array([None if v is None else float(v) for v in array.to_pylist()], pa.float64())
    elif is_.is_integer(array.type) or is_.is_boolean(array.type):
        integers = _numbers(array)
        array = _with_validity(integers.astype(np.float64), pa.float64(), array)
    elif not is_.is_float64(array.type):
        array = pc.cast(array, pa.float64())
    values = _fixed(array, np.float64) + 0.0  # -0 becomes 0
    values[np.isnan(values)] = np.nan
    return _with_validity(values, pa.float64(), array)


def _numbers(array: pa.Array) -> NDArray[Any]:
    if is_.is_uint64(array.type):
        return _fixed(array, np.uint64)
    return _fixed(pc.cast(array, pa.int64()), np.int64)


def _text(array: pa.Array, canon: Canon) -> pa.Array:
    if not _is_text(array.type):
        array = _as_text(array, canon.kind)
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
    values = uuid_text.bytes_of(array.fill_null(uuid_text.ZERO) if array.null_count else array)
    if values is None:
        return pa.array([None if v is None else uuid_text.read(v) for v in array.to_pylist()], wanted)
    valid = pa.py_buffer(np.packbits(np.asarray(array.is_valid()), bitorder="little")) if array.null_count else None
    return pa.Array.from_buffers(wanted, len(array), [valid, pa.py_buffer(values)])


def _date(array: pa.Array, _: Canon) -> pa.Array:
    return pc.cast(array, pa.date32())


def _time(array: pa.Array, _: Canon) -> pa.Array:
    whole, beyond = to_microseconds(array)
    if beyond is not None:
        raise ValueError("a time with nanoseconds")
    return _with_validity(whole, pa.time64("us"), array)


def _timestamp(array: pa.Array, canon: Canon) -> pa.Array:
    whole, beyond = to_microseconds(array)
    if canon.fine:
        return _each(array, lambda i: _moment_text(whole, beyond, i, zoned=False))
    if beyond is not None:
        raise ValueError("a timestamp with nanoseconds")
    return _with_validity(whole, pa.timestamp("us"), array)


def _moment_text(whole: NDArray[np.int64], beyond: NDArray[np.int64] | None, i: int, *, zoned: bool) -> str:
    return postgres_text.timestamp(int(whole[i]), zoned, 0 if beyond is None else int(beyond[i]))


def _interval(array: pa.Array, _: Canon) -> pa.Array:
    months, days, whole, beyond = split_intervals(array)
    return _each(
        array,
        lambda i: postgres_text.interval(
            int(months[i]), int(days[i]), int(whole[i]) * 1000 + (0 if beyond is None else int(beyond[i]))
        ),
    )


def _json(array: pa.Array, _: Canon) -> pa.Array:
    if not _is_text(array.type):
        values = [None if v is None else json_text.of_value(v, array.type) for v in array.to_pylist()]
        return pa.array(values, pa.string())
    return pa.array([None if v is None else json_text.sorted_text(v) for v in array.to_pylist()], pa.string())


def _list(array: pa.Array, canon: Canon) -> pa.Array:
    """In PostgreSQL's text form of an array."""
    elements, starts, lengths = split_lists(array)
    written = to_text(elements, canon.of or Canon("text"))
    if canon.of is not None and canon.of.kind == "json":
        written = _json(written, canon.of)
    values = written.to_pylist()
    return _each(array, lambda i: postgres_text.array(values[starts[i] : starts[i] + lengths[i]]))


def _as_text(array: pa.Array, kind: str) -> pa.Array:
    """PostgreSQL's text form of values in their own type."""
    type_ = array.type
    if _is_text(type_):
        return array
    if is_.is_integer(type_) or is_.is_boolean(type_) or is_.is_null(type_):
        return pc.cast(array, pa.string())
    if is_.is_floating(type_):
        return _floats_as_text(array)
    if is_.is_decimal(type_):
        return _decimal(array, Canon("decimal", scale=type_.scale))
    if is_.is_date(type_):
        days = _fixed(pc.cast(array, pa.date32()), np.int32)
        return _each(array, lambda i: postgres_text.date(int(days[i])))
    if is_.is_interval(type_) or is_.is_duration(type_) or kind == "interval":
        return _interval(array, Canon("interval"))
    if is_.is_timestamp(type_):
        whole, beyond = to_microseconds(array)
        return _each(array, lambda i: _moment_text(whole, beyond, i, zoned=_is_zoned(type_)))
    if is_.is_time(type_):
        clock, fine = to_microseconds(array)
        return _each(array, lambda i: postgres_text.time(int(clock[i]), 0 if fine is None else int(fine[i])))
    values = array.to_pylist()
    if is_.is_fixed_size_binary(type_) and type_.byte_width == 16 and kind in ("uuid", "text"):
        return _each(array, lambda i: str(uuid.UUID(bytes=values[i])))
    if is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_):
        return _list(array, Canon("list", of=_own(array.type.value_type)))
    return _each(array, lambda i: "\\x" + values[i].hex())


def _own(type_: pa.DataType) -> Canon:
    column = Column("element", type_)
    return agreed(column, column)


def _floats_as_text(array: pa.Array) -> pa.Array:
    if not is_.is_float64(array.type):
        singles = _fixed(pc.cast(array, pa.float32()), np.float32)
        return _each(array, lambda i: _single(singles[i]))
    doubles = _fixed(array, np.float64)
    size = np.abs(doubles)
    otherwise = ~((size >= 1e-4) & (size < 1e9))  # there Arrow writes what PostgreSQL does, in a tenth of the time
    if array.null_count:
        otherwise &= np.asarray(array.is_valid())
    written = pc.cast(array, pa.string())
    if not otherwise.any():
        return written
    rest = pa.array([postgres_text.double(value) for value in doubles[otherwise].tolist()], pa.string())
    return pc.replace_with_mask(written, pa.array(otherwise), rest)


def _single(value: np.float32) -> str:
    return postgres_text.single(float(value), np.format_float_scientific(value, unique=True, trim="0"))


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
