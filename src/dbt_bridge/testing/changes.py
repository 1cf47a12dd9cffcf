"""Changes as a test writes them, one Python value each, and what they must leave: a model that applies one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.nouns.changes import (
    Changes,
    Event,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.table import Column, Table

Row = dict[str, Any]
KINDS = {"insert": ord("I"), "update": ord("U"), "delete": ord("D")}


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row.

    Attributes:
        kind: insert, update or delete.
        row: the new row; of a delete the old one, columns outside of the replica identity NULL.
        before: the old row's columns that came along; None when none did.
        unchanged: columns of an update that were not sent.
    """

    kind: str
    row: Row
    lsn: int
    at: int
    before: Row | None = None
    unchanged: frozenset[str] = frozenset()


def instant(microseconds: int | None) -> datetime | None:
    if microseconds is None:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def rows_of(table: Table, rows: Sequence[Row]) -> pa.Table:
    """Rows as they travel."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=table.arrow_schema)


def changes_of(table: Table, changes: Sequence[Change]) -> Changes:
    """A run of changes as the decoder gives it."""
    sent = [{c: None if c in one.unchanged else v for c, v in one.row.items()} for one in changes]
    nullable = pa.schema([f.with_nullable(True) for f in table.arrow_schema])
    names = sorted({name for one in changes for name in one.unchanged})
    before = None
    if any(one.before is not None for one in changes):
        columns = [c.name for c in table.columns if c.name in table.key or not table.key]
        schema = pa.schema([nullable.field(name) for name in columns])
        before = pa.Table.from_pylist([one.before or dict.fromkeys(columns) for one in changes], schema=schema)
    return Changes(
        pa.Table.from_pylist(sent, schema=nullable),
        np.array([KINDS[one.kind] for one in changes], np.uint8),
        np.array([one.lsn for one in changes], np.int64),
        np.array([one.at for one in changes], np.int64),
        {name: np.array([name in one.unchanged for one in changes], bool) for name in names},
        before,
        None if before is None else np.array([one.before is not None for one in changes], bool),
    )


@dataclass(slots=True)
class Model:
    """A table with a key at the origin, everything that a replica of it keeps, and the events that tell of it.

    Attributes:
        state: key -> row, with the columns that were dropped: they keep their values while the row lives.
        soft: the same with deleted rows, and when they were deleted.
        history: versions: the row, its `valid_from` and `valid_to`.
        log: rows of the change log.
        pending: changes since the last event that was cut off.
    """

    table: Table
    copied_at: int = 0
    lsn: int = 1000
    at: int = 1_000_000
    state: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    soft: dict[tuple[Any, ...], tuple[Row, int | None]] = field(default_factory=dict)
    history: list[list[Any]] = field(default_factory=list)
    log: list[Row] = field(default_factory=list)
    pending: list[Change] = field(default_factory=list)
    events: list[tuple[Table, Event]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    _touched: set[tuple[Any, ...]] = field(default_factory=set)
    _logged: int = 0

    def copy(self, rows: Sequence[Row]) -> None:
        """The initial copy."""
        for number, row in enumerate(rows):
            key = self.key(row)
            self.state[key], self.soft[key] = dict(row), (dict(row), None)
            self.history.append([dict(row), self.copied_at, None])
            self.log.append({**row, "_change": "insert", "_lsn": None, "_at": self.copied_at, "_seq": number})

    def key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.table.key)

    def insert(self, row: Row) -> None:
        key = self.key(row)
        self._note(Change("insert", row, self.lsn, self.at))
        whole = {**dict.fromkeys(self.dropped), **row}
        self.state[key], self.soft[key] = whole, (whole, None)
        self._touched.add(key)

    def update(self, key: tuple[Any, ...], changed: Row, unchanged: frozenset[str] = frozenset()) -> None:
        """Change a row, perhaps its key; the unchanged columns keep what they have."""
        old = self.state[key]
        active = [c.name for c in self.table.columns]
        row = {name: old[name] if name in unchanged else changed.get(name, old[name]) for name in active}
        before = None if self.key(row) == key else dict(zip(self.table.key, key, strict=True))
        self._note(Change("update", row, self.lsn, self.at, before, unchanged))
        del self.state[key], self.soft[key]
        whole = {**{name: old[name] for name in self.dropped}, **row}
        self.state[self.key(row)], self.soft[self.key(row)] = whole, (whole, None)
        self._touched |= {key, self.key(row)}

    def delete(self, key: tuple[Any, ...]) -> None:
        sent = {c.name: None for c in self.table.columns} | dict(zip(self.table.key, key, strict=True))
        self._note(Change("delete", sent, self.lsn, self.at))
        self.soft[key] = (self.state.pop(key), self.at)
        self._touched.add(key)

    def truncate(self) -> None:
        self.cut()
        self.events.append((self.table, Truncated(self.lsn, self.at)))
        self._log("truncate", {})
        self._touched |= set(self.state)
        self.state.clear()
        self.soft = {key: (row, self.at if died is None else died) for key, (row, died) in self.soft.items()}

    def cut(self) -> None:
        """What comes next is applied by another call."""
        if self.pending:
            self.events.append((self.table, changes_of(self.table, self.pending)))
        self.pending = []

    def commit(self) -> None:
        """End the transaction: of several changes in it the last one is a version."""
        versions = {self.key(version[0]): version for version in self.history if version[2] is None}
        for key in sorted(self._touched, key=repr):
            if key in versions:
                versions[key][2] = self.at
            if key in self.state:
                active = {name: None if name in self.dropped else v for name, v in self.state[key].items()}
                self.history.append([active, self.at, None])
        self._touched, self._logged = set(), 0
        self.lsn, self.at = self.lsn + 8, self.at + 1000

    def reshape(self, columns: Sequence[Column], renamed: dict[str, str]) -> None:
        """Between transactions: columns come, go or change their names."""
        self.cut()
        self.events.append((self.table, Reshaped(tuple(columns), renamed)))
        names = [c.name for c in columns]
        gone = [c.name for c in self.table.columns if renamed.get(c.name, c.name) not in names]
        self.dropped = [*self.dropped, *gone]

        def reshaped(row: Row) -> Row:
            moved = {renamed.get(name, name): value for name, value in row.items()}
            return {**moved, **{name: None for name in names if name not in moved}}

        self.state = {key: reshaped(row) for key, row in self.state.items()}
        self.soft = {key: (reshaped(row), died) for key, (row, died) in self.soft.items()}
        for version in self.history:
            version[0] = reshaped(version[0])
        self.log = [reshaped(row) for row in self.log]
        key = tuple(renamed.get(name, name) for name in self.table.key)
        self.table = Table(self.table.name, tuple(columns), key)

    def _note(self, change: Change) -> None:
        self.pending.append(change)
        if change.before is not None:
            self._log("delete", change.before)
        self._log(change.kind, {c: v for c, v in change.row.items() if c not in change.unchanged}, change.unchanged)

    def _log(self, kind: str, row: Row, unchanged: frozenset[str] = frozenset()) -> None:
        entry = {"_change": kind, "_lsn": self.lsn, "_at": self.at, "_seq": self._logged}
        if unchanged:
            entry["_unchanged"] = sorted(unchanged)
        self.log.append({**row, **entry})
        self._logged += 1


def last_ordinal(event: Event) -> int:
    """That of the last change in it; 0 where it has none."""
    if isinstance(event, Changes):
        return int(event.ordinal[-1]) if len(event) else 0
    return event.ordinal if isinstance(event, Truncated) else 0
