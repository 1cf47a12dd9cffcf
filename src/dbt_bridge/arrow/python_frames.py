"""Whatever a Python model holds becomes named streams of Arrow batches.

Arrow data, data frames and readers stream as they are. Python rows (dicts, pages of dicts, dlt resources) have no
schema until the last one was seen: they are spooled to a temporary file in Arrow's format, and the columns and types
of all of them decide the schema before the first row reaches a destination.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

import pyarrow as pa

from dbt_bridge.arrow import python_rows
from dbt_bridge.arrow.endless import end_repetitions
from dbt_bridge.errors import TypeRefused, UsageError
from dbt_bridge.system.owned_reader import make_reader

ROWS_PER_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows of one table, to be read once.

    Attributes:
        name: the table's own name (a dlt resource's); None where it has none.
        batches: the rows. A schema without columns means that there were neither rows nor names of columns.
        incremental: a dlt resource with an incremental cursor, whose state only a dlt pipeline would keep.
        again: opens the same rows from their beginning; None where they can be read once only (an Arrow stream).
        close: of what is kept for that.
    """

    name: str | None
    batches: pa.RecordBatchReader
    incremental: bool = False
    again: Callable[[], pa.RecordBatchReader] | None = None
    close: Callable[[], None] = lambda: None

    def reopen(self) -> Frame | None:
        """The same rows from their beginning; None where they can be read once only."""
        return None if self.again is None else replace(self, batches=self.again())


def to_frames(data: Any, where: str) -> list[Frame]:
    """The tables in `data`: one, except for a dlt source of several resources.

    Args:
        data: Arrow Table, RecordBatch or RecordBatchReader, pandas or polars frame, anything with
            `__arrow_c_stream__`, dict, list of dicts, iterator of dicts, of pages or of frames, dlt resource or source.
        where: the table's name, for messages.

    Raises:
        UsageError: `data` is none of these.
        TypeRefused: no type keeps all values of a column.
    """
    if _is_dlt(data, "DltSource"):
        return [_make_frame(resource) for resource in data.selected_resources.values()]
    if _is_dlt(data, "DltResource"):
        return [_make_frame(data)]
    return [_open(data, where)]


def _open(data: Any, where: str) -> Frame:
    reader = _find_reader(data)
    if reader is not None:
        is_kept = isinstance(data, pa.Table | pa.RecordBatch) or type(data).__name__ in ("DataFrame", "LazyFrame")
        return Frame(None, reader, again=(lambda: _find_reader(data)) if is_kept else None)
    if isinstance(data, Mapping):
        data = [data]
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        if callable(data):
            return _open(data(), where)
        raise UsageError(
            f"{where}: cannot read rows from a {type(data).__name__}",
            mend="pass rows, pages of rows, a data frame, Arrow data, a DuckDB relation or a dlt resource",
        )
    return _spool(_read_chunks(data, where), where)


def _make_frame(resource: Any) -> Frame:
    # Set by an `incremental` hint or argument; its cursor is not bound before the first row is asked for.
    incremental = getattr(resource, "incremental", None) is not None
    return replace(_open(iter(resource), resource.name), name=resource.name, incremental=incremental)


def _is_dlt(data: Any, class_name: str) -> bool:
    """Whether this is dlt's source or resource, without importing dlt for those who do not use it."""
    return any(c.__name__ == class_name and c.__module__.startswith("dlt.") for c in type(data).__mro__)


def _find_reader(data: Any) -> pa.RecordBatchReader | None:
    """Data that knows its schema, as a stream; None for anything else."""
    if isinstance(data, pa.RecordBatchReader):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.RecordBatchReader.from_batches(data.schema, [data])
    if isinstance(data, pa.Table):
        return data.to_reader(max_chunksize=100_000)
    package = type(data).__module__.split(".")[0]
    if package == "pandas" and type(data).__name__ == "DataFrame":
        return _read_pandas(data)
    if package == "polars" and type(data).__name__ == "LazyFrame":
        data = data.collect()
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    return None


