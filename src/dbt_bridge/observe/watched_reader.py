"""Rows that pass on their way from one database to another are reported to the progress."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from dbt_bridge.observe.progress import Progress
from dbt_bridge.system.owned_reader import close_reader, make_reader


def report_batches(batches: pa.RecordBatchReader, node: str, progress: Progress) -> pa.RecordBatchReader:
    """The same batches; each one's rows and bytes are reported when it is read."""

    def reported() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                progress.advanced(node, batch.num_rows, batch.nbytes)
                yield batch
        finally:
            close_reader(batches)

    return make_reader(batches.schema, reported(), batches)


def report_chunks(chunks: Iterator[bytes], node: str, progress: Progress) -> Iterator[bytes]:
    """The same chunks of a COPY. Only bytes are reported: nobody counts the rows in them."""
    for chunk in chunks:
        progress.advanced(node, 0, len(chunk))
        yield chunk
