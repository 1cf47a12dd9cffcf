"""Rows leave a DuckDB as a stream of Arrow batches, in 1.5 as in 2, and Ctrl-C ends the query that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from dbt_bridge.errors import is_interruption

ROWS_PER_BATCH = 50_000


def stream_query(cur: Any, query: str) -> pa.RecordBatchReader:
    """A query's rows, on a connection or cursor that runs no other statement before the last one is read."""
    with interruptible(cur):
        return stream_relation(cur.sql(query))


def stream_relation(relation: Any) -> pa.RecordBatchReader:
    """A DuckDB relation's rows. DuckDB 1.5 renamed the method, and 2 dropped the old name."""
    if hasattr(relation, "to_arrow_reader"):
        return relation.to_arrow_reader(ROWS_PER_BATCH)
    return relation.fetch_record_batch(ROWS_PER_BATCH)


@contextmanager
def interruptible(cur: Any) -> Iterator[None]:
    """A query that Ctrl-C breaks off ends: DuckDB 1.5.5 would go on with it, and whoever closes would wait for it."""
    try:
        yield
    except BaseException as error:
        if is_interruption(error):
            cur.interrupt()
        raise