def _read_pandas(data: Any) -> pa.RecordBatchReader:
    """pandas' own columns as Arrow; columns of Python objects by the rules of python_rows.py."""
    arrays = []
    for position, name in enumerate(data.columns):
        series = data.iloc[:, position]
        if series.dtype == object:
            values = [None if _is_missing(v) else v for v in series]
            arrays.append(python_rows.make_array(values, str(name), "data frame"))
        else:
            made = pa.Array.from_pandas(series)
            if str(getattr(made.type, "extension_name", "")).startswith("pandas."):
                raise TypeRefused(
                    f"data frame: column {str(name)!r} is {series.dtype}, which only pandas knows",
                    mend=f"df[{str(name)!r}] = df[{str(name)!r}].astype(str)",
                )
            arrays.append(made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made)
    table = pa.Table.from_arrays(arrays, names=[str(name) for name in data.columns])
    return table.to_reader(max_chunksize=100_000)


def _is_missing(value: Any) -> bool:
    """Whether pandas takes a value in a column of objects for a missing one: None, NaN, NaT, NA."""
    if value is None or python_rows.is_missing_mark(type(value)):
        return True
    return isinstance(value, float) and math.isnan(value)


def _read_chunks(data: Iterable[Any], where: str) -> Iterator[pa.RecordBatch]:
    """Rows, pages of rows and frames, in their order, as batches that each have a schema of their own."""
    pending: list[Mapping[str, Any]] = []
    for item in end_repetitions(data, where) if hasattr(data, "__next__") else data:
        if isinstance(item, Mapping):
            pending.append(item)
        elif (reader := _find_reader(item)) is not None:
            if pending:
                yield python_rows.make_batch(pending, where)
                pending = []
            yield from _keep_schema(reader)
        elif isinstance(item, list | tuple) or hasattr(item, "__next__"):
            pending.extend(item)
        else:
            pending.append(item)  # `python_rows.make_batch` refuses it, with the name of its type
        while len(pending) >= ROWS_PER_BATCH:
            yield python_rows.make_batch(pending[:ROWS_PER_BATCH], where)
            pending = pending[ROWS_PER_BATCH:]
    if pending:
        yield python_rows.make_batch(pending, where)


def _keep_schema(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches, or one without rows, so that the columns of an empty frame are not lost."""
    seen = False
    for batch in reader:
        seen = True
        yield batch
    if not seen:
        yield pa.RecordBatch.from_pylist([], schema=reader.schema)


def _spool(chunks: Iterator[pa.RecordBatch], where: str) -> Frame:
    """Read all chunks to their end, and stream them again, as often as it is asked, under the one schema of them."""
    first = next(chunks, None)
    if first is None:
        return Frame(None, pa.table({}).to_reader(), again=pa.table({}).to_reader)
    second = next(chunks, None)
    if second is None:
        schema = python_rows.unify_schemas([first.schema], where)
        only = python_rows.fit_batch(first, schema, where)

        def open_only() -> pa.RecordBatchReader:
            return pa.RecordBatchReader.from_batches(schema, [only])

        return Frame(None, open_only(), again=open_only)
    spool: IO[bytes] = tempfile.TemporaryFile(prefix="dbt-bridge-")  # noqa: SIM115 - closed by `Frame.close`
    try:
        schema, seen = first.schema, [first.schema]
        for chunk in itertools.chain((first, second), chunks):
            schema = python_rows.unify_schemas([schema, chunk.schema], where)
            if not any(chunk.schema.equals(other, check_metadata=True) for other in seen):
                seen.append(chunk.schema)
            with pa.ipc.new_stream(spool, chunk.schema) as writer:
                writer.write_batch(chunk)
        python_rows.refuse_nan_among_others(seen, where)
    except BaseException:
        spool.close()
        raise

    def open_spool() -> pa.RecordBatchReader:
        return make_reader(schema, _replay(spool, schema, where))

    return Frame(None, open_spool(), again=open_spool, close=spool.close)


def _replay(spool: IO[bytes], schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
    spool.seek(0)
    while spool.read(1):
        spool.seek(-1, 1)
        for batch in pa.ipc.open_stream(spool):
            yield python_rows.fit_batch(batch, schema, where)


def cast_reader(
    reader: pa.RecordBatchReader, type_of: Callable[[pa.Field], pa.DataType], where: str
) -> pa.RecordBatchReader:
    """The same rows with the types that a destination asks for, cast without loss.

    Raises (while it is read):
        TypeRefused: a value does not survive the cast.
    """
    schema = pa.schema([pa.field(f.name, type_of(f), f.nullable) for f in reader.schema])
    if schema.equals(reader.schema):
        return reader
    casts = (python_rows.fit_batch(batch, schema, where) for batch in reader)
    return make_reader(schema, casts, reader)
