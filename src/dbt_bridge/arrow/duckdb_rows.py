"""Rows leave a DuckDB as a stream of Arrow batches, in 1.5 as in 2, and Ctrl-C ends the query that they come from.

A batch is bound by bytes: 50,000 JSON documents of 10 KB are 500 MB, and several batches are on their way at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from dbt_bridge.errors import is_interruption
from dbt_bridge.system.owned_reader import make_reader

_VECTOR = 2048  # rows that DuckDB handles at once
_MOST_ROWS, _MOST_BYTES = 50_000, 8 << 20
# DuckDB reads ahead until so much waits, but does not count what long values take (1.5.5): with its own 1 MB it held
# 25 vectors of JSON documents of 10 KB, 500 MB.
_READ_AHEAD = "SET SESSION streaming_buffer_size = '64KB'"


def stream_query(cur: Any, query: str, vector_bytes: int = 0) -> pa.RecordBatchReader:
    """A query's rows, on a connection or cursor that runs no other statement before the last one is read.

    Args:
        vector_bytes: see `stream_relation`.
    """
    with interruptible(cur):
        cur.execute(_READ_AHEAD)
        return stream_relation(cur.sql(query), vector_bytes)


def stream_relation(relation: Any, vector_bytes: int = 0) -> pa.RecordBatchReader:
    """A DuckDB relation's rows, in batches of at most some bytes however wide they are.

    DuckDB is asked for few rows at a time, as all that it has of them is known only then; small batches are put
    together. That costs a copy: 0.1 s of CPU time for a million rows of 17 columns.

    Args:
        vector_bytes: what 2048 of the rows may have, where it is known: of large ones fewer are taken at a time.
    """
    rows = max(1, _VECTOR * _MOST_BYTES // max(vector_bytes, _MOST_BYTES))
    # DuckDB 1.5 renamed the method, and 2 dropped the old name.
    stream = relation.to_arrow_reader if hasattr(relation, "to_arrow_reader") else relation.fetch_record_batch
    source = stream(rows)
    return make_reader(source.schema, _put_together(source), source)


def _put_together(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if waiting and (rows + batch.num_rows > _MOST_ROWS or size + batch.nbytes > _MOST_BYTES):
            yield _concatenate(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if waiting:
        yield _concatenate(waiting)


def _concatenate(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


@contextmanager
def interruptible(cur: Any) -> Iterator[None]:
    """A query that Ctrl-C breaks off ends: DuckDB 1.5.5 would go on with it, and whoever closes would wait for it."""
    try:
        yield
    except BaseException as error:
        if is_interruption(error):
            cur.interrupt()
        raise
