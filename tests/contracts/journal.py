"""A change source that is no database: a journal of JSON lines in a folder, whose positions have ten bytes.

    journal.jsonl        a commit a line: {"at": twenty hex digits, "time": microseconds, "changes": [...]}
    slots/<slot>.json    from which position on the journal is kept for a source

It is the smallest thing that has what SQL Server's change tables have and Postgres's log has not: positions that fit in
no 64 bits (`2A000001000001F00003`), so that commits are numbered as they are read, and the number is a part of the
position's text (`2A000001000001F00004@12`).
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.mask import mask_array
from dbt_bridge.contracts.change_feed import (
    Chunk,
    DeclaredTable,
    FollowedTable,
    Pace,
    TableEvents,
    TableFinding,
    TableVersion,
)
from dbt_bridge.contracts.change_source import ChangeSource, DroppedLog, KeptLog, LogHealth, Readiness
from dbt_bridge.contracts.connector import Connector
from dbt_bridge.contracts.origin import Described, Increment
from dbt_bridge.contracts.settings import ChangeSourceSettings, OriginSettings
from dbt_bridge.errors import BridgeError, OriginError, UsageError
from dbt_bridge.nouns.changes import DELETE, INSERT, UPDATE, Changes, Event, Reshaped, Truncated
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.table import Column, Table, TableName

SCHEMA = "journal"
_FIRST = "0" * 20
_TYPES = {"int64": pa.int64(), "string": pa.string()}
_KINDS = {"insert": INSERT, "update": UPDATE, "delete": DELETE}
Row = dict[str, Any]


@dataclass(frozen=True)
class Commit:
    at: str
    time: int
    changes: Sequence[Mapping[str, Any]]

    @property
    def next(self) -> str:
        """The place right behind it."""
        return f"{int(self.at, 16) + 1:020X}"


@dataclass
class Content:
    """A table as the journal leaves it."""

    columns: dict[str, str]
    key: tuple[str, ...]
    rows: dict[Any, Row] = field(default_factory=dict)

    @property
    def shape(self) -> str:
        return ",".join(f"{name}:{type_}" for name, type_ in self.columns.items()) + "|" + ",".join(self.key)

    @classmethod
    def of_shape(cls, text: str) -> Content:
        columns, _, key = text.partition("|")
        return cls(dict(pair.split(":") for pair in columns.split(",")), tuple(key.split(",")))

    def table(self, name: TableName) -> Table:
        return Table(name, tuple(Column(n, _TYPES[t], t) for n, t in self.columns.items()), self.key)

    def apply(self, change: Mapping[str, Any]) -> None:
        kind = change["kind"]
        if kind == "alter":
            self.columns = dict(change["columns"])
        elif kind == "truncate":
            self.rows.clear()
        else:
            old = change.get("old") or change["row"]
            self.rows.pop(tuple(old[k] for k in self.key), None)
            if kind != "delete":
                self.rows[tuple(change["row"][k] for k in self.key)] = dict(change["row"])


class Journal:
    """The file: who writes commits, and who reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "journal.jsonl"

    def commit(self, *changes: Mapping[str, Any]) -> None:
        """As SQL Server counts: the log's file, the block in it, the place in that; they leave gaps."""
        number = sum(1 for _ in self.commits())
        at = f"{0x2A00_0001 + number // 4:08X}{0x1F0 + 8 * number:08X}{number % 4 + 3:04X}"
        line = json.dumps({"at": at, "time": time.time_ns() // 1000, "changes": changes})
        with self._file.open("a") as file:
            file.write(line + "\n")

    def commits(self, since: str = _FIRST) -> Iterator[Commit]:
        """Those at or behind a place. A line that is still being written is none yet."""
        with suppress(FileNotFoundError), self._file.open() as file:
            for line in file:
                if line.endswith("\n") and (found := Commit(**json.loads(line))).at >= since:
                    yield found

    def contents(self, until: str) -> dict[str, Content]:
        """Every table, from the commits before a place."""
        tables: dict[str, Content] = {}
        for commit in self.commits():
            if commit.at >= until:
                break
            for change in commit.changes:
                if change["kind"] == "create":
                    tables[change["table"]] = Content(dict(change["columns"]), tuple(change["key"]))
                else:
                    tables[change["table"]].apply(change)
        return tables


class JournalOrigin:
    """Tables as of a place in the journal; of its end when the origin is first asked, without one."""

    def __init__(self, name: str, folder: Path, until: str | None = None) -> None:
        self.name = name
        self._journal = Journal(folder)
        self._until = until
        self._contents: dict[str, Content] | None = None

    def tables(self, schema: str | None) -> list[TableName]:
        return [TableName(SCHEMA, name) for name in sorted(self._all())]

    def describe(self, name: TableName) -> Described:
        return Described(self.content(name).table(TableName(SCHEMA, name.name)))

    def content(self, name: TableName) -> Content:
        if name.name not in self._all():
            raise OriginError(f"origin {self.name!r} has no table {name.name}", mend="correct `identifier:`")
        return self._all()[name.name]

    def rows(
        self, name: TableName, columns: Sequence[Column], increment: Increment | None = None, *, workers: int = 1
    ) -> pa.RecordBatchReader:
        return self._reader(self.content(name).rows.values(), columns)

    def rows_of(self, name: TableName, columns: Sequence[Column], keys: pa.Table) -> pa.RecordBatchReader:
        wanted = keys.to_pylist()
        rows = [row for row in self.content(name).rows.values() if any(key.items() <= row.items() for key in wanted)]
        return self._reader(rows, columns)

    def count(self, name: TableName) -> int:
        return len(self.content(name).rows)

    def lower_bound(self, name: TableName, increment: Increment) -> str | None:
        raise UsageError("a journal has no cursor", mend="replication: cdc")

    def newest(self, name: TableName, cursor: str) -> str | None:
        raise UsageError("a journal has no cursor", mend="replication: cdc")

    def close(self) -> None:
        self._contents = None

    def __enter__(self) -> JournalOrigin:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _all(self) -> dict[str, Content]:
        if self._contents is None:
            self._contents = self._journal.contents(self._until or "G")  # behind every hex digit
        return self._contents

    @staticmethod
    def _reader(rows: Any, columns: Sequence[Column]) -> pa.RecordBatchReader:
        schema = pa.schema([pa.field(c.name, c.type) for c in columns])
        arrays = [pa.array([_as(row.get(c.name), c.type) for row in rows], c.type) for c in columns]
        return pa.Table.from_arrays(arrays, schema=schema).to_reader()


@dataclass
class JournalSnapshot:
    """What stood before a position."""

    position: Position
    origin: Callable[[], JournalOrigin]
    at: int

    def read_clock(self) -> int:
        return self.at

    def open_origin(self) -> JournalOrigin:
        return self.origin()

    def describe(self, table: DeclaredTable) -> TableVersion:
        return _version(table, self.origin().content(table.name))


class JournalFeed:
    """Reads the journal in the thread of whoever asks."""

    def __init__(self, source: JournalSource, tables: Sequence[FollowedTable], start: Position,
                 barriers: Sequence[Position | None], pace: Pace) -> None:  # fmt: skip
        self._source = source
        self._tables = {table.name.name: table for table in tables}
        self._at = start
        self._barriers = barriers
        self._pace = pace
        self._part = _Part(self._tables)

    def acknowledge(self, position: Position) -> None:
        self._source.keep_from(position)

    def chunks(self, go_on: Callable[[], bool]) -> Iterator[Chunk]:
        for barrier in self._barriers:
            while barrier is None or self._at < barrier:
                commits = list(self._source.journal.commits(_place(self._at)))[: _left(self._at, barrier)]
                for number, commit in enumerate(commits, 1):
                    if not go_on():
                        return
                    yield from self._pieces(commit, is_last=number == len(commits))
                if not commits:
                    if not go_on():
                        return
                    time.sleep(0.02)
            yield Chunk(TableEvents(), upto=barrier)

    def _pieces(self, commit: Commit, *, is_last: bool) -> Iterator[Chunk]:
        """A commit that is larger than a chunk comes in several; small ones wait for others that are there."""
        ordinal = self._at.ordinal
        for change in commit.changes:
            self._part.take(change, ordinal, commit.time)
            if self._part.rows >= self._pace.rows:
                yield self._part.chunk()
        self._at = _position(commit.next, ordinal + 2)
        self._part.transactions += 1
        if is_last or self._part.rows >= self._pace.least:
            yield replace(self._part.chunk(), upto=self._at, committed_at=commit.time)


class _Part:
    """What a chunk will hold."""

    def __init__(self, tables: dict[str, FollowedTable]) -> None:
        self._tables = tables
        self._begin()

    def _begin(self) -> None:
        self.rows = self.transactions = 0
        self._events: list[tuple[str, Event]] = []
        self._altered: dict[str, FollowedTable] = {}
        self._failed: dict[str, BridgeError] = {}

    def chunk(self) -> Chunk:
        content = TableEvents(tuple(self._events), 0, self._altered, {}, self._failed)
        answer = Chunk(content, self.rows, transactions=self.transactions)
        self._begin()
        return answer

    def take(self, change: Mapping[str, Any], ordinal: int, at: int) -> None:
        table = self._tables.get(change["table"])
        if table is None or ordinal < table.position.ordinal or change["kind"] == "create":
            return
        try:
            self._take(table, change, ordinal, at)
        except BridgeError as error:
            self._failed[table.node] = error
            self._events = [(node, event) for node, event in self._events if node != table.node]
            del self._tables[change["table"]]

    def _take(self, table: FollowedTable, change: Mapping[str, Any], ordinal: int, at: int) -> None:
        if change["kind"] == "truncate":
            self._events.append((table.node, Truncated(ordinal, at)))
        elif change["kind"] == "alter":
            now = Content(dict(change["columns"]), table.key)
            columns = table.map_columns(now.table(table.name), {})
            altered = replace(table, columns=columns, shape=now.shape)
            self._tables[change["table"]] = self._altered[table.node] = altered
            self._events.append((table.node, Reshaped(columns)))
        else:
            self._events.append((table.node, _changes(table, change, ordinal, at)))
        self.rows += 1


class JournalSource(ChangeSource):
    """The change source; see `ChangeSource`."""

    beginning = Position(0, f"{_FIRST}@0")
    position_name = "journal position"

    def __init__(self, name: str, folder: Path, settings: ChangeSourceSettings) -> None:
        self.name = name
        self.slot = settings.slot
        self.journal = Journal(folder)
        self._settings = settings
        self._file = folder / "slots" / f"{settings.slot}.json"
        self._file.parent.mkdir(exist_ok=True)

    def __enter__(self) -> JournalSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held."""

    def parse_position(self, text: str) -> Position:
        place, _, ordinal = text.partition("@")
        if len(place) != 20 or not ordinal.isdigit():
            raise UsageError(f"{text!r} is no place in a journal", mend="write it as `slots` does")
        return _position(place, int(ordinal))

    def read_identity(self) -> str:
        return f"{self.journal.folder.name}/{self.slot}"

    def find_end(self) -> Position:
        """Counted from where the journal is kept."""
        return self._end(self._kept() or self.beginning)

    def take_census(self, tables: Sequence[DeclaredTable]) -> Mapping[str, TableFinding | BridgeError]:
        origin = JournalOrigin(self.name, self.journal.folder)
        return {table.node: self._examine(origin, table) for table in tables}

    def _examine(self, origin: JournalOrigin, table: DeclaredTable) -> TableFinding | BridgeError:
        try:
            now = origin.content(table.name)
        except OriginError as error:
            return error
        before = Content.of_shape(table.shape) if table.shape else now
        lost = [name for name, type_ in before.columns.items() if now.columns.get(name, type_) != type_]
        version = _version(table, now if lost else before)
        why = f"the type of its column {lost[0]!r} changed" if lost else ""
        latest = _version(table, now) if table.asks_latest else None
        return TableFinding(TableName(SCHEMA, table.name.name), version, now.shape, why, latest=latest)

    def has_news(self, shapes: Sequence[str]) -> bool:
        return False  # the journal tells of every change of columns

    def list_logs(self) -> Sequence[KeptLog]:
        kept = self._kept()
        return [] if kept is None else [KeptLog(self.slot, 0)]

    def find_stale(self, standing: Mapping[str, str]) -> Mapping[str, str]:
        return {}

    def settle(self, tables: Sequence[tuple[FollowedTable, TableFinding]]) -> TableEvents:
        return TableEvents()

    def require_log(self, positions: Mapping[str, Position]) -> None:
        kept, end = self._kept(), self.find_end()
        for node, position in positions.items():
            if kept is None or position < kept or position > end:
                raise OriginError(
                    f"the journal of {self.name!r} is kept from {kept} to {end}, and {node} stands at {position}",
                    mend="dbt-bridge sync --full-refresh",
                )

    def ensure_log(self, followed: Sequence[DeclaredTable], copied: Sequence[DeclaredTable]) -> Mapping[str, str]:
        return {}  # a journal holds every table

    @contextmanager
    def open_snapshot(self, label: str, *, begins: bool = False) -> Iterator[JournalSnapshot]:
        at = self.find_end()
        if begins and self._kept() is None:
            self.keep_from(at)
        folder = self.journal.folder
        yield JournalSnapshot(at, lambda: JournalOrigin(self.name, folder, _place(at)), time.time_ns() // 1000)

    @contextmanager
    def follow(
        self, tables: Sequence[FollowedTable], start: Position, barriers: Sequence[Position | None], pace: Pace
    ) -> Iterator[JournalFeed]:
        yield JournalFeed(self, tables, start, barriers, pace)

    def check_backlog(self, *, is_caught_up: bool) -> None:
        """A journal has no bound."""

    def release_log(self, upto: Position) -> None:
        self.keep_from(upto)

    @contextmanager
    def lock_landing(self) -> Iterator[None]:
        with _Lock(self._file, "hold") as hold, _Lock(self._file, "move") as move:
            hold.wait(fcntl.LOCK_EX)
            move.wait(fcntl.LOCK_EX)
            yield

    @contextmanager
    def share_landing(self) -> Iterator[None]:
        with _Lock(self._file, "hold") as hold, _Lock(self._file, "move") as move:
            hold.wait(fcntl.LOCK_SH)
            move.wait(fcntl.LOCK_SH)
            hold.free()
            yield

    def lease_landing(self) -> JournalLease:
        return JournalLease(self._settings.source, self._file)

    def check_health(self, sync: str) -> LogHealth:
        kept = self._kept()
        if kept is None:
            return LogHealth(exists=False)
        behind = sum(len(json.dumps(c.changes)) for c in self.journal.commits(_place(kept)))
        return LogHealth(exists=True, lag_bytes=behind, retained_bytes=behind, wal_status="kept")

    def check_readiness(self, tables: Sequence[DeclaredTable]) -> Iterator[Readiness]:
        yield Readiness("journal", "ok", f"holds {len(self.journal.contents('G'))} tables")

    def drop_log(self) -> DroppedLog:
        existed = self._file.exists()
        self._file.unlink(missing_ok=True)
        return DroppedLog(existed)

    def keep_from(self, position: Position) -> None:
        self._file.write_text(json.dumps(str(position)))

    def _kept(self) -> Position | None:
        return self.parse_position(json.loads(self._file.read_text())) if self._file.exists() else None

    def _end(self, start: Position) -> Position:
        for commit in self.journal.commits(_place(start)):
            start = _position(commit.next, start.ordinal + 2)
        return start


class JournalLease:
    """A shared lock on `move`, as long as nobody wants an exclusive one."""

    def __init__(self, source: str, file: Path) -> None:
        self.source = source
        self._hold, self._move = _Lock(file, "hold"), _Lock(file, "move")
        self.is_mine = False

    def take(self) -> bool:
        if not self.is_mine:
            self.is_mine = not self.is_wanted() and self._move.take(fcntl.LOCK_SH)
        return self.is_mine

    def is_wanted(self) -> bool:
        free = self._hold.take(fcntl.LOCK_SH)
        self._hold.free()
        return not free

    def let_go(self) -> None:
        self._move.free()
        self.is_mine = False


class _Lock:
    """A lock of the operating system on a file of its own: it ends with its process."""

    def __init__(self, file: Path, what: str) -> None:
        self._path = file.with_suffix(f".{what}")
        self._open: IO[str] | None = None

    def __enter__(self) -> _Lock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()

    def take(self, how: int) -> bool:
        self._open = self._open or self._path.open("w")
        try:
            fcntl.flock(self._open, how | fcntl.LOCK_NB)
        except BlockingIOError:
            self.free()
            return False
        return True

    def wait(self, how: int) -> None:
        while not self.take(how):
            time.sleep(0.02)

    def free(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _changes(table: FollowedTable, change: Mapping[str, Any], ordinal: int, at: int) -> Changes:
    row, old = change["row"], change.get("old") or change["row"]
    kind = change["kind"]
    schema = pa.schema([pa.field(c.name, c.type) for c in table.columns])
    rows = pa.Table.from_arrays([_array(table, c, row) for c in table.columns], schema=schema)
    before = has_before = None
    if kind == "update" and table.key and any(row[k] != old[k] for k in table.key):
        keys = [c for c in table.columns if c.name in table.key]
        before = pa.table({c.name: _array(table, c, old) for c in keys})
        has_before = np.ones(1, bool)
    return Changes(
        rows, np.full(1, _KINDS[kind], np.uint8), np.full(1, ordinal), np.full(1, at), before=before,
        has_before=has_before,
    )  # fmt: skip


def _array(table: FollowedTable, column: Column, row: Mapping[str, Any]) -> pa.Array:
    array = pa.array([_as(row.get(column.name), column.type)], column.type)
    how = table.mask.get(column.name)
    return mask_array(array, how) if how else array  # type: ignore[arg-type]


def _as(value: Any, type_: pa.DataType) -> Any:
    return str(value) if value is not None and pa.types.is_string(type_) else value


def _version(declared: DeclaredTable, content: Content) -> TableVersion:
    name = TableName(SCHEMA, declared.name.name)
    table = content.table(name)
    return TableVersion(name, content.shape, table.columns, declared.key or content.key)


def _position(place: str, ordinal: int) -> Position:
    return Position(ordinal, f"{place}@{ordinal}")


def _place(position: Position) -> str:
    return position.text.partition("@")[0]


def _left(at: Position, barrier: Position | None) -> int | None:
    """How many commits lie below the barrier."""
    return None if barrier is None else (barrier.ordinal - at.ordinal) // 2


def _folder(settings: OriginSettings) -> Path:
    return Path("/" + settings.url.partition("///")[2])


JOURNAL = Connector(
    name="journal",
    title="journal",
    drivernames=frozenset({"journal"}),
    open_origin=lambda settings: JournalOrigin(settings.name, _folder(settings)),
    open_change_source=lambda settings: JournalSource(settings.origin.name, _folder(settings.origin), settings),
)
