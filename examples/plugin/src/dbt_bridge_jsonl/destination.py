"""A folder of JSON lines as a destination: the methods of `dbt_bridge.contracts.destination.Destination`.

    replace   a new version of the table
    append    a version with the rows of before and the new ones, without those of a window that is brought again
    merge     a version with the rows of before whose key does not come, and the last new row of each key

A version is written beside the old one, and renaming its schema file over the old one is the one step that shows it
(table_file.py). A load that fails or is killed before leaves the table as it was; what it wrote is removed by the next
one. One load of a table at a time: a lock file holds the others off, and the system lets go of it with the process
(POSIX). A merge holds the table and the new rows in memory.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.counted_reader import CountedReader
from dbt_bridge.contracts.destination import Load, Loaded, State, Window
from dbt_bridge.errors import DestinationError, OriginError, TypeRefused, UsageError
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.loads import check_cursor, check_load, last_per_key, type_changed
from dbt_bridge_jsonl import column_types
from dbt_bridge_jsonl.column_types import REFUSALS, encode, find_name
from dbt_bridge_jsonl.cursor import parse_value
from dbt_bridge_jsonl.read import JsonlState
from dbt_bridge_jsonl.table_file import (
    ROWS_SUFFIX,
    SCHEMA_SUFFIX,
    TableFile,
    check_file_name,
    count_rows,
    find_table_file,
    folder_of,
    read_batches,
)

_ROW = "row of the table"


@dataclass(frozen=True, slots=True)
class _Version:
    """What a table becomes.

    Attributes:
        rows: all of them, to be read once.
        count: what became of the rows; true when they were read.
    """

    table: Table
    rows: Iterator[pa.RecordBatch]
    count: Callable[[], Loaded]


class JsonlDestination:
    """The tables of one folder; a schema is a folder within."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    def close(self) -> None:
        """Nothing is held open between loads."""

    def map_column(self, column: Column) -> Column:
        """See column_types.py."""
        return column_types.map_column(column)

    def find_table(self, name: TableName) -> Table | None:
        """The table as its schema file has it."""
        found = self._find(name)
        return found.table if found else None

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Write a version of the table, and show it.

        Raises:
            UsageError: the table's name cannot be a file's.
            KeyRefused: a merge without a key, or with NULL in it.
            TypeRefused: a value or a changed type cannot be kept.
            DestinationError: another load has the table, or the disk refused.
        """
        check_load(load)
        name, arriving = load.table.name, _open_arriving(load, batches)
        folder = folder_of(self._folder, name.schema)
        _check_siblings(folder, check_file_name(name.name))
        with _own_errors(name, arriving):
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder, name):
                old = self._find(name)
                _remove_leftovers(folder, name, old)
                version = _plan_version(load, old, arriving)
                _show(version, folder)
                _remove_leftovers(folder, name, self._find(name))
        return version.count()

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """What `load` would do."""
        check_load(load)
        name, arriving = load.table.name, _open_arriving(load, batches)
        with _own_errors(name, arriving):
            version = _plan_version(load, self._find(name), arriving)
            for batch in version.rows:
                _encode_rows(version.table, batch)
        return version.count()

    def open_state(self) -> AbstractContextManager[State]:
        """Each table as it is when it is asked for first; see read.py."""
        return JsonlState(self._find)

    def _find(self, name: TableName) -> TableFile | None:
        with _own_errors(name):
            return find_table_file(self._folder, name)


def _open_arriving(load: Load, batches: pa.RecordBatchReader) -> CountedReader:
    for column in load.table.columns:
        if find_name(column.type) is None:
            raise TypeRefused(
                f"{load.table.name}, column {column.name!r}: JSON lines keep no {column.type}",
                mend=f"types: {{{column.name}: text}}",
            )
    schema = load.table.arrow_schema
    return CountedReader(batches, schema, lambda batch: pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def _plan_version(load: Load, old: TableFile | None, arriving: CountedReader) -> _Version:
    if load.write_disposition == "merge" and old is not None:
        return _plan_merge(load, old, arriving)
    if load.write_disposition == "append" and old is not None:
        return _plan_append(load, old, arriving)
    rows = iter(arriving.reader())
    kept = None
    if load.keeps_last:
        kept = last_per_key(load, arriving.reader().read_all())
        rows = iter(kept.to_batches())
    deleted = count_rows(old) if old else 0

    def count() -> Loaded:
        return Loaded(arriving.rows, arriving.rows if kept is None else len(kept), 0, deleted, arriving.bytes)

    return _Version(load.table, rows, count)


def _plan_append(load: Load, old: TableFile, arriving: CountedReader) -> _Version:
    table = _join_tables(old.table, load.table)
    outside = _outside(load.window, old.table) if load.window else None
    before = {"read": 0, "kept": 0}

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in read_batches(old, old.table.columns):
            before["read"] += batch.num_rows
            kept = batch.filter(outside(batch)) if outside else batch
            before["kept"] += kept.num_rows
            yield kept
        yield from arriving.reader()

    def count() -> Loaded:
        return Loaded(arriving.rows, arriving.rows, 0, before["read"] - before["kept"], arriving.bytes)

    return _Version(table, rows(), count)


def _outside(window: Window, table: Table) -> Callable[[pa.RecordBatch], pa.Array]:
    """Which rows a window leaves as they are."""
    cursor = table.column(window.cursor)
    check_cursor(table.name, window.cursor, find_name(cursor.type) if cursor else None, ["text"])
    assert cursor is not None, "checked"
    try:
        least = parse_value(cursor, window.at_least)
    except REFUSALS as error:
        raise type_changed(table.name, cursor.name, str(cursor.type), f"the checkpoint {window.at_least!r}") from error
    return lambda batch: pc.fill_null(pc.less(batch.column(cursor.name), least), True)


def _plan_merge(load: Load, old: TableFile, arriving: CountedReader) -> _Version:
    table = _join_tables(old.table, load.table)
    key = list(load.table.key)
    if lacking := [column for column in key if old.table.column(column) is None]:
        raise DestinationError(
            f"{load.table.name} has no column {lacking[0]!r}, which is in the merge key",
            mend="load it once with write_disposition: replace",
        )
    new = last_per_key(load, arriving.reader().read_all())
    before = pa.Table.from_batches(read_batches(old, old.table.columns), old.table.arrow_schema)
    places = before.select(key).append_column(_ROW, pa.array(range(len(before)), pa.int64()))
    kept = places.join(new.select(key), key, join_type="left anti")[_ROW]
    updated = len(new.select(key).join(before.select(key), key, join_type="left semi"))
    rows = [*before.take(kept.take(pc.sort_indices(kept))).to_batches(), *new.to_batches()]
    deleted = len(before) - len(kept) - updated  # of several rows of before with one key
    return _Version(
        table, iter(rows), lambda: Loaded(arriving.rows, len(new) - updated, updated, deleted, arriving.bytes)
    )


def _join_tables(old: Table, new: Table) -> Table:
    """The table with columns that came later; rows of before have NULL in them.

    Raises:
        TypeRefused: a column has another type than before.
    """
    for column in new.columns:
        before = old.column(column.name)
        if before is not None and before.type != column.type:
            raise type_changed(new.name, column.name, str(before.type), str(column.type))
    return Table(new.name, (*old.columns, *(c for c in new.columns if old.column(c.name) is None)), new.key or old.key)


def _show(version: _Version, folder: Path) -> None:
    """Write the rows and the schema file, and rename that; on any error nothing of it is left."""
    name, number = version.table.name.name, uuid.uuid4().hex[:12]
    rows, schema = folder / f"{name}.{number}{ROWS_SUFFIX}", folder / f"{name}.{number}.new"
    columns = [{"name": c.name, "type": find_name(c.type)} for c in version.table.columns]
    try:
        lines = (_encode_rows(version.table, batch) for batch in version.rows)
        _write(rows, (line for batch in lines for line in batch))
        _write(schema, [{"columns": columns, "key": list(version.table.key), "rows": rows.name}])
        schema.replace(folder / f"{name}{SCHEMA_SUFFIX}")
    except BaseException:
        rows.unlink(missing_ok=True)
        schema.unlink(missing_ok=True)
        raise


def _write(path: Path, lines: Iterator[Mapping[str, object]] | list[Mapping[str, object]]) -> None:
    """On the disk when it returns."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _encode_rows(table: Table, batch: pa.RecordBatch) -> Iterator[Mapping[str, object]]:
    columns = []
    for column, array in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns.append(encode(array))
        except REFUSALS as error:
            raise TypeRefused(
                f"{table.name}, column {column!r} holds a value that JSON lines do not keep: {error}",
                mend=f"types: {{{column}: text}}, or a cast in the model",
            ) from error
    return (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))


