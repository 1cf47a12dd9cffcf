"""Keys of changes as numbers: keys that the origin calls equal have one code, whatever their types are.

    numbers, texts, moments   by their values, as they travel
    floats                    0.0 is -0.0, and NaN is itself
    intervals                 by their length, a month of 30 days of 24 hours: `1 mon` is `30 days`
    lists, structs, maps      element by element; NULL inside of one is itself

What travels as text is compared as the origin writes it. Where the origin takes two texts for one (numerics of other
scales, texts in another case), an update from one to the other says so in the log: it leaves one key for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.arrow.vectors import pack_bits, to_arrow
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.changes import UPDATE, Changes
from dbt_bridge.nouns.table import Table

_Index = Any  # numpy array of int64
_DAY_NS = 86_400_000_000_000
_INTERVAL = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])


@dataclass(frozen=True, slots=True)
class KeyCodes:
    """A number for each key that a run of changes touches.

    Attributes:
        old, new: codes of the key before and after each change; the same where a change has one key.
        keys: the key of each code, as it was first written.
    """

    old: _Index
    new: _Index
    keys: pa.Table


def encode_keys(table: Table, changes: Changes) -> KeyCodes:
    """Number the keys.

    Raises:
        KeyRefused: a key is NULL, or has a type without equality.
    """
    rows = changes.rows
    before, has_before = changes.before, changes.has_before
    with_old = np.flatnonzero(has_before & (changes.kind == UPDATE)) if before is not None else np.arange(0)
    columns = []
    for name in table.key:
        after = rows[name]
        if before is not None and len(with_old):
            after = pa.chunked_array([*after.chunks, *before[name].take(to_arrow(with_old)).chunks], after.type)
        columns.append(after)
    codes = [_encode_key(table, name, column) for name, column in zip(table.key, columns, strict=True)]
    dense = _dense(reduce(_combine, codes))
    representative = np.empty(dense.max(initial=-1) + 1, np.int64)
    representative[dense[::-1]] = np.arange(len(dense))[::-1]
    keys = pa.Table.from_arrays([c.take(to_arrow(representative)) for c in columns], names=list(table.key))
    new = dense[: len(changes)]
    old = new.copy()
    old[with_old] = dense[len(changes) :]
    return KeyCodes(old, new, keys)


def find_moved(table: Table, changes: Changes) -> np.ndarray:
    """bool: updates that changed the key of their row.

    Raises:
        KeyRefused: see `encode_keys`.
    """
    codes = encode_keys(table, changes)
    return np.asarray(codes.old != codes.new)


def find_incomparable(type_: pa.DataType) -> pa.DataType | None:
    """The part of a type whose values have no equality here; None where it can be a key."""
    if isinstance(type_, pa.BaseExtensionType):
        return find_incomparable(type_.storage_type)
    if _is_list(type_) or is_.is_map(type_) or is_.is_struct(type_):
        inner = [type_.field(i).type for i in range(type_.num_fields)]
        return next((found for part in inner if (found := find_incomparable(part)) is not None), None)
    return type_ if is_.is_union(type_) or is_.is_run_end_encoded(type_) else None


def encode_rows(columns: list[pa.ChunkedArray]) -> _Index:
    """A number for each row: rows that are equal in all columns have the same; NULL equals NULL.

    Raises:
        pa.ArrowNotImplementedError: a type without equality; see `find_incomparable`.
    """
    return _dense(reduce(_combine, [encode(_single_array(column)) + 1 for column in columns]))


def match_rows(rows: pa.Table, wanted: pa.Table) -> tuple[_Index, _Index]:
    """The places of the rows that have a wanted key, and the places of those keys.

    Args:
        rows: the key columns; keys may come several times.
        wanted: the same columns; each key once.
    """
    both = pa.concat_tables([rows, wanted])
    codes = encode_rows(both.columns)
    place = np.full(codes.max(initial=-1) + 1, -1)
    place[codes[len(rows) :]] = np.arange(len(wanted))
    found = place[codes[: len(rows)]]
    hits = np.flatnonzero(found >= 0)
    return hits, found[hits]


def _encode_key(table: Table, name: str, column: pa.ChunkedArray) -> _Index:
    if column.null_count:
        raise KeyRefused(
            f"key column {name!r} of {table.name} is NULL in a change, so no row is found by it",
            mend="name a key that is never NULL in primary_key:",
        )
    try:
        return encode(_single_array(column))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise KeyRefused(
            f"key column {name!r} of {table.name} has the type {column.type}, whose values cannot be compared",
            mend="name another key in primary_key:",
        ) from error


def encode(array: pa.Array) -> _Index:
    """A number of at least 0 for each value, the same for equal ones, and less than there are values; -1 for NULL."""
    type_ = array.type
    if not len(array):
        return np.empty(0, np.int64)
    if isinstance(type_, pa.BaseExtensionType):
        return encode(array.storage)
    if is_.is_floating(type_):
        array = _with_one_zero(array)
    elif is_.is_interval(type_):
        array = _measure(array)
    elif is_.is_dictionary(type_):
        return encode(array.cast(type_.value_type))
    elif _is_list(type_) or is_.is_map(type_):
        array = _join_elements(array)
    elif is_.is_struct(type_):
        array = _join_fields(array)
    indices = array.dictionary_encode().indices
    return (indices.fill_null(-1) if indices.null_count else indices).to_numpy().astype(np.int64)


def _is_list(type_: pa.DataType) -> bool:
    kinds: tuple[Callable[[pa.DataType], bool], ...] = (is_.is_list, is_.is_large_list, is_.is_fixed_size_list)
    return any(kind(type_) for kind in kinds)


def _with_one_zero(array: pa.Array) -> pa.Array:
    """The bits of floats of which zero has one sign and NaN one form, so that equal ones are the same."""
    if not is_.is_float64(array.type):
        array = array.cast(pa.float64())
    values = np.frombuffer(array.buffers()[1], np.float64)[array.offset :][: len(array)] + 0.0
    values[np.isnan(values)] = np.nan
    return to_arrow(values.view(np.int64), mask=_mask(array))


def _measure(array: pa.Array) -> pa.Array:
    """Intervals as days and the nanoseconds of a day, in one number of 16 bytes: as the origin compares them."""
    parts = np.frombuffer(array.buffers()[1], _INTERVAL)[array.offset :][: len(array)]
    days, rest = np.divmod(parts["nanoseconds"], _DAY_NS)
    length = np.empty((len(array), 2), np.int64)
    length[:, 0] = parts["months"].astype(np.int64) * 30 + parts["days"] + days
    length[:, 1] = rest
    return pa.Array.from_buffers(pa.binary(16), len(array), [_valid(array), pa.py_buffer(length)])


def _join_elements(array: pa.Array) -> pa.Array:
    """Lists as bytes: the codes of their elements, one after the other."""
    if is_.is_map(array.type):
        array = array.cast(pa.list_(pa.struct([array.type.key_field, array.type.item_field])))
    if is_.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    codes = encode(array.flatten())  # without those of NULL lists
    ends = np.cumsum(pc.list_value_length(array).fill_null(0).to_numpy().astype(np.int64))
    return _make_binary(codes, np.append(0, ends) * codes.itemsize, array)


def _join_fields(array: pa.Array) -> pa.Array:
    codes = np.stack([encode(field) for field in array.flatten()], axis=1)
    return _make_binary(codes, np.arange(len(array) + 1) * codes.shape[1] * codes.itemsize, array)


def _make_binary(codes: np.ndarray, offsets: np.ndarray, like: pa.Array) -> pa.Array:
    buffers = [_valid(like), pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(np.ascontiguousarray(codes))]
    return pa.Array.from_buffers(pa.large_binary(), len(like), buffers)


def _valid(array: pa.Array) -> pa.Buffer | None:
    mask = _mask(array)
    return None if mask is None else pack_bits(~mask)


def _mask(array: pa.Array) -> np.ndarray | None:
    return array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None


def _single_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _combine(codes: _Index, more: _Index) -> _Index:
    # Both are below the number of rows, so the product stays below 2**63.
    return _dense(codes) * (more.max(initial=-1) + 1) + more


def _dense(codes: _Index) -> _Index:
    return to_arrow(codes).dictionary_encode().indices.to_numpy().astype(np.int64)
