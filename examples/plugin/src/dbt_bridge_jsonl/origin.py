"""A folder of JSON lines as an origin: the methods of `dbt_bridge.contracts.origin.Origin`.

A folder has no snapshots. Each table is looked at once, and whoever writes it before it is read to its end makes the
reading fail: what lands is a table of one moment, but two tables may be of two.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.origin import Described, Increment
from dbt_bridge.errors import OriginError, UsageError
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.stored_values import Keys
from dbt_bridge_jsonl.column_types import REFUSALS
from dbt_bridge_jsonl.cursor import format_value, is_cursor, parse_value, subtract_lag
from dbt_bridge_jsonl.table_file import (
    ROWS_SUFFIX,
    SCHEMA_SUFFIX,
    TableFile,
    count_rows,
    find_table_file,
    folder_of,
    read_batches,
)


class JsonlOrigin:
    """The tables of one folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._files: dict[TableName, TableFile] = {}
        self._looking = threading.Lock()
        self._closed = False

    def tables(self, schema: str | None) -> list[TableName]:
        """See `Origin.tables`."""
        folder = folder_of(self._folder, schema or "")
        if not folder.is_dir():
            raise OriginError(
                f"the origin {self.name!r} has no folder {folder}",
                mend="correct its credentials, or `schema:` in the bridge block",
            )
        files = [path.name for path in folder.iterdir() if path.is_file()]
        stems = {name.removesuffix(end) for name in files for end in (SCHEMA_SUFFIX, ROWS_SUFFIX) if name.endswith(end)}
        return [TableName(schema or "", stem) for stem in sorted(stems) if "." not in stem]

    def describe(self, name: TableName) -> Described:
        """See `Origin.describe`."""
        file = self._find(name)
        return Described(file.table, bytes=file.stamp[1])

    def rows(
        self, name: TableName, columns: Sequence[Column], increment: Increment | None = None, *, workers: int = 1
    ) -> pa.RecordBatchReader:
        """See `Origin.rows`. One worker reads; ordered rows are sorted in memory."""
        schema = _schema_of(columns)
        return pa.RecordBatchReader.from_batches(schema, self._stream_rows(name, columns, increment))

    def rows_of(self, name: TableName, columns: Sequence[Column], keys: pa.Table) -> pa.RecordBatchReader:
        """See `Origin.rows_of`. All rows are read for it: a file has no index."""
        return pa.RecordBatchReader.from_batches(_schema_of(columns), self._stream_rows_of(name, columns, keys))

    def count(self, name: TableName) -> int:
        """See `Origin.count`."""
        return count_rows(self._find(name))

    def lower_bound(self, name: TableName, increment: Increment) -> str | None:
        """See `Origin.lower_bound`."""
        if increment.at_least is None:
            return None
        column = self._cursor(name, increment.cursor)
        try:
            return subtract_lag(column, increment.at_least, increment.lag)
        except REFUSALS as error:
            raise UsageError(
                f"{name}: the checkpoint {increment.at_least!r} is no value of the cursor {column.name!r}",
                mend="dbt-bridge sync --full-refresh",
            ) from error

    def newest(self, name: TableName, cursor: str) -> str | None:
        """See `Origin.newest`."""
        column, found = self._cursor(name, cursor), []
        for batch in self._read(name, [column]):
            if batch.column(0).null_count:
                raise UsageError(
                    f"{name}, column {cursor!r}: a cursor with NULLs would leave those rows behind",
                    mend="choose a cursor that every row has, or `replication: initial_copy`",
                )
            found.append(pc.max(batch.column(0)).as_py())
        return format_value(pa.scalar(max(found), column.type)) if found else None

    def close(self) -> None:
        """End what is being read by other threads."""
        self._closed = True

    def __enter__(self) -> JsonlOrigin:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _find(self, name: TableName) -> TableFile:
        with self._looking:
            if name not in self._files:
                found = find_table_file(self._folder, name)
                if found is None:
                    raise OriginError(
                        f"the origin {self.name!r} has no file {folder_of(self._folder, name.schema) / name.name}"
                        f"{ROWS_SUFFIX}",
                        mend="correct the name in the dbt YAML",
                    )
                self._files[name] = found
            return self._files[name]

    def _cursor(self, name: TableName, cursor: str) -> Column:
        table = self._find(name).table
        column = table.column(cursor)
        if column is None or not is_cursor(column.type):
            raise UsageError(
                f"{name} has no column {cursor!r} that is a number, a date or a timestamp, as a cursor must be",
                mend="choose another cursor, or `replication: initial_copy`",
            )
        return column

    def _read(self, name: TableName, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        for batch in read_batches(self._find(name), columns):
            if self._closed:
                raise OriginError(f"the origin {self.name!r} was closed while it was read", mend="run it again")
            yield batch

    def _stream_rows(
        self, name: TableName, columns: Sequence[Column], increment: Increment | None
    ) -> Iterator[pa.RecordBatch]:
        if increment is None:
            yield from self._read(name, columns)
            return
        cursor, bound = self._cursor(name, increment.cursor), self.lower_bound(name, increment)
        batches = self._read(name, [*columns, cursor])
        if bound is not None:
            least = parse_value(cursor, bound)
            batches = (batch.filter(pc.greater_equal(batch.column(len(columns)), least)) for batch in batches)
        if increment.ordered:
            batches = _sort(batches, _schema_of([*columns, cursor]))
        for batch in batches:
            yield batch.select(list(range(len(columns))))

    def _stream_rows_of(self, name: TableName, columns: Sequence[Column], keys: pa.Table) -> Iterator[pa.RecordBatch]:
        if not keys.num_rows:
            return
        wanted = Keys(keys)
        found = [Column(field.name, field.type) for field in keys.schema]
        for batch in self._read(name, [*columns, *found]):
            place = pa.array(range(batch.num_rows), pa.int64())
            candidates = pa.RecordBatch.from_arrays(
                [*batch.columns[len(columns) :], place], names=[*keys.column_names, "row of this batch"]
            )
            rows = wanted.filter(candidates).columns[-1]
            yield batch.select(list(range(len(columns)))).take(rows)


def _schema_of(columns: Sequence[Column]) -> pa.Schema:
    return pa.schema([pa.field(c.name, c.type, c.nullable) for c in columns])


def _sort(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """By the last column; rows of one value stay in their order."""
    table = pa.Table.from_batches(batches, schema)
    yield from table.take(pc.sort_indices(table.columns[-1])).to_batches()
