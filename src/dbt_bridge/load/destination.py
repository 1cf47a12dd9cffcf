"""What a destination is to the rest of the bridge: the request, the answer, and two protocols.

    Destination     one table becomes visible at once             Delta, Parquet, everything through dlt
    Ledger          also dbt's warehouse: keeps the audit tables   the same through dlt, where there is SQL
    Warehouse       many tables and their checkpoints at once      DuckDB, Postgres

Write dispositions (dlt's words):

    replace   the table holds exactly the new rows; empty input leaves an empty table with its columns
    append    the rows are added
    merge     one row per key; of rows with the same key in one load, the last one wins
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import pyarrow as pa

from dbt_bridge.receipt import Receipt
from dbt_bridge.table import Column, Table, TableName

WriteDisposition = Literal["replace", "append", "merge"]
WRITE_DISPOSITIONS: tuple[WriteDisposition, ...] = ("replace", "append", "merge")


@dataclass(frozen=True, slots=True)
class Window:
    """The end of a table that a load brings again: rows with `cursor >= at_least` (text, cast to its type)."""

    cursor: str
    at_least: str


@dataclass(frozen=True, slots=True)
class Load:
    """One table to load.

    Attributes:
        table: the name at the destination, the columns as their batches travel, and the merge key.
        write_disposition: replace, append or merge. merge needs `table.key`.
        load_id: of the run.
        window: for append only: in the same transaction, rows of the destination inside it are deleted first, so
            that rows which share the checkpoint's cursor value, or came late, are neither lost nor doubled.
        one_per_key: for replace only: the rows may hold several versions of a key, and the last one stays, as after a
            merge.
    """

    table: Table
    write_disposition: WriteDisposition
    load_id: str
    window: Window | None = None
    one_per_key: bool = False

    @property
    def keeps_last(self) -> bool:
        """Whether of the new rows with one key only the last one stays."""
        return self.write_disposition == "merge" or self.one_per_key


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the destination counted. None where it cannot tell."""

    rows_loaded: int
    rows_inserted: int | None
    rows_updated: int | None
    rows_deleted: int | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A durable cursor value (or LSN) of one landing table.

    Attributes:
        node: dbt's unique_id of the source table.
        origin: the origin's name.
        cursor: the cursor column's name; empty for an LSN.
        value: as text that the origin reads back exactly.
    """

    node: str
    origin: str
    cursor: str
    value: str


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows that lie at the warehouse under a name that nobody reads, until `publish`."""

    load: Load
    staging: TableName
    rows: int
    bytes: int


@runtime_checkable
class Destination(Protocol):
    """Where rows land, one table at a time: a load is all there or not at all."""

    name: str

    def landed(self, column: Column) -> Column:
        """The column as it must travel to land here exactly.

        Types that the destination lacks come back as text by the documented mapping. Raises TypeRefused
        where no lossless form exists.
        """

    def existing(self, name: TableName) -> Table | None:
        """The table or view as it stands at the destination; None when there is none, or only a ghost view."""

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Load one table, atomically. Raises before anything is written where it can be known."""

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """What `load` would do, without writing anything that stays."""

    def close(self) -> None: ...


@runtime_checkable
class Ledger(Destination, Protocol):
    """dbt's warehouse: it holds the audit tables, and the relations that are delivered."""

    def checkpoint(self, node: str) -> Checkpoint | None: ...

    def forget(self, node: str) -> None:
        """Drop a node's checkpoint (full refresh)."""

    def record(self, receipts: Sequence[Receipt]) -> None:
        """Append to `_dbt_bridge.receipts`."""

    def read(self, name: TableName, columns: Sequence[str] = (), as_text: Collection[str] = ()) -> pa.RecordBatchReader:
        """Stream a table's or view's rows: all columns when none are named, those in `as_text` cast to text."""

    def save(self, checkpoints: Sequence[Checkpoint], receipts: Sequence[Receipt]) -> None:
        """Keep the checkpoints and receipts of tables that are visible already."""


@runtime_checkable
class Warehouse(Ledger, Protocol):
    """A ledger with transactions over many tables."""

    def stage(self, load: Load, batches: pa.RecordBatchReader) -> Staged:
        """Bring rows to the warehouse without showing them. May run in several threads at once.

        Checks here all that can be checked before publishing: key columns present and not NULL, types that
        fit the existing table.
        """

    def publish(
        self,
        staged: Sequence[Staged],
        checkpoints: Sequence[Checkpoint] = (),
        receipts: Callable[[Sequence[Loaded]], Sequence[Receipt]] | None = None,
    ) -> list[Loaded]:
        """Show all staged tables, save their checkpoints and append their receipts in ONE transaction.

        Answers in the order of `staged`. `receipts` is called with those answers before the commit.
        A ghost view in a table's place is replaced by the table.
        """

    def discard(self, staged: Sequence[Staged] = ()) -> None:
        """Drop these staging tables, and those that interrupted runs left behind."""
