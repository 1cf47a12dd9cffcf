"""Keyed digests of rows: what the ledger of deliveries keeps in place of values.

A digest is BLAKE2b with a key (RFC 7693), of the values' canonical forms: what is compared equal has one digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon, choose_canon
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import KeyRefused, TypeRefused, require_extra
from dbt_bridge.nouns.table import Column, TableName

SIZE = 16  # bytes: of millions of keys no two share one


@dataclass(frozen=True, slots=True)
class Digester:
    """How rows of a table are digested.

    Attributes:
        columns: the digested ones, in order.
        folds: of these, columns that compare without regard to case (citext).
        plain: of these, columns that are compared with others of the very same type, whose own form will do: the
            canonical form of decimals and of JSON takes ten times as long.
    """

    columns: tuple[Column, ...]
    canons: tuple[Canon, ...]
    secret: bytes
    folds: frozenset[str] = frozenset()
    plain: frozenset[str] = frozenset()

    @classmethod
    def of(cls, columns: Sequence[Column], others: Sequence[Column], secret: bytes) -> Digester:
        """For columns that are compared with others: a char(n) there tells no trailing spaces."""
        pairs = list(zip(columns, others, strict=True))
        folds = frozenset(c.name for c, o in pairs if "citext" in (c.origin_type.lower(), o.origin_type.lower()))
        plain = frozenset(
            c.name for c, o in pairs if c.type == o.type and (is_.is_decimal(c.type) or isinstance(c.type, pa.JsonType))
        )
        return cls(tuple(columns), tuple(_canon(c, o) for c, o in pairs), secret, folds, plain)

    def digest(self, batch: pa.RecordBatch) -> pa.Array:
        """A digest of each row, over these columns of a batch."""
        from dbt_bridge.verify.canonical.elements import to_canonical

        parts: list[Any] = []
        for column, canon in zip(self.columns, self.canons, strict=True):
            array = batch.column(column.name)
            if column.name in self.plain:
                text = _as_binary(array.storage if isinstance(array, pa.ExtensionArray) else array)
            else:
                text = _as_binary(to_canonical(array, canon))
            if column.name in self.folds:
                text = pc.utf8_lower(text.cast(pa.string())).cast(pa.binary())
            length = pc.cast(pc.cast(pc.binary_length(text), pa.string()), pa.binary())
            whole = pc.binary_join_element_wise(length, text, b":")
            parts.append(pc.coalesce(whole, pa.scalar(b"n", pa.binary())))
        joined = pc.binary_join_element_wise(*parts, b"|") if len(parts) > 1 else parts[0]
        digests = [hashlib.blake2b(row, key=self.secret, digest_size=SIZE).digest() for row in joined.to_pylist()]
        return pa.array(digests, pa.binary(SIZE))


def _canon(column: Column, there: Column) -> Canon:
    try:
        return choose_canon(column, there)
    except TypeRefused:  # what cannot be compared is refused where it is written
        return choose_canon(column, column)


def _as_binary(array: pa.Array) -> pa.Array:
    type_ = array.type
    if is_.is_floating(type_):
        array = array.view(pa.int64())
    elif is_.is_date32(type_):
        array = array.view(pa.int32())
    elif is_.is_temporal(type_):
        array = array.view(pa.int64())
    elif is_.is_decimal(type_):
        array = array.view(pa.binary(type_.byte_width))
    if is_.is_fixed_size_binary(array.type):
        return array.cast(pa.binary())
    return array.cast(pa.string()).cast(pa.binary())


def refuse_null_keys(batch: pa.RecordBatch, key: Sequence[str], name: TableName) -> None:
    """Raises KeyRefused: a key column holds NULL."""
    for column in key:
        if batch.column(column).null_count:
            raise KeyRefused(
                f"the key column {column!r} of {name} holds NULL in the new rows",
                mend="filter those rows out, or choose a key that every row has",
            )


def digest_relation(
    load: Load, open_rows: Callable[[], AbstractContextManager[pa.RecordBatchReader]], build_id: str
) -> str:
    """What tells the rows of a load from those of any other: all of them, the build that made them, the exposure."""
    assert load.delivery is not None, "a delivery"
    digester = Digester.of(load.table.columns, load.table.columns, b"")
    whole = RowsDigest()
    with require_extra("verify", "appending once"), open_rows() as rows:
        for batch in rows:
            whole.add(digester.digest(batch))
    return whole.token(load.delivery.node, load.delivery.relation, build_id, str(load.table.arrow_schema))


class RowsDigest:
    """The digest of a whole relation, whatever the order of its rows: the sum of theirs."""

    def __init__(self) -> None:
        self._sum = 0
        self._rows = 0

    def add(self, digests: pa.Array) -> None:
        import numpy as np

        halves = np.frombuffer(digests.buffers()[1], "<u8").reshape(-1, 2)[
            digests.offset : digests.offset + len(digests)
        ]
        low, high = (int(half) for half in halves.sum(axis=0, dtype=np.uint64)) if len(digests) else (0, 0)
        self._sum = (self._sum + low + (high << 64)) % (1 << 128)
        self._rows += len(digests)

    def token(self, *said: str) -> str:
        """In hexadecimal digits, with what else tells one delivery from another."""
        text = "\0".join((*said, str(self._rows), str(self._sum)))
        return hashlib.blake2b(text.encode(), digest_size=SIZE).hexdigest()
