"""What passes in a hop is told to the progress."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from dbt_bridge.observe.progress import Progress


def watched(batches: pa.RecordBatchReader, node: str, progress: Progress) -> pa.RecordBatchReader:
    """The same batches, told to the progress as they pass."""

    def passing() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                progress.advanced(node, batch.num_rows, batch.nbytes)
                yield batch
        finally:
            batches.close()

    return pa.RecordBatchReader.from_batches(batches.schema, passing())


def watched_bytes(stream: Iterator[bytes], node: str, progress: Progress) -> Iterator[bytes]:
    """The same chunks of a COPY, whose rows nobody counts as they pass."""
    for chunk in stream:
        progress.advanced(node, 0, len(chunk))
        yield chunk
