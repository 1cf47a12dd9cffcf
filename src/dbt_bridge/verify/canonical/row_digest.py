"""Digests of rows from Arrow arrays: the numbers that PostgreSQL's hash_record_extended answers for the same values.

See `dbt_bridge.contracts.canon` for the elements. Rows are taken in chunks whose intermediate arrays stay in the
processor's cache; numpy lets go of the interpreter while it works, so that threads digest batches side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon
from dbt_bridge.verify.canonical import elements, hash_numeric
from dbt_bridge.verify.canonical.lookup3 import (
    U32,
    U64,
    hash_bytes,
    hash_uint32,
    hash_words,
)

CHUNK = 32_768  # rows; from 16,384 to 65,536 are the quickest

_EPOCH_DAYS = 10_957  # from 1970 to 2000, where PostgreSQL counts from
_EPOCH_US = 946_684_800_000_000
_MOST = 2**63 - 1
_BEHIND = 12  # bytes that `hash_bytes` may look at beyond the last value
_FINE = np.uint64(0x9E3779B97F4A7C15)  # odd: nanoseconds beside whole microseconds change the element


def compute_digests(arrays: Sequence[pa.Array | pa.ChunkedArray], canons: Sequence[Canon]) -> NDArray[np.int64]:
    """The digest of each row.

    Args:
        arrays: of one length, at least one; in the types in which a side gives them, or canonical ones.
        canons: one for each array.

    Raises:
        TypeRefused: an array's type has no form in its canon.
    """
    stored = [elements.to_storage(array) for array in arrays]
    out = np.zeros(len(stored[0]), np.uint64)
    for start in range(0, len(out), CHUNK):
        row = out[start : start + CHUNK]
        for array, canon in zip(stored, canons, strict=True):
            for element in _elements(_plain(array.slice(start, CHUNK), canon), canon):
                row *= np.uint64(31)
                row += element
    return out.view(np.int64)


def mix_digests(key: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """hash_record_extended(ROW(int8send(row)), key): of both digests, and of which row goes with which key.

    This is what a bucket's total sums up. (A sum of the digests themselves would not see two rows that had swapped a
    value: digests are sums of their columns' elements.)
    """
    return hash_words(*_swapped(row), seed=key.view(np.uint64)).view(np.int64)


def _plain(array: pa.Array, canon: Canon) -> pa.Array:
    """The values in a type that `_elements` reads."""
    if is_.is_null(array.type):
        return pa.nulls(len(array), pa.int64())
    if canon.kind in _BY_CANONICAL or canon.form:
        return elements.to_canonical(array, canon)
    if canon.kind in ("text", "json") and not is_.is_string(array.type) and not is_.is_large_string(array.type):
        return pc.cast(array, pa.string()) if is_.is_string_view(array.type) else elements.to_canonical(array, canon)
    return array


_BY_CANONICAL = {"int", "float", "binary", "uuid", "date"}


def _elements(array: pa.Array, canon: Canon) -> Iterator[U64]:
    is_decimal = canon.kind == "decimal"
    if array.null_count == len(array):  # its other buffers may be absent
        yield from [np.zeros(len(array), np.uint64)] * (2 if is_decimal else 1)
        return
    parts = hash_numeric.hashed(array, canon.scale) if is_decimal else (_HASHES[canon.kind](array, canon),)
    missing = np.asarray(array.is_null()) if array.null_count else None
    for part in parts:
        if missing is not None:
            part[missing] = 0
        yield part


def _values(array: pa.Array, type_: type | np.dtype[Any]) -> NDArray[Any]:
    """The values of a fixed width as they lie in memory; anything where NULL."""
    return np.frombuffer(array.buffers()[1], type_)[array.offset : array.offset + len(array)]


def _swapped(values: NDArray[np.int64] | U64) -> tuple[U32, U32]:
    """The two words of 8 bytes in network order, which the send functions write."""
    words = values.byteswap().view(np.uint32).reshape(-1, 2)
    return words[:, 0], words[:, 1]


def _int(array: pa.Array, canon: Canon) -> U64:
    values = _values(array, np.int64)
    return hash_uint32(values.astype(np.uint32)) if canon.bits == 32 else hash_words(*_swapped(values))


def _float(array: pa.Array, _: Canon) -> U64:
    return hash_words(*_swapped(_values(array, np.uint64)))  # `elements` has one -0 and one NaN


def _bytes(array: pa.Array, _: Canon) -> U64:
    wide = is_.is_large_string(array.type) or is_.is_large_binary(array.type)
    stored: NDArray[Any] = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)
    offsets = stored[array.offset : array.offset + len(array) + 1].astype(np.int64)
    begin, end = int(offsets[0]), int(offsets[-1])
    lengths = offsets[1:] - offsets[:-1]
    held = array.buffers()[2]
    if held is not None and held.size >= end + _BEHIND:
        return hash_bytes(np.frombuffer(held, np.uint8), offsets[:-1], lengths)
    data = np.zeros(end - begin + _BEHIND, np.uint8)  # the last chunk of a buffer without room behind it
    if end > begin:
        data[: end - begin] = np.frombuffer(held, np.uint8, end - begin, begin)
    return hash_bytes(data, offsets[:-1] - begin, lengths)


def _uuid(array: pa.Array, _: Canon) -> U64:
    words = _values(array, np.dtype("V16")).view(np.uint32).reshape(-1, 4)
    return hash_words(words[:, 0], words[:, 1], words[:, 2], words[:, 3])


def _date(array: pa.Array, _: Canon) -> U64:
    days = _values(array, np.int32)
    ours = days - np.int32(_EPOCH_DAYS)
    ours[days == 2**31 - 1] = 2**31 - 1
    ours[days <= -(2**31) + 1] = -(2**31)
    return hash_uint32(ours.view(np.uint32))


def _moment(array: pa.Array, _: Canon) -> U64:
    microseconds, fine = elements.to_microseconds(array)
    ours = microseconds - _EPOCH_US
    ours[microseconds == _MOST] = _MOST
    ours[microseconds <= -_MOST] = -_MOST - 1
    return _with(hash_words(*_swapped(ours)), fine)


def _time(array: pa.Array, _: Canon) -> U64:
    microseconds, fine = elements.to_microseconds(array)
    return _with(hash_words(*_swapped(microseconds)), fine)


def _interval(array: pa.Array, _: Canon) -> U64:
    months, days, microseconds, fine = elements.split_intervals(array)
    high, low = _swapped(microseconds)
    words = days.byteswap().view(np.uint32), months.byteswap().view(np.uint32)
    return _with(hash_words(high, low, *words), fine)


def _with(element: U64, fine: NDArray[np.int64] | None) -> U64:
    return element if fine is None else element + fine.view(np.uint64) * _FINE


def _list(array: pa.Array, canon: Canon) -> U64:
    """Of hash_array_extended over the elements' texts (arrayfuncs.c): from 1 on, and 0 for NULL."""
    inner, starts, lengths = elements.split_lists(array)
    each = np.concatenate([*_chunked(elements.to_text(inner, canon.of or Canon("text"))), np.zeros(1, np.uint64)])
    total = np.ones(len(array), np.uint64)
    for i in range(int(lengths.max()) if len(lengths) else 0):
        longer = np.flatnonzero(lengths > i)
        total[longer] = total[longer] * np.uint64(31) + each[starts[longer] + i]
    return hash_words(*_swapped(total))


def _chunked(array: pa.Array) -> Iterator[U64]:
    for start in range(0, len(array), CHUNK):
        yield from _elements(array.slice(start, CHUNK), Canon("text"))


_HASHES: dict[str, Callable[[pa.Array, Canon], U64]] = {
    "int": _int,
    "float": _float,
    "text": _bytes,
    "json": _bytes,
    "binary": _bytes,
    "uuid": _uuid,
    "date": _date,
    "time": _time,
    "timestamp": _moment,
    "interval": _interval,
    "list": _list,
}
