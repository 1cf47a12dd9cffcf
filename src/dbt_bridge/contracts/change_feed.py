"""The values between a change source and capture: tables as they are followed, and chunks of what happened to them.

They name no technology. What a source alone understands of a table (Postgres: the catalog's shape of it, with the
numbers of its columns and files) is one opaque text, which the checkpoint keeps and gives back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dbt_bridge.errors import BridgeError, OriginError
from dbt_bridge.nouns.changes import Event
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.table import Column, Table, TableName, UnfollowedColumn

MapColumns = Callable[[Table, Mapping[str, str]], tuple[Column, ...]]
"""From the columns of a table at the origin, and what was renamed (old name -> new name), to those that land.

It is the one call that goes from the feed back up: when the log says that a table's columns changed, the feed must know
in which types they land before it can decode what comes next. It is called in the feed's own thread, asks the
destination for its types, does no other I/O, and may raise TypeRefused or UsageError (a column that is hidden by its
name was renamed, and would land as it is): the feed answers such an error as one of the table.
"""


@dataclass(frozen=True, slots=True)
class DeclaredTable:
    """A table as dbt declares it, and what its checkpoint remembers.

    Attributes:
        node: dbt's unique_id.
        name: at the origin; an empty schema is the default one.
        key: `primary_key` of the declaration; empty for the origin's own.
        log_only: changes are appended, so that no row has to be found by a key.
        shape: of its checkpoint, as the source wrote it; empty when it has none.
        asks_latest: the finding shall have its `latest` version.
    """

    node: str
    name: TableName
    key: tuple[str, ...] = ()
    log_only: bool = False
    shape: str = ""
    asks_latest: bool = False


@dataclass(frozen=True, slots=True)
class TableVersion:
    """A table of the origin at one moment.

    Attributes:
        name: with its schema.
        shape: the source's own text for it; equal texts are equal shapes.
        columns: those whose changes are in the log, in the types in which they naturally travel.
        key: the columns by which the log says which row changed; empty when it is the whole row, or none.
        unfollowed: its other columns.
        rotates: two rows may have one key inside of a transaction, and the log sends all old values to tell them apart.
    """

    name: TableName
    shape: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unfollowed: tuple[UnfollowedColumn, ...] = ()
    rotates: bool = False


class Unreadable(OriginError):
    """A change that the origin cannot send, however often it is asked: no table can be followed beyond its commit.

    Attributes:
        suspects: nodes of the tables that the change may be of; empty where that is not known yet, and is found out by
            reading again from the last commit.
    """

    suspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableFinding:
    """What a census found of one table.

    Attributes:
        name: as it is called now.
        version: as the table must be followed from its checkpoint on: as it was there, for the log tells of later
            changes of its columns itself; of a table without one, or that is `lost`, as it is now.
        shape: its shape now.
        lost: why the rows that landed can only be had by copying the table anew; empty when they are as they were.
        renamed: columns since the checkpoint, old name -> new name.
        is_late: its columns are others now than in `version`, and the log may say nothing of it before the next row.
        latest: the table as it is now, where it was asked for (`DeclaredTable.asks_latest`).
        refused: why it cannot be followed; the rest is told all the same, so that everything that is wrong with it can
            be told at once.
    """

    name: TableName
    version: TableVersion
    shape: str
    lost: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    is_late: bool = False
    latest: TableVersion | None = None
    refused: BridgeError | None = None


@dataclass(frozen=True, slots=True)
class FollowedTable:
    """A table whose changes are wanted.

    Attributes:
        node: dbt's unique_id.
        name: at the origin.
        shape: that the landing table was last applied in.
        columns: of the landing table, as they travel.
        key: the columns that find a row; empty when the whole row does.
        position: changes of commits below it are in the landing table already.
        map_columns: see `MapColumns`.
        mask: column -> how it is masked.
        log_only: changes are appended, so no row needs to be found.
        rotates: see `TableVersion`; changes then bring all values of the rows before them.
    """

    node: str
    name: TableName
    shape: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    position: Position
    map_columns: MapColumns
    mask: Mapping[str, str] = field(default_factory=dict)
    log_only: bool = False
    rotates: bool = False


@dataclass(frozen=True, slots=True)
class TableEvents:
    """What a part of the log says of the followed tables.

    Attributes:
        events: per table (dbt's unique_id), in order.
        bytes: of the changes, in Arrow's memory format.
        tables: those whose columns or shape changed in the log, as they are from here on.
        lost: table -> why it can only be copied anew.
        failed: table -> the error that its messages gave.
    """

    events: tuple[tuple[str, Event], ...] = ()
    bytes: int = 0
    tables: Mapping[str, FollowedTable] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, BridgeError] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.events or self.tables or self.lost or self.failed)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Changes that a destination gets at once.

    Attributes:
        content: the events per table, and what became of the tables.
        changes: how many.
        upto: where every followed table stands after this chunk; None inside of a transaction.
        committed_at: when the last transaction in it committed, microseconds since 1970 by the origin's clock; 0
            without any.
        transactions: how many ended.
        behind: bytes of log that the origin has sent beyond `upto`.
    """

    content: TableEvents
    changes: int = 0
    upto: Position | None = None
    committed_at: int = 0
    transactions: int = 0
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """When a chunk is full.

    Attributes:
        rows: changes.
        least: changes that are enough when the destination has nothing to do.
        bytes: of their values.
        seconds: since its first message.
        idle: seconds after which an empty chunk tells that the log went on without changes.
    """

    rows: int
    least: int
    bytes: int = 128 << 20
    seconds: float = 5.0
    idle: float = 10.0


class ChangeFeed(Protocol):
    """Chunks of changes in commit order. Capture's thread calls both methods; a feed may read ahead in its own."""

    def chunks(self, go_on: Callable[[], bool]) -> Iterator[Chunk]:
        """Every chunk until the last barrier, or until `go_on` says no between two of them.

        `go_on` is asked at least every second while nothing comes. A chunk ends exactly at each barrier, which is its
        `upto` then. A transaction that is larger than a chunk comes in several; only the last one has an `upto`.

        Raises:
            ConnectionFailed, OriginError: the log broke off; everything that came before it was given.
        """

    def acknowledge(self, position: Position) -> None:
        """Everything below it is durable at the destination: the origin need not keep it. Never waits."""
