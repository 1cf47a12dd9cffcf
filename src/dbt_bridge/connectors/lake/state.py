"""Rows of files that pyarrow scans: Delta tables at a version, and Parquet files. Never a whole table is held."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.destination import DELETED_AT, Replica
from dbt_bridge.errors import BridgeError, DestinationError, is_interruption, scrubbed
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.change_log import LOG_COLUMNS
from dbt_bridge.replicate.log_state import fold_log
from dbt_bridge.replicate.replica_checks import recopy_command
from dbt_bridge.replicate.stored_values import (
    Keys,
    cast_columns,
    check_keys,
    missing_column,
)
from dbt_bridge.system.owned_reader import make_reader
from dbt_bridge.system.temporary_files import full

_BATCH_ROWS = 50_000


class DatasetState:
    """A `State` of tables that `dataset` opens, each as it is when it is asked for first.

    Args:
        dataset: None where there is no such table.
    """

    def __init__(self, dataset: Callable[[TableName], Any]) -> None:
        self._open = dataset
        self._held: dict[TableName, Any] = {}

    def count(self, replica: Replica) -> int:
        dataset = self._dataset(replica)
        with _translate_errors(replica.table.name):
            if replica.change_log:
                return sum(batch.num_rows for batch in _fold(replica, dataset, replica.table.columns))
            if _is_soft(replica):
                return sum(batch.num_rows for batch in _scan_alive(dataset, []))
            return int(dataset.count_rows())

    def rows(self, replica: Replica, keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `State.rows`."""
        dataset = self._dataset(replica)
        wanted = None if keys is None else Keys(check_keys(replica, keys))
        schema, name = replica.table.arrow_schema, replica.table.name

        def batches() -> Iterator[pa.RecordBatch]:
            if keys is not None and not keys.num_rows:
                return
            with _translate_errors(name):
                if replica.change_log:
                    found = _fold(replica, dataset, replica.table.columns)
                else:
                    found = (_scan_alive if _is_soft(replica) else _scan)(dataset, schema.names)
                for batch in found:
                    whole = cast_columns(batch.columns, schema, name)
                    yield whole if wanted is None else wanted.filter(whole)

        return make_reader(schema, batches())

    def _dataset(self, replica: Replica) -> Any:
        name = replica.table.name
        if name not in self._held:
            with _translate_errors(name):
                self._held[name] = self._open(name)
        dataset = self._held[name]
        if dataset is None:
            raise DestinationError(f"there is no table {name}", mend=recopy_command(replica.node))
        own = LOG_COLUMNS if replica.change_log else [DELETED_AT] if replica.deletes == "soft" else []
        for column in (*(c.name for c in replica.table.columns), *own):
            if column not in dataset.schema.names:
                raise missing_column(name, column, replica)
        return dataset


def _is_soft(replica: Replica) -> bool:
    return replica.deletes == "soft" and not replica.change_log


def _scan_alive(dataset: Any, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows that were not deleted. The filter is not given to the scan: files from before the column was added have no
    statistics of it, and deltalake 1.x then takes none of their rows for NULL."""
    for batch in _scan(dataset, [*columns, DELETED_AT]):
        alive = batch.filter(pc.is_null(batch.column(len(columns))))
        yield alive.select(list(columns)) if columns else alive


def _scan(dataset: Any, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Few batches wait: a scan would otherwise read ahead of whoever is slower."""
    scanner = dataset.scanner(columns=list(columns), batch_size=_BATCH_ROWS, batch_readahead=4, fragment_readahead=1)
    yield from scanner.to_batches()


def _fold(replica: Replica, dataset: Any, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """The state of a log. A table that is copied anew is replaced here, so that all of it is of its last copy."""
    names = list(dict.fromkeys([*(c.name for c in columns), *replica.table.key, *LOG_COLUMNS]))
    return fold_log(replica, _scan(dataset, names), pa.schema([dataset.schema.field(n) for n in names]))


@contextmanager
def _translate_errors(name: TableName) -> Iterator[None]:
    """Errors of files and stores in the bridge's words; they are of several libraries."""
    try:
        yield
    except (BridgeError, GeneratorExit):
        raise
    except Exception as error:
        if is_interruption(error):
            raise
        if no_room := full(Path(tempfile.gettempdir()), error, f"{name} could not be read"):
            raise no_room from error
        said = scrubbed(" ".join(str(error).split())) or type(error).__name__
        raise DestinationError(
            f"{name} could not be read: {said[:300]}",
            mend="check the credentials and rights at the destination, then run the same command again",
        ) from error
