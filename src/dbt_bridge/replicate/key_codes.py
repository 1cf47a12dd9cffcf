"""Keys of changes as numbers: equal keys have one code, whatever their types are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.changes import UPDATE, Changes
from dbt_bridge.nouns.table import Table

_Index = Any  # numpy array of int64


@dataclass(frozen=True, slots=True)
class KeyCodes:
    """A number for each key that a run of changes touches.

    Attributes:
        old, new: codes of the key before and after each change; the same where a change has one key.
        keys: the key of each code.
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
    codes, columns = None, []
    for name in table.key:
        after = rows[name]
        if before is not None and len(with_old):
            after = pa.chunked_array([*after.chunks, *before[name].take(to_arrow(with_old)).chunks], after.type)
        columns.append(after)
        codes = _combine(codes, _codes(table, name, after))
    assert codes is not None, "a keyed table"
    dense = _dense(codes)
    representative = np.empty(dense.max(initial=-1) + 1, np.int64)
    representative[dense[::-1]] = np.arange(len(dense))[::-1]
    keys = pa.Table.from_arrays([c.take(to_arrow(representative)) for c in columns], names=list(table.key))
    new = dense[: len(changes)]
    old = new.copy()
    old[with_old] = dense[len(changes) :]
    return KeyCodes(old, new, keys)


def _codes(table: Table, name: str, column: pa.ChunkedArray) -> _Index:
    if column.null_count:
        raise KeyRefused(
            f"key column {name!r} of {table.name} is NULL in a change, so no row is found by it",
            mend="name a key that is never NULL in primary_key:",
        )
    try:
        encoded = plain(column).combine_chunks().dictionary_encode()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise KeyRefused(
            f"key column {name!r} of {table.name} has the type {column.type}, which cannot be compared: {error}",
            mend="name another key in primary_key:",
        ) from error
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries()
        return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [np.arange(0)]).astype(np.int64)
    return encoded.indices.to_numpy().astype(np.int64)


def _combine(codes: _Index | None, more: _Index) -> _Index:
    if codes is None:
        return more
    # Both are below the number of rows, so the product stays below 2**63.
    return _dense(codes) * (more.max(initial=-1) + 1) + more


def _dense(codes: _Index) -> _Index:
    return to_arrow(codes).dictionary_encode().indices.to_numpy().astype(np.int64)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without its extension type, whose values most kernels do not take."""
    if isinstance(column.type, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return column
