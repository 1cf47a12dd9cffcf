"""Digests of rows from Arrow arrays: the numbers that PostgreSQL's hash_record_extended returns for the same values.

See `dbt_bridge.contracts.canon` for the elements. Rows are taken in chunks whose intermediate arrays stay in the
processor's cache; numpy lets go of the interpreter while it works, so that threads digest batches side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon
from dbt_bridge.verify.canonical.buffers import (
    INFINITE_DATE,
    INFINITY,
    Moments,
    offsets_of,
    split_intervals,
    split_lists,
    to_microseconds,
    to_storage,
    view_fixed_width,
)
from dbt_bridge.verify.canonical.elements import to_canonical, to_text
from dbt_bridge.verify.canonical.hash_numeric import hash_numerics
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
    stored = [to_storage(array) for array in arrays]
    out = np.zeros(len(stored[0]), np.uint64)
    for start in range(0, len(out), CHUNK):
        row = out[start : start + CHUNK]
        for array, canon in zip(stored, canons, strict=True):
            for element in _elements(_as_hashable(array.slice(start, CHUNK), canon), canon):
                row *= np.uint64(31)
                row += element
    return out.view(np.int64)


def mix_digests(key: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """hash_record_extended(ROW(int8send(row)), key): depends on both digests, and on which row goes with which key.

    This is what a bucket's total sums up. (A sum of the digests themselves would not see two rows that had swapped a
    value: digests are sums of their columns' elements.)
    """
    return hash_words(*_network_words(row), seed=key.view(np.uint64)).view(np.int64)


def _as_hashable(array: pa.Array, canon: Canon) -> pa.Array:
    """The values in a type that `_elements` reads."""
    if is_.is_null(array.type):
        return pa.nulls(len(array), pa.int64())
    if canon.kind in _BY_CANONICAL or canon.form or (canon.kind == "decimal" and is_.is_floating(array.type)):
        return to_canonical(array, canon)
    if canon.kind in ("text", "json") and not is_.is_string(array.type) and not is_.is_large_string(array.type):
        return pc.cast(array, pa.string()) if is_.is_string_view(array.type) else to_canonical(array, canon)
    return array


_BY_CANONICAL = {"int", "float", "binary", "uuid", "date"}


def _elements(array: pa.Array, canon: Canon) -> Iterator[U64]:
    is_decimal = canon.kind == "decimal"
    if array.null_count == len(array):  # its other buffers may be absent
        yield from [np.zeros(len(array), np.uint64)] * (2 if is_decimal else 1)
        return
    parts = hash_numerics(array, canon.scale) if is_decimal else (_HASHES[canon.kind](array, canon),)
    missing = np.asarray(array.is_null()) if array.null_count else None
    for part in parts:
        if missing is not None:
            part[missing] = 0
        yield part


def _network_words(values: NDArray[np.int64] | U64) -> tuple[U32, ...]:
    """The two words of each 8 bytes in network order, as the send functions write them."""
    words = values.byteswap().view(np.uint32).reshape(-1, 2)
    return words[:, 0], words[:, 1]


def _int(array: pa.Array, canon: Canon) -> U64:
    values = view_fixed_width(array, np.int64)
    return hash_uint32(values.astype(np.uint32)) if canon.bits == 32 else hash_words(*_network_words(values))


def _float(array: pa.Array, _: Canon) -> U64:
    return hash_words(*_network_words(view_fixed_width(array, np.uint64)))  # canonical: there is no -0, and one NaN


def _bytes(array: pa.Array, _: Canon) -> U64:
    wide = is_.is_large_string(array.type) or is_.is_large_binary(array.type)
    offsets = offsets_of(array, wide=wide)
    begin, end = int(offsets[0]), int(offsets[-1])
    lengths = offsets[1:] - offsets[:-1]
    buffer = array.buffers()[2]
    if buffer is not None and buffer.size >= end + _BEHIND:
        return hash_bytes(np.frombuffer(buffer, np.uint8), offsets[:-1], lengths)
    data = np.zeros(end - begin + _BEHIND, np.uint8)  # the last chunk of a buffer without room behind it
    if end > begin:
        data[: end - begin] = np.frombuffer(buffer, np.uint8, end - begin, begin)
    return hash_bytes(data, offsets[:-1] - begin, lengths)


def _uuid(array: pa.Array, _: Canon) -> U64:
    words = view_fixed_width(array, np.dtype("V16")).view(np.uint32).reshape(-1, 4)
    return hash_words(words[:, 0], words[:, 1], words[:, 2], words[:, 3])


def _date(array: pa.Array, _: Canon) -> U64:
    days = view_fixed_width(array, np.int32)
    since_2000 = days - np.int32(_EPOCH_DAYS)
    since_2000[days == INFINITE_DATE] = INFINITE_DATE
    since_2000[days <= -INFINITE_DATE] = -INFINITE_DATE - 1
    return hash_uint32(since_2000.view(np.uint32))


def _moment(array: pa.Array, _: Canon) -> U64:
    moments = to_microseconds(array)
    since_2000 = moments.microseconds - _EPOCH_US
    since_2000[moments.microseconds == INFINITY] = INFINITY
    since_2000[moments.microseconds <= -INFINITY] = -INFINITY - 1
    return _with_nanoseconds(hash_words(*_network_words(since_2000)), moments)


def _time(array: pa.Array, _: Canon) -> U64:
    moments = to_microseconds(array)
    return _with_nanoseconds(hash_words(*_network_words(moments.microseconds)), moments)


def _interval(array: pa.Array, _: Canon) -> U64:
    parts = split_intervals(array)
    words = [number.byteswap().view(np.uint32) for number in (parts.days, parts.months)]
    return _with_nanoseconds(hash_words(*_network_words(parts.time.microseconds), *words), parts.time)


def _with_nanoseconds(element: U64, moments: Moments) -> U64:
    return element if moments.nanoseconds is None else element + moments.nanoseconds.view(np.uint64) * _FINE


def _list(array: pa.Array, canon: Canon) -> U64:
    """hash_array_extended over the elements' texts (arrayfuncs.c): starts from 1, and adds 0 for NULL."""
    lists = split_lists(array)
    texts = to_text(lists.elements, canon.of or Canon("text"))
    each = np.concatenate([*_hash_in_chunks(texts), np.zeros(1, np.uint64)])
    total = np.ones(len(array), np.uint64)
    for i in range(int(lists.lengths.max()) if len(array) else 0):
        longer = np.flatnonzero(lists.lengths > i)
        total[longer] = total[longer] * np.uint64(31) + each[lists.starts[longer] + i]
    return hash_words(*_network_words(total))


def _hash_in_chunks(array: pa.Array) -> Iterator[U64]:
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
