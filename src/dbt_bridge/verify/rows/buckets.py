"""Sums of digests, bucket by bucket: over a slow wire only the rows of buckets that differ are sent at all."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.contracts.side import Digests
from dbt_bridge.verify.canonical.row_digest import mix_digests
from dbt_bridge.verify.rows.digest_batches import (
    KEY,
    ROW,
    Numbers,
    Sender,
)
from dbt_bridge.verify.rows.in_parallel import side_by_side

ROWS_PER_BUCKET = 1_000  # a bucket costs some 50 bytes on the wire, so that a table's buckets cost 0.1% of its bytes
MOST_BUCKETS = 65_536
_WHOLE = 2**64 - 1

Sums = dict[int, tuple[int, int]]
"""bucket -> (rows, total modulo 2^64), of those that are not empty."""


class Totals:
    """Totals of the buckets of rows that stream by.

    Args:
        buckets: a power of two.
    """

    def __init__(self, buckets: int) -> None:
        self._last = np.int64(buckets - 1)
        self._totals = np.zeros(buckets, np.int64)

    def tell(self, batch: pa.RecordBatch) -> Numbers:
        """Add the rows of a batch as a `Sender` sends it; answers the bucket of each."""
        key, row = (batch.column(name).to_numpy() for name in (KEY, ROW))
        bucket: Numbers = key & self._last
        np.add.at(self._totals, bucket, mix_digests(key, row))
        return bucket

    def apart(self, other: Totals) -> NDArray[np.bool_]:
        """Which buckets differ, of two that have equally many."""
        return np.not_equal(self._totals, other._totals)


class Running(Totals):
    """How many rows there are beside it."""

    def __init__(self, buckets: int) -> None:
        super().__init__(buckets)
        self._rows = np.zeros(buckets, np.int64)

    def tell(self, batch: pa.RecordBatch) -> Numbers:
        """See `Totals.tell`."""
        bucket = super().tell(batch)
        np.add.at(self._rows, bucket, 1)
        return bucket

    def sums(self) -> Sums:
        return {
            int(bucket): (int(self._rows[bucket]), int(self._totals[bucket]) & _WHOLE)
            for bucket in np.flatnonzero(self._rows)
        }


def how_many(rows: int) -> int:
    """A power of two."""
    return min(MOST_BUCKETS, 1 << max(0, rows // ROWS_PER_BUCKET).bit_length())


def sums(senders: Sequence[Sender], buckets: int) -> tuple[Sums, Sums]:
    """Of both sides, side by side: the origin in this thread, the destination in another."""
    return side_by_side(
        lambda stopped: _sums(senders[0], buckets, stopped),
        lambda stopped: _sums(senders[1], buckets, stopped),
        senders[1].cancel,
    )


def apart(origin: Sums, destination: Sums) -> list[int]:
    """The buckets that differ."""
    return sorted(
        bucket for bucket in origin.keys() | destination.keys() if origin.get(bucket) != destination.get(bucket)
    )


def rows_of(side: Sums) -> int:
    return sum(rows for rows, _ in side.values())


def _sums(sender: Sender, buckets: int, stopped: Event) -> Sums:
    if isinstance(sender.side, Digests):
        key, values = (
            [pair.digested(sender.end) for pair in pairs] for pairs in (sender.paired.key, sender.paired.values)
        )
        return _of_table(sender.side.buckets(key, values, buckets))
    return _of_rows(sender, buckets, stopped)


def _of_table(table: pa.Table) -> Sums:
    columns = (table.column(name).to_pylist() for name in ("bucket", "rows", "total"))
    return {int(bucket): (int(rows), int(total) & _WHOLE) for bucket, rows, total in zip(*columns, strict=True)}


def _of_rows(sender: Sender, buckets: int, stopped: Event) -> Sums:
    running = Running(buckets)
    for batch in sender.values():
        if stopped.is_set():
            break
        running.tell(batch)
    return running.sums()
