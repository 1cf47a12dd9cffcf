"""Of all rows that stream by, those that may differ: the ones in buckets whose totals differ.

A bucket with the same total has the same rows on both sides, as in the method of that name. All rows lie in a file in
the order in which they came until the totals are known, and it is not read where none differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.verify.rows.buckets import Totals
from dbt_bridge.verify.rows.digest_batches import KEY
from dbt_bridge.verify.rows.match import Sent, both_kept, both_read
from dbt_bridge.verify.rows.partitions import Kept, copied, most_bytes

_BUCKETS = 1 << 20  # 50,000 differences leave 95% of all other rows in buckets without any; 8 MB a side


class Passing:
    """Rows of one side that stream by, in memory while they are few. Used by one thread at a time.

    Attributes:
        rows: how many came.
        totals: of their buckets.
    """

    def __init__(self, file: Path, memory_mb: int) -> None:
        self.rows = 0
        self.totals = Totals(_BUCKETS)
        self._path = file
        self._most_bytes = most_bytes(memory_mb)
        self._bytes = 0
        self._pending: list[pa.RecordBatch] = []
        self._file: pa.OSFile | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        self.totals.tell(batch)
        self.rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._writer is not None:
            self._writer.write_batch(batch)
            return
        self._pending.append(copied(batch))
        if self._bytes > self._most_bytes:
            self._to_file()

    def within(self, apart: NDArray[np.bool_]) -> Iterator[pa.RecordBatch]:
        """The rows of the buckets that differ; once, and no row can be added any more."""
        last = np.int64(len(apart) - 1)
        for batch in self._all() if apart.any() else ():
            rows = batch.filter(pa.array(apart[batch.column(KEY).to_numpy() & last]))
            if rows.num_rows:
                yield rows

    def _all(self) -> Iterator[pa.RecordBatch]:
        if self._writer is None:
            yield from self._pending
            return
        self._close()
        with pa.OSFile(str(self._path), "rb") as file, pa.ipc.open_stream(file) as reader:
            yield from reader
        self._path.unlink()

    def _to_file(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._pending[0].schema)
        for batch in self._pending:
            self._writer.write_batch(batch)
        self._pending = []

    def _close(self) -> None:
        if self._writer is not None and self._file is not None:
            self._writer.close()
            self._file.close()


def both_passing(
    senders: tuple[Sent, Sent], folder: Path, memory_mb: int, cancel: Callable[[], None]
) -> tuple[Passing, Passing]:
    """All rows of both sides; see `both_read`."""
    sides = Passing(folder / "origin.arrows", memory_mb), Passing(folder / "destination.arrows", memory_mb)
    both_read(senders, (sides[0].add, sides[1].add), cancel)
    return sides


def narrowed(sides: tuple[Passing, Passing], folder: Path, memory_mb: int) -> tuple[Kept, Kept]:
    """The rows that may differ."""
    apart = sides[0].totals.apart(sides[1].totals)
    readers = (lambda: sides[0].within(apart)), (lambda: sides[1].within(apart))
    return both_kept(readers, folder, KEY, memory_mb, lambda: None)  # files let nobody wait
