"""One side of a comparison: a relation that can be counted and read, and that may compute digests itself.

Side        every relation: an origin's table or query, a landing table, a delivered table
Digests     also computes `canonical` digests where its rows are: PostgreSQL 14 and later
Cancels     can be broken off by another thread while it waits for its server
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from dbt_bridge.contracts.canon import Digested, NoDigests
from dbt_bridge.nouns.table import Table

__all__ = ["BucketSelection", "Cancels", "Digests", "NoDigests", "Side"]


@dataclass(frozen=True, slots=True)
class BucketSelection:
    """The rows of some buckets alone.

    Attributes:
        count: into how many buckets all rows are divided; a power of two.
        wanted: the numbers of the selected buckets.
    """

    count: int
    wanted: Sequence[int]


class Side(Protocol):
    """A relation at one moment: everything that it answers is of the same state.

    Attributes:
        name: for people: `shop_pg: shop.orders`.
        table: its columns as `rows` gives them (masked ones as hashes), and the primary key that it enforces.
    """

    name: str

    @property
    def table(self) -> Table: ...

    def count(self) -> int:
        """How many rows there are, counted by the engine that holds them."""

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """Stream rows: these columns in the types of `table`, in this order.

        Args:
            keys: only the rows with one of these keys; its columns are named and typed as in `table`. NULL equals NULL.
        """


@runtime_checkable
class Digests(Protocol):
    """Digests computed where the rows are. A bucket of a row is `digest of its key & (buckets - 1)`.

    Raises (from every method): NoDigests, before anything is read.
    """

    wire_bytes: int
    """Bytes of digests and sums that this side has sent so far; its rows are counted by who reads them."""

    def digests(
        self, key: Sequence[Digested], values: Sequence[Digested], within: BucketSelection | None = None
    ) -> pa.RecordBatchReader:
        """Stream one row per row: the key columns in their own types, and `_row` (int64).

        Args:
            key: empty for a table without a key; the bucket of a row is then that of `_row`.
            values: all columns outside of the key. `_row` is the digest of these alone.
            within: only the rows of these buckets.
        """

    def buckets(self, key: Sequence[Digested], values: Sequence[Digested], buckets: int) -> pa.Table:
        """One row per bucket that is not empty: `bucket` int64, `rows` int64, `total` decimal128(38, 0).

        `total` is the exact sum over the bucket's rows of `mix_digests(_key, _row)` (verify.canonical.row_digest), as
        signed numbers. (A sum of `_key` and `_row` themselves would be the same when two rows have swapped a value.)
        """

    def transfer_rate(self) -> float:
        """Bytes per second that the wire to this side carries, measured with a small answer."""


@runtime_checkable
class Cancels(Protocol):
    """A side whose queries can be ended: one that waits for a lock answers no signal."""

    def cancel(self) -> None:
        """End what another thread reads, which gets an error. Nothing more need be answered afterwards."""
