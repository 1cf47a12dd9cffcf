"""Cells of one column as bytes in a buffer: gathered into one Arrow array, or read as numbers. No Python per value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
        """The same positions, with a value only where `chosen` is True (and there was one)."""
        valid = chosen if self.valid is None else chosen & self.valid
        return Values(self.buffer, self.start, np.where(valid, self.length, 0), valid)

    def take(self, rows: np.ndarray) -> Values:
        """Those rows; all of them must have a value."""
        return Values(self.buffer, self.start[rows], self.length[rows])

    def inner(self, skipped: int, end: int = 0) -> Values:
        """The values without so many bytes at the beginning and at the end; each must have as many."""
        start, length = self.start + skipped, self.length - (skipped + end)
        if self.valid is not None:
            start, length = np.where(self.valid, start, self.start), np.where(self.valid, length, 0)
        return Values(self.buffer, start, length, self.valid)

    def among(self, condition: np.ndarray) -> np.ndarray:
        """Where the condition holds and there is a value."""
        return condition if self.valid is None else condition & self.valid

    def are(self, text: bytes) -> np.ndarray:
        """Which of them are exactly this text."""
        found: np.ndarray = (self.length == len(text)) & (loaded(self, f"S{len(text)}") == text)
        return found

    def bytes(self, row: int) -> bytes:
        start = int(self.start[row])
        return bytes(self.buffer[start : start + int(self.length[row])])

    def shown(self, row: int) -> str:
        """For a message."""
        value = self.bytes(row)[: 4 * _SHOWN]
        return repr(value.decode("utf-8", "backslashreplace")[:_SHOWN])

    def refuse(self, wrong: np.ndarray, why: str = "") -> None:
        """Raise Unfit for the first value for which `wrong` is True."""
        wrong = self.among(wrong)
        if wrong.any():
            raise Unfit(self.shown(int(wrong.argmax())) + (f" ({why})" if why else ""))

    def need(self, width: int) -> None:
        """Raise Unfit for a value that does not have so many bytes."""
        self.refuse(self.length != width, f"not of {width} bytes")


def inside(values: Values) -> Values:
    """The values, once it is certain that they lie inside of the buffer.

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


def gathered(values: Values, type_: pa.DataType) -> pa.Array:
    """One string or binary array of the values. The bytes are not looked at: see `validated`.

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
    taken = pieces.take(primitive(pa.int64(), places, None))  # pa.array would import pandas
    if wide:
        taken = taken.cast(pa.binary())
    parts = taken.buffers()
    return pa.Array.from_buffers(type_, n, [bitmap(values.valid), parts[1], parts[2]])


def validated(values: Values) -> pa.Array:
    """One string array of the values.

    Raises:
        Unfit: one is not UTF-8.
    """
    array = gathered(values, pa.string())
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        refuse_first(array, lambda part: part.validate(full=True), values.shown)
    return array


def cast(values: Values, decode: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """The texts through a decoding that raises pa.ArrowInvalid or ValueError.

    Raises:
        Unfit: one does not fit.
    """
    return fitted(gathered(values, pa.string()), decode, values.shown)


def fitted(
    array: pa.Array, decode: Callable[[pa.Array], pa.Array], shown: Callable[[int], str] | None = None
) -> pa.Array:
    """The decoded array. Raises Unfit for the first value that does not fit."""
    try:
        return decode(array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        refuse_first(array, decode, shown or (lambda row: repr(str(array[row].as_py())[:_SHOWN])))
        raise Unfit(str(error)[:_SHOWN]) from error


def refuse_first(array: pa.Array, decode: Callable[[pa.Array], object], shown: Callable[[int], str]) -> None:
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
    raise Unfit(shown(first))


def loaded(values: Values, dtype: str, skipped: int = 0) -> np.ndarray:
    """What stands at the beginning of each value (after `skipped` bytes), as `dtype`, in the machine's byte order.

    Rows without a value, or with a shorter one, give whatever stands there; zeros after the end of the buffer.
    """
    type_ = np.dtype(dtype)
    at = values.start + skipped if skipped else values.start
    last = len(values.buffer) - type_.itemsize
    if last < 0:
        return _padded(values.buffer, at, type_)
    view: np.ndarray = np.ndarray((last + 1,), type_, values.buffer.data, strides=(1,))
    if len(at) and at.max() > last:
        found = view[np.minimum(at, last)]
        beyond = np.flatnonzero(at > last)
        found[beyond] = _padded(values.buffer[last:], at[beyond] - last, type_)
    else:
        found = view[at]
    native: np.ndarray = found if type_.kind in "VS" else found.astype(type_.newbyteorder("="), copy=False)
    return native


def _padded(buffer: np.ndarray, at: np.ndarray, type_: np.dtype) -> np.ndarray:
    """The same near the end of the buffer."""
    longer = np.concatenate([buffer, np.zeros(2 * type_.itemsize, np.uint8)])
    view: np.ndarray = np.ndarray((len(longer) - type_.itemsize + 1,), type_, longer.data, strides=(1,))
    found: np.ndarray = view[np.minimum(at, len(view) - 1)]
    return found


def bitmap(valid: np.ndarray | None) -> pa.Buffer | None:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))


def primitive(type_: pa.DataType, data: np.ndarray, valid: np.ndarray | None) -> pa.Array:
    """An array of a type of fixed width, over the numbers as they are."""
    return pa.Array.from_buffers(type_, len(data), [bitmap(valid), pa.py_buffer(np.ascontiguousarray(data))])


def numbers(array: pa.Array) -> np.ndarray:
    """The numbers of an array of integers or booleans, whatever stands where it is NULL; `to_numpy` imports pandas."""
    if pa.types.is_boolean(array.type):
        return numbers(pc.cast(array, pa.uint8())).astype(bool)
    kind = "u" if pa.types.is_unsigned_integer(array.type) else "i"
    found: np.ndarray = np.frombuffer(array.buffers()[1], f"{kind}{array.type.bit_width // 8}")
    return found[array.offset : array.offset + len(array)]


def booleans(data: np.ndarray, valid: np.ndarray | None) -> pa.Array:
    return pa.Array.from_buffers(pa.bool_(), len(data), [bitmap(valid), bitmap(data)])


def wrapped(storage: pa.Array, wanted: pa.DataType) -> pa.Array:
    """As the extension type that `wanted` is, if it is one."""
    if isinstance(wanted, pa.BaseExtensionType) and storage.type != wanted:
        return pa.ExtensionArray.from_storage(wanted, storage)
    return storage


def combined(first: pa.Array, second: pa.Array, rows: np.ndarray, missing: np.ndarray) -> pa.Array:
    """Row i is entry `rows[i]` of both arrays one after the other; NULL where `missing`."""
    both = pa.concat_arrays([first, second])
    return pc.take(both, primitive(pa.int64(), rows, ~missing))
