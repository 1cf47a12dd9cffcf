"""Batches of rows by their bytes: a batch that is counted in rows alone has 500 MB where its rows are long."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa


def cut_batch(batch: pa.RecordBatch, most_bytes: int) -> Iterator[pa.RecordBatch]:
    """A batch in slices of about so many bytes at most; nothing is copied."""
    pieces = 1 + batch.nbytes // most_bytes
    rows = max(1, -(-batch.num_rows // pieces))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def group_batches(batches: Iterator[pa.RecordBatch], most_rows: int, most_bytes: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches that go on together: a group ends with so many rows or bytes. None is empty."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for whole in batches:
        for batch in cut_batch(whole, most_bytes):
            group.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= most_rows or size >= most_bytes:
                yield group
                group, rows, size = [], 0, 0
    if group:
        yield group
