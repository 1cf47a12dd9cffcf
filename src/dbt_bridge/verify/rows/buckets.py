"""Sums of digests, bucket by bucket: over a slow wire only the rows of buckets that differ are sent at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from threading import Event

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.contracts.side import Digests
from dbt_bridge.nouns.both import Both
from dbt_bridge.verify.canonical.row_digest import mix_digests
from dbt_bridge.verify.rows.in_parallel import run_side_by_side
from dbt_bridge.verify.rows.sender import KEY, ROW, Numbers, Sender

ROWS_PER_BUCKET = 1_000  # a bucket costs some 50 bytes on the wire, so that a table's buckets cost 0.1% of its bytes
MOST_BUCKETS = 65_536
_ALL_BITS = 2**64 - 1


@dataclass(frozen=True, slots=True)
class BucketSum:
    """The rows of one bucket: how many, and the total of their mixed digests modulo 2^64."""

    rows: int
    total: int


BucketSums = dict[int, BucketSum]
"""By the bucket's number; only of buckets that are not empty."""


class BucketTotals:
    """Totals of the buckets of rows that stream by.

    Args:
        buckets: a power of two.
    """

    def __init__(self, buckets: int) -> None:
        self._last = np.int64(buckets - 1)
        self._totals = np.zeros(buckets, np.int64)

    def add(self, batch: pa.RecordBatch) -> Numbers:
        """Add the rows of a batch as a `Sender` sends it; returns the bucket of each."""
        key, row = (batch.column(name).to_numpy() for name in (KEY, ROW))
        bucket: Numbers = key & self._last
        np.add.at(self._totals, bucket, mix_digests(key, row))
        return bucket

    def differ_from(self, other: BucketTotals) -> NDArray[np.bool_]:
        """Which buckets differ, of two that have equally many."""
        return np.not_equal(self._totals, other._totals)


class CountedTotals(BucketTotals):
    """Totals, and how many rows each bucket has."""

    def __init__(self, buckets: int) -> None:
        super().__init__(buckets)
        self._rows = np.zeros(buckets, np.int64)

    def add(self, batch: pa.RecordBatch) -> Numbers:
        """See `BucketTotals.add`."""
        bucket = super().add(batch)
        np.add.at(self._rows, bucket, 1)
        return bucket

    def as_sums(self) -> BucketSums:
        return {
            int(bucket): BucketSum(int(self._rows[bucket]), int(self._totals[bucket]) & _ALL_BITS)
            for bucket in np.flatnonzero(self._rows)
        }


def choose_bucket_count(rows: int) -> int:
    """How many buckets rows are divided into: a power of two."""
    return min(MOST_BUCKETS, 1 << max(0, rows // ROWS_PER_BUCKET).bit_length())


def sum_buckets(senders: Both[Sender], buckets: int) -> Both[BucketSums]:
    """The sums of both sides, computed at once: the origin's in this thread, the destination's in another."""
    sums = senders.map(lambda sender: partial(_sum_side, sender, buckets))
    return run_side_by_side(sums, senders.destination.cancel)


def find_different_buckets(sums: Both[BucketSums]) -> list[int]:
    origin, destination = sums
    return sorted(
        bucket for bucket in origin.keys() | destination.keys() if origin.get(bucket) != destination.get(bucket)
    )


def count_rows(sums: BucketSums) -> int:
    return sum(bucket.rows for bucket in sums.values())


def _sum_side(sender: Sender, buckets: int, stop: Event) -> BucketSums:
    """By the side itself where it computes digests, otherwise from its rows."""
    if isinstance(sender.side, Digests):
        key, values = (
            [pair.as_digested(sender.end) for pair in pairs] for pairs in (sender.pairs.key, sender.pairs.values)
        )
        return _sums_of_table(sender.side.buckets(key, values, buckets))
    totals = CountedTotals(buckets)
    for batch in sender.stream_values():
        if stop.is_set():
            break
        totals.add(batch)
    return totals.as_sums()


def _sums_of_table(table: pa.Table) -> BucketSums:
    columns = (table.column(name).to_pylist() for name in ("bucket", "rows", "total"))
    return {
        int(bucket): BucketSum(int(rows), int(total) & _ALL_BITS) for bucket, rows, total in zip(*columns, strict=True)
    }
