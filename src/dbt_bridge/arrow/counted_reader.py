"""A reader of batches for somebody else's writer, which converts and counts them and remembers what failed.

A writer in another language (DuckDB, delta-rs) says only that reading failed; the cause is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from dbt_bridge.system.owned_reader import make_reader

Convert = Callable[[pa.RecordBatch], pa.RecordBatch]


class CountedReader:
    """Converts batches, and counts those that were read so far.

    Attributes:
        schema: of the converted batches.
        rows, bytes: bytes in Arrow's memory format, before conversion.
        failure: what reading or converting raised; None as long as nothing did.
    """

    def __init__(self, batches: pa.RecordBatchReader, schema: pa.Schema, convert: Convert) -> None:
        self.rows = 0
        self.bytes = 0
        self.failure: BaseException | None = None
        self._batches = batches
        self.schema = schema
        self._convert = convert

    def reader(self) -> pa.RecordBatchReader:
        return make_reader(self.schema, self._count_batches(), self._batches)

    def _count_batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                self.rows += batch.num_rows
                self.bytes += batch.nbytes
                yield self._convert(batch)
        except BaseException as failure:
            self.failure = failure
            raise
