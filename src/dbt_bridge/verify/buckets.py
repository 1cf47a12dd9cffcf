"""Sums of digests, bucket by bucket: over a slow wire only the rows of buckets that differ are sent at all."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from dbt_bridge.verify.digest import mixed
from dbt_bridge.verify.sent import KEY, ROW, Sender
from dbt_bridge.verify.side import Digests

ROWS_PER_BUCKET = 1_000  # a bucket costs some 50 bytes on the wire, so that a table's buckets cost 0.1% of its bytes
MOST_BUCKETS = 65_536
_LOW = np.int64(0xFFFFFFFF)

Sums = dict[int, tuple[int, int]]
"""bucket -> (rows, total), of those that are not empty."""


def how_many(rows: int) -> int:
    """A power of two."""
    return min(MOST_BUCKETS, 1 << max(0, rows // ROWS_PER_BUCKET).bit_length())


def sums(senders: Sequence[Sender], buckets: int) -> tuple[Sums, Sums]:
    """Of both sides, side by side: the origin in this thread, the destination in another."""
    with ThreadPoolExecutor(1, thread_name_prefix="verify") as pool:
        other = pool.submit(_sums, senders[1], buckets)
        return _sums(senders[0], buckets), other.result()


def apart(origin: Sums, destination: Sums) -> list[int]:
    """The buckets that differ."""
    return sorted(
        bucket for bucket in origin.keys() | destination.keys() if origin.get(bucket) != destination.get(bucket)
    )


def rows_of(side: Sums) -> int:
    return sum(rows for rows, _ in side.values())


def _sums(sender: Sender, buckets: int) -> Sums:
    if isinstance(sender.side, Digests):
        key, values = (
            [pair.digested(sender.end) for pair in pairs] for pairs in (sender.paired.key, sender.paired.values)
        )
        return _of_table(sender.side.buckets(key, values, buckets))
    return _of_rows(sender, buckets)


def _of_table(table: pa.Table) -> Sums:
    columns = (table.column(name).to_pylist() for name in ("bucket", "rows", "total"))
    return {int(bucket): (int(rows), int(total)) for bucket, rows, total in zip(*columns, strict=True)}


def _of_rows(sender: Sender, buckets: int) -> Sums:
    rows, low, high = (np.zeros(buckets, np.int64) for _ in range(3))
    for batch in sender.values():
        key, row = (batch.column(name).to_numpy() for name in (KEY, ROW))
        bucket = key & np.int64(buckets - 1)
        total = mixed(key, row)
        rows += np.bincount(bucket, minlength=buckets)
        # bincount adds up floats, which hold the sums of halves exactly: 32 bits each, of fewer than 2^20 rows
        low += np.bincount(bucket, total & _LOW, buckets).astype(np.int64)
        high += np.bincount(bucket, total >> np.int64(32), buckets).astype(np.int64)
    return {
        int(bucket): (int(rows[bucket]), (int(high[bucket]) << 32) + int(low[bucket]))
        for bucket in np.flatnonzero(rows)
    }
