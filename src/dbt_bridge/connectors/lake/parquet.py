"""Parquet files in a folder per table, local or in an object store: one load is one file.

    replace   the new file appears, then the files of before go
    append    the new file appears beside the others

A file is written under a name that begins with a dot, which readers of Parquet folders pass over, and takes its own
name (a rename, atomic on a local filesystem) once it is complete. In an object store, where an upload appears only
when it is complete, it has its own name at once. Between a replace's two steps a reader sees old and new rows: a
folder of files has no transactions. Delta tables do; `table_format = "delta"` is the default for that reason.

A load that was killed leaves a hidden file, which the next load removes, or, between the two steps of a replace, the
files of before beside the new one: running the replace again removes both.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from dbt_bridge.arrow.batch_sizes import group_batches
from dbt_bridge.arrow.counted_reader import CountedReader
from dbt_bridge.arrow.file_types import build_schema, cast_batch, map_column
from dbt_bridge.connectors.lake.location import Lake, lake_of
from dbt_bridge.connectors.lake.state import DatasetState
from dbt_bridge.contracts.destination import Load, Loaded
from dbt_bridge.contracts.outgoing import CREATED, Outgoing
from dbt_bridge.errors import BridgeError, DestinationError, UsageError, scrubbed
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.fit_standing import cast_standing, describe_evolution, fit_evolving, fit_standing, pad_columns
from dbt_bridge.replicate.loads import check_load

_ROWS_PER_GROUP, _BYTES_PER_GROUP = 122_880, 64 << 20
_LOADED = re.compile(r"\d{8}T\d{12}-[0-9a-f]{6}-[0-9a-f]{8}(-[0-9a-f]{32})?\.parquet")


class ParquetDestination:
    """A `Destination` of Parquet files below one folder or bucket.

    Args:
        filesystem: an fsspec filesystem that can reach the lake.
    """

    def __init__(self, name: str, lake: Lake, filesystem: Any) -> None:
        self.name = name
        self._lake = lake
        self._files = filesystem

    @classmethod
    def of(cls, name: str, configuration: Any) -> ParquetDestination:
        """From the configuration of dlt's filesystem destination."""
        from dlt.common.storages.fsspec_filesystem import fsspec_from_config

        filesystem, _ = fsspec_from_config(configuration)
        return cls(name, lake_of(configuration), filesystem)

    def close(self) -> None:
        """Nothing is held open between loads."""

    def map_column(self, column: Column) -> Column:
        """See `arrow/file_types.py`."""
        return map_column(column)

    def find_table(self, name: TableName) -> Table | None:
        """The table that the newest file has."""
        import pyarrow.parquet as pq

        files = self._list_files(name)
        if not files:
            return None
        with self._translate_errors(name), self._files.open(files[-1], "rb") as file:
            return Table.of_schema(name, pq.read_schema(file))

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Write one file; see the module for what a reader sees when.

        Raises:
            UsageError: merge, or an append with a window: files cannot give up single rows.
            TypeRefused: a value or a changed type cannot be kept; no file appears.
            DestinationError: the store refused or broke off; no file appears.
        """
        passing = self._passing(load, batches)
        name = load.table.name
        changes = self._changes(load, passing)
        before = self._list_files(name)
        deleted = self._rows(name, before) if load.write_disposition == "replace" else 0
        self._remove_hidden(name)
        self._write(name, f"{load.load_id}-{_suffix(load)}.parquet", passing)
        if load.write_disposition == "replace" and before:
            with self._translate_errors(name):
                self._files.rm(before)
        return Loaded(passing.rows, passing.rows, 0, deleted, passing.bytes, changes)

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        passing = self._passing(load, batches)
        for _ in passing.reader():
            pass
        name = load.table.name
        deleted = self._rows(name, self._list_files(name)) if load.write_disposition == "replace" else 0
        return Loaded(passing.rows, passing.rows, 0, deleted, passing.bytes, self._changes(load, passing))

    def has_arrived(self, name: TableName, delivery: Outgoing) -> bool:
        """See `RemembersAppends`."""
        own = [path for path in self._list_files(name) if f"-{_digits(delivery)}-" in path.rsplit("/", 1)[-1]]
        return bool(own and delivery.token and own[-1].endswith(f"-{delivery.token}.parquet"))

    @contextmanager
    def open_state(self) -> Iterator[DatasetState]:
        """The files that are complete when their table is asked for first.

        A folder of files has no state: one that a load replaces while it is read ends the reading with an error.
        """
        yield DatasetState(self._dataset)

    # --- inside ------------------------------------------------------------------------------------------------

    def _passing(self, load: Load, batches: pa.RecordBatchReader) -> CountedReader:
        check_load(load)
        if load.keeps_last or load.window is not None:
            what = "a merge" if load.keeps_last else "an incremental append"
            raise UsageError(
                f"{what} must change single rows, and Parquet files cannot: {load.table.name}",
                mend='write table_format = "delta" in the destination\'s settings, or write_disposition: replace',
            )
        schema = build_schema(load.table)
        there = self.find_table(load.table.name)

        def cast(batch: pa.RecordBatch) -> pa.RecordBatch:
            return cast_batch(batch, load.table, schema)

        if there is None:
            return CountedReader(batches, schema, cast)
        if load.delivery is not None and not load.delivery.evolve and not self._is_ours(load.table.name):
            incoming = schema
            schema = fit_standing(there.arrow_schema, incoming, load)
            standing = cast_standing(load, incoming, schema, cast)
            whole = there.arrow_schema
            return CountedReader(batches, whole, lambda batch: pad_columns(standing(batch), whole))
        if load.write_disposition == "append":
            schema = fit_evolving(there.arrow_schema, schema, load)
        return CountedReader(batches, schema, cast)

    def _is_ours(self, name: TableName) -> bool:
        """Whether every file has a name that a load gave it."""
        names = (path.rsplit("/", 1)[-1] for path in self._list_files(name))
        return all(_LOADED.fullmatch(file) for file in names)

    def _changes(self, load: Load, passing: CountedReader) -> tuple[str, ...]:
        """What a delivery does to the table itself."""
        if load.delivery is None:
            return ()
        there = self.find_table(load.table.name)
        return (CREATED,) if there is None else describe_evolution(there.arrow_schema, passing.schema)

    def _dataset(self, name: TableName) -> Any:
        """A dataset of pyarrow's. The newest file has every column; earlier ones have NULL in those that came later."""
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        paths = self._list_files(name)
        if not paths:
            return None
        with self._files.open(paths[-1], "rb") as file:
            schema = pq.read_schema(file)
        return ds.dataset(paths, schema=schema, format="parquet", filesystem=self._files)

    def _folder(self, name: TableName) -> str:
        return str(self._files._strip_protocol(self._lake.folder(name)))

    def _list_files(self, name: TableName) -> list[str]:
        """The complete files, oldest load first: a load id sorts by time."""
        return [path for path in self._all(name) if not path.rsplit("/", 1)[-1].startswith(".")]

    def _all(self, name: TableName) -> list[str]:
        folder = self._folder(name)
        with self._translate_errors(name):
            self._files.invalidate_cache()
            if not self._files.exists(folder):
                return []
            return sorted(path for path in self._files.ls(folder, detail=False) if path.endswith(".parquet"))

    def _remove_hidden(self, name: TableName) -> None:
        """What killed loads have left; a hidden file of any other name is somebody else's."""
        named = ((path, path.rsplit("/", 1)[-1]) for path in self._all(name))
        left = [path for path, file in named if file.startswith(".") and _LOADED.fullmatch(file[1:])]
        with self._translate_errors(name):
            for path in left:
                self._files.rm(path)

    def _rows(self, name: TableName, files: list[str]) -> int:
        import pyarrow.parquet as pq

        rows = 0
        for path in files:
            with self._translate_errors(name), self._files.open(path, "rb") as file:
                rows += pq.read_metadata(file).num_rows
        return rows

    def _write(self, name: TableName, file: str, passing: CountedReader) -> None:
        import pyarrow.parquet as pq

        folder = self._folder(name)
        hidden = f"{folder}/.{file}" if self._lake.is_local else f"{folder}/{file}"
        with self._translate_errors(name, passing):
            self._files.makedirs(folder, exist_ok=True)
            reader = passing.reader()
            out = self._files.open(hidden, "wb")
            try:
                with pq.ParquetWriter(out, reader.schema, compression="zstd") as writer:
                    for group in _groups(reader):
                        writer.write_table(group, row_group_size=_ROWS_PER_GROUP)
                out.close()
            except BaseException:
                self._abandon(out, hidden)
                raise
            if self._lake.is_local:
                self._files.mv(hidden, f"{folder}/{file}")

    def _abandon(self, out: Any, path: str) -> None:
        """Leave no part of a file: an upload that is not closed never appears."""
        if self._lake.is_local:
            out.close()
            self._files.rm(path)
        elif hasattr(out, "discard"):
            out.discard()
            out.closed = True  # fsspec closes, and so uploads, what is collected open

    def _translate_errors(self, name: TableName, passing: CountedReader | None = None) -> _TranslatedErrors:
        return _TranslatedErrors(name, passing)


def _suffix(load: Load) -> str:
    """What ends a file's name: of an append that is remembered, its exposure's digits and its token."""
    if load.delivery is None or not load.delivery.token:
        return uuid.uuid4().hex[:8]
    return f"{_digits(load.delivery)}-{load.delivery.token}"


def _digits(delivery: Outgoing) -> str:
    return hashlib.sha256(f"{delivery.node}\0{delivery.relation}".encode()).hexdigest()[:8]


def _groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The batches of a driver are small; a row group should not be. Who reads one holds all of it."""
    for group in group_batches(reader, _ROWS_PER_GROUP, _BYTES_PER_GROUP):
        yield pa.Table.from_batches(group, reader.schema)


class _TranslatedErrors:
    """Errors of the store, told as DestinationError."""

    def __init__(self, name: TableName, passing: CountedReader | None) -> None:
        self._name = name
        self._passing = passing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, BridgeError):
            return
        if self._passing is not None and self._passing.failure is not None:
            raise self._passing.failure from None
        text = scrubbed(str(error)).strip() or type(error).__name__
        raise DestinationError(
            f"the Parquet files of {self._name} were not written: {text}",
            mend="check the space, the rights and the credentials at the destination, then run the same command again",
        ) from error
