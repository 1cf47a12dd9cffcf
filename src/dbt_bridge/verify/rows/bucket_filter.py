"""Of all rows that stream by, those that may differ: the ones in buckets whose totals differ.

A bucket with the same total has the same rows on both sides, as in the method `buckets`. All rows lie in a file in the
order in which they came until the totals are known, and the file is not read where no totals differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.nouns.both import ENDS, Both
from dbt_bridge.verify.rows.buckets import BucketTotals
from dbt_bridge.verify.rows.match import Stream, partition_both, read_both
from dbt_bridge.verify.rows.partitions import Partitions, bytes_in_memory, copy_batch
from dbt_bridge.verify.rows.sender import KEY
from dbt_bridge.verify.rows.workspace import Workspace

_BUCKETS = 1 << 20  # 50,000 differences leave 95% of all other rows in buckets without any; 8 MB a side


class RowBuffer:
    """The rows of one side in the order in which they came: in memory while they are few, then in one file.

    Used by one thread at a time.

    Attributes:
        rows: how many came.
        totals: of their buckets.
    """

    def __init__(self, file: Path, most_bytes: int) -> None:
        self.rows = 0
        self.totals = BucketTotals(_BUCKETS)
        self._path = file
        self._most_bytes = most_bytes
        self._bytes = 0
        self._pending: list[pa.RecordBatch] = []
        self._file: pa.OSFile | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        self.totals.add(batch)
        self.rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._writer is not None:
            self._writer.write_batch(batch)
            return
        self._pending.append(copy_batch(batch))
        if self._bytes > self._most_bytes:
            self._move_to_file()

    def stream_buckets(self, wanted: NDArray[np.bool_]) -> Iterator[pa.RecordBatch]:
        """The rows of the wanted buckets; once, and no row can be added any more."""
        last = np.int64(len(wanted) - 1)
        for batch in self._stream() if wanted.any() else ():
            rows = batch.filter(pa.array(wanted[batch.column(KEY).to_numpy() & last]))
            if rows.num_rows:
                yield rows

    def _stream(self) -> Iterator[pa.RecordBatch]:
        if self._writer is None:
            yield from self._pending
            return
        self._close()
        with pa.OSFile(str(self._path), "rb") as file, pa.ipc.open_stream(file) as reader:
            yield from reader
        self._path.unlink()

    def _move_to_file(self) -> None:
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


def buffer_both(streams: Both[Stream], workspace: Workspace, cancel: Callable[[], None]) -> Both[RowBuffer]:
    """All rows of both sides; see `read_both`."""
    most_bytes = bytes_in_memory(workspace.memory_mb)
    buffers = ENDS.map(lambda end: RowBuffer(workspace.folder / f"{end}.arrows", most_bytes))
    read_both(streams, buffers.map(lambda buffer: buffer.add), cancel)
    return buffers


def partition_different(buffers: Both[RowBuffer], workspace: Workspace) -> Both[Partitions]:
    """The rows of buckets whose totals differ."""
    different = buffers.origin.totals.differ_from(buffers.destination.totals)
    streams: Both[Stream] = buffers.map(lambda buffer: lambda: buffer.stream_buckets(different))
    return partition_both(streams, workspace, KEY, lambda: None)  # nobody waits for files
