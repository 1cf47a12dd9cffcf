"""Batches on their way to a writer that somebody else wrote: converted, counted, and their own failure remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

Convert = Callable[[pa.RecordBatch], pa.RecordBatch]


class Passing:
    """Rows and bytes of what has passed.

    Attributes:
        bytes: size of the rows in Arrow's memory format, before conversion.
        failure: what reading or converting raised; a writer in another language tells only that reading failed.
    """

    def __init__(self, batches: pa.RecordBatchReader, schema: pa.Schema, convert: Convert) -> None:
        self.rows = 0
        self.bytes = 0
        self.failure: BaseException | None = None
        self._batches = batches
        self._schema = schema
        self._convert = convert

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._passing())

    def _passing(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                self.rows += batch.num_rows
                self.bytes += batch.nbytes
                yield self._convert(batch)
        except BaseException as failure:
            self.failure = failure
            raise
