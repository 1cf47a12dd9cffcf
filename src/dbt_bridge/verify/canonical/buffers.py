"""What lies in the buffers of Arrow arrays: plain arrays, values of a fixed width, moments, intervals and lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

INFINITY, INFINITE_DATE = 2**63 - 1, 2**31 - 1
"""Infinity as a number of microseconds and of days; minus infinity is the same below zero."""

_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}
_DAY_US = 86_400_000_000
_INTERVAL = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])


@dataclass(frozen=True, slots=True)
class Moments:
    """Times, timestamps, durations or dates as numbers.

    Attributes:
        microseconds: whole ones, rounded down.
        nanoseconds: beyond them, 0 to 999; None where all are 0.
    """

    microseconds: NDArray[np.int64]
    nanoseconds: NDArray[np.int64] | None = None

    def nanoseconds_at(self, row: int) -> int:
        return 0 if self.nanoseconds is None else int(self.nanoseconds[row])


@dataclass(frozen=True, slots=True)
class Intervals:
    months: NDArray[np.int32]
    days: NDArray[np.int32]
    time: Moments


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists as slices of one array; the length of NULL is 0."""

    elements: pa.Array
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def to_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of all chunks."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of no chunks, or of several that fit no single array
        return pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array


def to_storage(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, without dictionary, runs or extension type."""
    array = to_array(array)
    while True:
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif is_.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif is_.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


def view_fixed_width(array: pa.Array, type_: type | np.dtype[Any]) -> NDArray[Any]:
    """The values of a fixed width as they lie in memory; anything where NULL."""
    if not len(array):
        return np.zeros(0, type_)
    return np.frombuffer(array.buffers()[1], type_)[array.offset : array.offset + len(array)]


def offsets_of(array: pa.Array, *, wide: bool) -> NDArray[np.int64]:
    """Where each text, binary or list begins, and where the last one ends.

    Args:
        wide: of a large type, whose offsets have 64 bits.
    """
    offsets: NDArray[Any] = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)
    return offsets[array.offset : array.offset + len(array) + 1].astype(np.int64)


def to_microseconds(array: pa.Array) -> Moments:
    """Times, timestamps, durations and dates as numbers.

    What does not fit 64 bits is the number next to infinity, which no other side can hold.
    """
    if is_.is_date(array.type):
        days = view_fixed_width(pc.cast(array, pa.date32()), np.int32).astype(np.int64)
        whole = _multiply(days, _DAY_US)
        whole[days >= INFINITE_DATE] = INFINITY
        whole[days <= -INFINITE_DATE] = -INFINITY
        return Moments(whole)
    if is_.is_time32(array.type):
        return Moments(view_fixed_width(array, np.int32).astype(np.int64) * _PER_UNIT[array.type.unit])
    numbers = view_fixed_width(array, np.int64)
    if array.type.unit == "us":
        return Moments(numbers)
    if array.type.unit != "ns":
        return Moments(_multiply(numbers, _PER_UNIT[array.type.unit]))
    return _split_nanoseconds(array, numbers)


def split_intervals(array: pa.Array) -> Intervals:
    if not is_.is_interval(array.type):
        none = np.zeros(len(array), np.int32)
        return Intervals(none, none, to_microseconds(array))
    parts = view_fixed_width(array, _INTERVAL)
    return Intervals(parts["months"], parts["days"], _split_nanoseconds(array, parts["nanoseconds"]))


def split_lists(array: pa.Array) -> Lists:
    if not len(array):
        return Lists(array.values[:0], np.zeros(0, np.int64), np.zeros(0, np.int64))
    if is_.is_fixed_size_list(array.type):
        size = array.type.list_size
        starts = (np.arange(len(array)) + array.offset) * size
        lengths = np.full(len(array), size)
    else:
        offsets = offsets_of(array, wide=is_.is_large_list(array.type))
        starts, lengths = offsets[:-1], np.diff(offsets)
    if array.null_count:
        lengths[np.asarray(array.is_null())] = 0
    first, behind = int(starts.min()), int((starts + lengths).max())
    return Lists(array.values.slice(first, behind - first), starts - first, lengths)


def _split_nanoseconds(array: pa.Array, nanoseconds: NDArray[np.int64]) -> Moments:
    whole = nanoseconds // 1000
    beyond = nanoseconds - whole * 1000
    if array.null_count:
        beyond[np.asarray(array.is_null())] = 0
    return Moments(whole, beyond if beyond.any() else None)


def _multiply(numbers: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    most = (INFINITY - 1) // by
    out = numbers * by
    out[numbers > most] = INFINITY - 1
    out[numbers < -most] = 1 - INFINITY
    return out
