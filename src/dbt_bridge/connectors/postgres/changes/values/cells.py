"""The bytes of one column's cells: gathered into one Arrow array, or read as numbers. No Python code runs per value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.vectors import pack_bits
from dbt_bridge.errors import OriginError

_SHOWN = 80
_INT32 = 2**31 - 1


class Unfit(ValueError):
    """A value cannot be kept exactly in the wanted type. The message is its text, cut to 80 characters, and why."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one column, all in the same form (text or binary).

    Attributes:
        buffer: uint8, in which they lie.
        start, length: int64[n]: in bytes; `length` is 0 where there is no value.
        valid: bool[n]: where there is one; None for everywhere.
    """

    buffer: np.ndarray
    start: np.ndarray
    length: np.ndarray
    valid: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.start)

    def where(self, chosen: np.ndarray) -> Values:
        """The same positions, with a value only where `chosen` is True and there was one."""
        valid = chosen if self.valid is None else chosen & self.valid
        return Values(self.buffer, self.start, np.where(valid, self.length, 0), valid)

    def take(self, rows: np.ndarray) -> Values:
        """The values of these rows, which must all have one."""
        return Values(self.buffer, self.start[rows], self.length[rows])

    def strip(self, skipped: int, end: int = 0) -> Values:
        """The values without this many bytes at the beginning and at the end; each must have as many."""
        start, length = self.start + skipped, self.length - (skipped + end)
        if self.valid is not None:
            start, length = np.where(self.valid, start, self.start), np.where(self.valid, length, 0)
        return Values(self.buffer, start, length, self.valid)

    def where_valid(self, condition: np.ndarray) -> np.ndarray:
        """Where the condition holds and there is a value."""
        return condition if self.valid is None else condition & self.valid

    def equal(self, text: bytes) -> np.ndarray:
        """Which values are exactly this text."""
        found: np.ndarray = (self.length == len(text)) & (load_numbers(self, f"S{len(text)}") == text)
        return found

    def bytes(self, row: int) -> bytes:
        start = int(self.start[row])
        return bytes(self.buffer[start : start + int(self.length[row])])

    def format_value(self, row: int) -> str:
        """For a message."""
        value = self.bytes(row)[: 4 * _SHOWN]
        return repr(value.decode("utf-8", "backslashreplace")[:_SHOWN])

    def refuse_where(self, wrong: np.ndarray, why: str = "") -> None:
        """Raise Unfit for the first value for which `wrong` is True."""
        wrong = self.where_valid(wrong)
        if wrong.any():
            raise Unfit(self.format_value(int(wrong.argmax())) + (f" ({why})" if why else ""))

    def require_width(self, width: int) -> None:
        """Raise Unfit for a value that does not have so many bytes."""
        self.refuse_where(self.length != width, f"not of {width} bytes")


def check_bounds(values: Values) -> Values:
    """The same values, all of which lie inside of the buffer.

    Raises:
        OriginError: one does not.
    """
    end = len(values.buffer)
    if len(values) and not (
        values.start.min() >= 0
        and values.length.min() >= 0
        and max(values.start.max(), values.length.max()) <= end  # so that their sum does not wrap around
        and (values.start + values.length).max() <= end
    ):
        raise OriginError(
            "the origin sent a message whose values end outside of it",
            mend="run the same command again; if it fails again, report it with the origin's version",
        )
    return values


def gather(values: Values, type_: pa.DataType) -> pa.Array:
    """One string or binary array of the values. That they are UTF-8 is not checked: `gather_texts` does.

    `take` copies every second element of an array that borrows the buffer: value, gap, value, gap...

    Raises:
        OriginError: they are more than 2 GiB together, which no Arrow string array holds.
    """
    n = len(values)
    if n == 0:
        return pa.array([], type_)
    if values.length.sum() > _INT32:
        raise OriginError(
            f"{n} values of one column are more than 2 GiB together", mend="make the batches of this source smaller"
        )
    order = None
    end = values.start + values.length
    if (values.start[1:] < end[:-1]).any():
        order = np.argsort(values.start, kind="stable")
    wide = len(values.buffer) > _INT32
    offsets = np.empty(2 * n, np.int64 if wide else np.int32)
    offsets[0::2] = values.start if order is None else values.start[order]
    offsets[1::2] = end if order is None else end[order]
    pieces = pa.Array.from_buffers(
        pa.large_binary() if wide else pa.binary(),
        2 * n - 1,
        [None, pa.py_buffer(offsets), pa.py_buffer(values.buffer)],
    )
    places = np.arange(0, 2 * n - 1, 2, dtype=np.int64)
    if order is not None:
        places[order] = places.copy()
    taken = pieces.take(make_primitive(pa.int64(), places, None))  # pa.array would import pandas
    if wide:
        taken = taken.cast(pa.binary())
    parts = taken.buffers()
    return pa.Array.from_buffers(type_, n, [make_bitmap(values.valid), parts[1], parts[2]])


def gather_texts(values: Values) -> pa.Array:
    """One string array of the values.

    Raises:
        Unfit: one is not UTF-8.
    """
    array = gather(values, pa.string())
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        refuse_first(array, lambda part: part.validate(full=True), values.format_value)
    return array


def cast_texts(values: Values, decode: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """The texts through a decoding that raises pa.ArrowInvalid or ValueError.

    Raises:
        Unfit: one does not fit.
    """
    return apply_decode(gather(values, pa.string()), decode, values.format_value)


def apply_decode(
    array: pa.Array, decode: Callable[[pa.Array], pa.Array], format_value: Callable[[int], str] | None = None
) -> pa.Array:
    """The decoded array. Raises Unfit for the first value that does not fit."""
    try:
        return decode(array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        refuse_first(array, decode, format_value or (lambda row: repr(str(array[row].as_py())[:_SHOWN])))
        raise Unfit(str(error)[:_SHOWN]) from error


def refuse_first(array: pa.Array, decode: Callable[[pa.Array], object], format_value: Callable[[int], str]) -> None:
    """Raise Unfit for the first value that `decode` refuses, found by halving."""
    first, last = 0, len(array)
    while last - first > 1:
        middle = (first + last) // 2
        try:
            decode(array.slice(first, middle - first))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
            last = middle
        else:
            first = middle
    raise Unfit(format_value(first))


def load_numbers(values: Values, dtype: str, skipped: int = 0) -> np.ndarray:
    """The first bytes of each value (after `skipped` bytes), read as `dtype`, in the machine's byte order.

    Rows without a value, or with a shorter one, give the bytes that follow; zeros after the end of the buffer.
    """
    type_ = np.dtype(dtype)
    at = values.start + skipped if skipped else values.start
    last = len(values.buffer) - type_.itemsize
    if last < 0:
        return _load_near_end(values.buffer, at, type_)
    view: np.ndarray = np.ndarray((last + 1,), type_, values.buffer.data, strides=(1,))
    if len(at) and at.max() > last:
        found = view[np.minimum(at, last)]
        beyond = np.flatnonzero(at > last)
        found[beyond] = _load_near_end(values.buffer[last:], at[beyond] - last, type_)
    else:
        found = view[at]
    native: np.ndarray = found if type_.kind in "VS" else found.astype(type_.newbyteorder("="), copy=False)
    return native


def _load_near_end(buffer: np.ndarray, at: np.ndarray, type_: np.dtype) -> np.ndarray:
    """The same near the end of the buffer."""
    longer = np.concatenate([buffer, np.zeros(2 * type_.itemsize, np.uint8)])
    view: np.ndarray = np.ndarray((len(longer) - type_.itemsize + 1,), type_, longer.data, strides=(1,))
    found: np.ndarray = view[np.minimum(at, len(view) - 1)]
    return found


def make_bitmap(valid: np.ndarray | None) -> pa.Buffer | None:
    return None if valid is None else pack_bits(valid)


def make_primitive(type_: pa.DataType, data: np.ndarray, valid: np.ndarray | None) -> pa.Array:
    """An array of a type of fixed width, over the numbers as they are."""
    return pa.Array.from_buffers(type_, len(data), [make_bitmap(valid), pa.py_buffer(np.ascontiguousarray(data))])


def to_numpy(array: pa.Array) -> np.ndarray:
    """The numbers of an array of integers or booleans; arbitrary ones where it is NULL. Arrow's own imports pandas."""
    if pa.types.is_boolean(array.type):
        return to_numpy(pc.cast(array, pa.uint8())).astype(bool)
    kind = "u" if pa.types.is_unsigned_integer(array.type) else "i"
    found: np.ndarray = np.frombuffer(array.buffers()[1], f"{kind}{array.type.bit_width // 8}")
    return found[array.offset : array.offset + len(array)]


def make_booleans(data: np.ndarray, valid: np.ndarray | None) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(data), [make_bitmap(valid), make_bitmap(data)])


def wrap_extension(storage: pa.Array, wanted: pa.DataType) -> pa.Array:
    """The array as `wanted`, where that is an extension type over this storage."""
    if isinstance(wanted, pa.BaseExtensionType) and storage.type != wanted:
        return pa.ExtensionArray.from_storage(wanted, storage)
    return storage


def combine(first: pa.Array, second: pa.Array, rows: np.ndarray, missing: np.ndarray) -> pa.Array:
    """An array whose row i is entry `rows[i]` of the two arrays joined; NULL where `missing`."""
    both = pa.concat_arrays([first, second])
    return pc.take(both, make_primitive(pa.int64(), rows, ~missing))
