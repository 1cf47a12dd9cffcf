"""What a destination is to the rest of the bridge: the request, the answer, and a protocol for each of its roles.

    Destination     one table becomes visible at once             Delta, Parquet, everything through dlt
    Ledger          also dbt's warehouse: keeps the audit tables   the same through dlt, where there is SQL
    Warehouse       many tables and their checkpoints at once      DuckDB, Postgres
    Follows         applies changes of tables in commit order       DuckDB, Postgres, Delta, MERGE through dlt
    Readable        gives back what it holds, to be compared        DuckDB, Postgres, Delta, Parquet, dlt where it can

Write dispositions (dlt's words):

    replace   the table holds exactly the new rows; empty input leaves an empty table with its columns
    append    the rows are added
    merge     one row per key; of rows with the same key in one load, the last one wins
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import pyarrow as pa

from dbt_bridge.contracts.outgoing import Outgoing
from dbt_bridge.errors import BridgeError, DestinationError
from dbt_bridge.nouns.changes import Event
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.names import UNKNOWN, NameRules
from dbt_bridge.nouns.parity_row import ParityRow
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, Table, TableName

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
        delivery: set where the rows leave for a table that may be somebody else's; see `outgoing`.
    """

    table: Table
    write_disposition: WriteDisposition
    load_id: str
    window: Window | None = None
    one_per_key: bool = False
    delivery: Outgoing | None = None

    @property
    def keeps_last(self) -> bool:
        """Whether of the new rows with one key only the last one stays."""
        return self.write_disposition == "merge" or self.one_per_key


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the destination counted. None where it cannot tell.

    Attributes:
        changes: what a delivery did to the table itself: `created the table`, `added the column ...`.
    """

    rows_loaded: int
    rows_inserted: int | None
    rows_updated: int | None
    rows_deleted: int | None
    bytes: int
    changes: tuple[str, ...] = ()

    def __add__(self, other: Loaded) -> Loaded:
        """Of both together; what one of them cannot tell, both cannot."""

        def plus(x: int | None, y: int | None) -> int | None:
            return None if x is None or y is None else x + y

        return Loaded(
            self.rows_loaded + other.rows_loaded,
            plus(self.rows_inserted, other.rows_inserted),
            plus(self.rows_updated, other.rows_updated),
            plus(self.rows_deleted, other.rows_deleted),
            self.bytes + other.bytes,
            (*self.changes, *other.changes),
        )


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows that lie at the warehouse under a name that nobody reads, until `publish`.

    Attributes:
        gone: where the keys of rows lie that are deleted with it; None where there are none.
    """

    load: Load
    staging: TableName
    rows: int
    bytes: int
    gone: TableName | None = None


DELETED_AT = "_deleted_at"
VALID_FROM, VALID_TO = "valid_from", "valid_to"
CHANGE, CHANGE_LSN, COMMITTED_AT = "_change", "_lsn", "_committed_at"


@dataclass(frozen=True, slots=True)
class Replica:
    """A landing table that follows its origin, and how.

    Attributes:
        node: dbt's unique_id of the source table.
        table: its name here, its columns as the changes travel, and the key that finds a changed row. Without a key
            the whole row is matched, one row per change (REPLICA IDENTITY FULL).
        deletes: `soft` keeps a deleted row, with the commit's time in `_deleted_at`; a row that comes again has NULL.
        history: beside the current state, `history_name` keeps every committed version of each row, with
            `valid_from` and `valid_to` (NULL for the current one) from the commits' times, and the commit's ordinal as
            `_lsn`.
        change_log: there is no state; every change is appended, with `_change` (insert, update, delete, truncate),
            `_lsn` (the ordinal, bigint), `_committed_at` and what else `change_log.LOG_COLUMNS` names.
        names: how the destination reads names.
    """

    node: str
    table: Table
    deletes: Literal["hard", "soft"] = "hard"
    history: bool = False
    change_log: bool = False
    names: NameRules = UNKNOWN

    @property
    def history_name(self) -> TableName:
        """`<table>_history`, or its short form where the destination would cut that off."""
        return name_history(self.table.name, self.names)


def name_history(table: TableName, names: NameRules) -> TableName:
    """Where the history of a landing table is kept; see `nouns.names.make_name`."""
    return TableName(table.schema, names.make(table.name, "_history"))


class CannotReshape(DestinationError):
    """The destination cannot change a table's columns as its origin did; the table is to be copied anew."""


class BeginAgain(DestinationError):
    """The destination was out of room and made more: the same rows or changes, from the last commit on, land now."""