def _check_siblings(folder: Path, name: str) -> None:
    """Some systems take names that differ in upper and lower case for one file."""
    for path in folder.glob(f"*{SCHEMA_SUFFIX}"):
        other = path.name.removesuffix(SCHEMA_SUFFIX)
        if other != name and other.casefold() == name.casefold():
            raise UsageError(
                f"{folder} has a table {other!r} already, and {name!r} may be the same file", mend="rename one"
            )


def _remove_leftovers(folder: Path, name: TableName, table: TableFile | None) -> None:
    """The files of versions that are not shown: the ones before, and those of loads that were killed."""
    versions = [*folder.glob(f"{name.name}.*{ROWS_SUFFIX}"), folder / f"{name.name}{ROWS_SUFFIX}"]
    for path in [*versions, *folder.glob(f"{name.name}.*.new")]:
        if table is None or path != table.rows:
            path.unlink(missing_ok=True)


@contextmanager
def _lock(folder: Path, name: TableName) -> Iterator[None]:
    with (folder / f".{name.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DestinationError(
                f"another load writes {name} in {folder}", mend="run the same command again when it is done"
            ) from None
        yield


@contextmanager
def _own_errors(name: TableName, arriving: CountedReader | None = None) -> Iterator[None]:
    """Errors of the disk, and of reading the table before, are the destination's; those of the new rows stay."""
    try:
        yield
    except (OriginError, OSError) as error:
        if arriving is not None and isinstance(arriving.failure, Exception):
            raise
        if isinstance(error, OriginError):
            raise DestinationError(error.what, mend=error.mend) from error
        raise DestinationError(
            f"{name} was not written: {error.strerror or error}",
            mend="check the space and the rights of the folder, then run the same command again",
        ) from error