class TooManyTables(DestinationError):
    """The destination has no room for the changes of so many tables in one commit: fewer at once land."""


class NotApplied(Exception):
    """A commit that writes table by table was refused by one of them, which is to be set aside.

    Attributes:
        node: dbt's unique_id of the table.
        error: TypeRefused, KeyRefused or CannotReshape.
    """

    def __init__(self, node: str, error: BridgeError) -> None:
        super().__init__(str(error))
        self.node = node
        self.error = error


class Application(Protocol):
    """What becomes visible together: the changes of several tables up to one position, with checkpoints and receipts.

    A destination knows positions by their ordinals (`nouns/position`), as changes have them too. One without
    transactions keeps the ordinal at which each table stands, and passes over what comes again below it.

    Used by one thread. One transaction where the destination has them: leaving the context without `commit` undoes
    everything. May take any number of calls, so that one huge transaction of the origin arrives in pieces.

    Raises (from every method): TypeRefused, KeyRefused or DestinationError whose message names the table.
    """

    def join(self, replica: Replica, staged: Staged | Loaded, copied_at: int) -> Loaded:
        """Show a staged initial copy in the replica's place, with its `_deleted_at`, change log columns and history.

        Args:
            staged: what `Warehouse.stage` answered; at a destination without stages what `load` answered, as its rows
                are visible already.
            copied_at: microseconds since 1970: when the copy's snapshot was taken; `valid_from` of its versions.
        """

    def apply(self, replica: Replica, event: Event) -> Loaded:
        """Apply what happened to one table, after everything that was applied before.

        Counts: rows_loaded are the changes, the others what became of the table's rows.

        Raises:
            NotApplied: another table refused what had waited until there was no room for this one's beside it.
        """

    def commit(self, upto: int, checkpoints: Sequence[Checkpoint] = (), receipts: Sequence[Receipt] = ()) -> None:
        """Make it visible. Every table that was touched, and every one in `checkpoints`, then stands at `upto`.

        Args:
            upto: the position's ordinal.
            receipts: appended in the same transaction, where this destination is the ledger.

        Raises:
            NotApplied: a table refused at last what was written only now; some of the others may have committed.
        """


@runtime_checkable
class Follows(Protocol):
    """A destination that applies changes.

    Attributes:
        chunk_rows: how many changes it likes to get at once.
    """

    name: str
    chunk_rows: int

    def open_application(self, load_id: str) -> AbstractContextManager[Application]: ...


class State(Protocol):
    """What a destination holds at one moment: everything that it answers is of the same state."""

    def count(self, replica: Replica) -> int:
        """How many rows stand for rows of the origin, counted by the engine that holds them."""

    def rows(self, replica: Replica, keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """Stream the rows that stand for rows of the origin: the replica's columns, exactly in their types.

        Soft-deleted rows are left out; of a change log each key's last state is given, which is what the origin has.

        Args:
            keys: only the rows with one of these keys: some of the replica's columns, in their types. NULL equals NULL.

        Raises:
            DestinationError: no such table or column, or the destination broke off.
            TypeRefused: a stored value does not fit the column's type.
        """


@runtime_checkable
class Readable(Protocol):
    """A destination that gives back what it holds."""

    def open_state(self) -> AbstractContextManager[State]:
        """A state to read, held until the context ends (where the destination can hold one)."""


@runtime_checkable
class Repairable(Follows, Readable, Protocol):
    """A destination that takes single rows away, and gives back what is left."""


@runtime_checkable
class Destination(Protocol):
    """Where rows land, one table at a time: a load is all there or not at all."""

    name: str

    def map_column(self, column: Column) -> Column:
        """The column as it must travel to land here exactly.

        Types that the destination lacks come back as text by the documented mapping. Raises TypeRefused
        where no lossless form exists.
        """

    def find_table(self, name: TableName) -> Table | None:
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

    def checkpoints(self) -> list[Checkpoint]:
        """All of them."""

    def forget(self, node: str) -> None:
        """Drop a node's checkpoint (full refresh)."""

    def record(self, receipts: Sequence[Receipt]) -> None:
        """Append to `_dbt_bridge.receipts`."""

    def record_parity(self, rows: Sequence[ParityRow]) -> None:
        """Append to `_dbt_bridge.parity`, which is created where it is missing."""

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

        Answers in the order of `staged`. `receipts` is called with those answers before the commit. Nothing is shown
        where one table fails: the error names it in `BridgeError.table`, so that the others can go without it.
        A ghost view in a table's place is replaced by the table.
        """

    def discard(self, staged: Sequence[Staged] = ()) -> None:
        """Drop these staging tables, and those that interrupted runs left behind."""
