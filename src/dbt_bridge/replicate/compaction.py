"""A run of changes of one keyed table becomes its net effect: at most one row per key, without a loop over rows.

    INSERT 1, UPDATE 1, DELETE 1            nothing is left of key 1: it is deleted, where the destination has it
    UPDATE 1 -> 2, UPDATE 2                 key 1 is deleted; key 2 is written once, with its last values
    UPDATE 1 -> 3, 2 -> 1, 3 -> 2           a swap: both keys are written, each from the values under its old key

The words of this file: a change touches one key, and an update that changes the key touches two, since the row leaves
one and comes to another. Between coming to a key and leaving it a row has a stay there; all stays of one row, under
whatever keys, are its lineage. A value that an update did not send is that of the last change of the same lineage
which did send it; where none did, it is the destination's, under the first key of the lineage. So chains and swaps of
keys need no steps of their own: first the destination's values are read under the old keys (`Written.found_under`),
then rows are deleted and written.

Keys are compared through codes, whatever their types are. A key holds one row at any moment, but inside of a
transaction under a deferrable constraint: see `rotations`. Two rows with one key at its end are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.contracts.destination import (
    CHANGE_LSN,
    DELETED_AT,
    VALID_FROM,
    VALID_TO,
)
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Changes,
)
from dbt_bridge.nouns.table import Table
from dbt_bridge.replicate.history_time import keep_each_ascending
from dbt_bridge.replicate.key_codes import encode_keys
from dbt_bridge.replicate.old_values import with_values_before
from dbt_bridge.replicate.rotations import Tangled, Touch, encode_values, untangle_keys

UTC_TIME = pa.timestamp("us", "UTC")
_Mask = Any  # numpy array of bool
_Index = Any  # numpy array of int64

# What a touch is to its key.
_INSERTED, _CAME, _STAYED, _LEFT, _DELETED = range(5)


@dataclass(frozen=True, slots=True)
class Written:
    """Rows to write, one entry of each array per row.

    Attributes:
        rows: in the order in which they were last changed.
        kept: column -> bool: True where no change of the run holds the value, so that the row keeps the one that the
            destination has; NULL in `rows`. Only columns that have such values.
        continues: bool: the destination has the row already; False for one that was inserted in this run.
        found_under: the key under which the destination has it, where it continues. None when that is its own
            everywhere.
        moved: bool: the destination has it under another key than it has now.
    """

    rows: pa.Table
    kept: Mapping[str, _Mask]
    continues: _Mask
    found_under: pa.Table | None
    moved: _Mask

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def needing(self, *, everything: bool = False) -> _Mask:
        """A mask: rows that go on from a standing one and keep some of its values; with `everything` all that go on."""
        if everything:
            return self.continues
        wanted = np.zeros(len(self), bool)
        for mask in self.kept.values():
            wanted |= mask
        return wanted

    def take(self, chosen: _Mask) -> Written:
        """Those of the rows, in the same order."""
        if chosen.all():
            return self
        mask = to_arrow(chosen)
        kept = {name: flags[chosen] for name, flags in self.kept.items()}
        return Written(
            self.rows.filter(mask),
            {name: flags for name, flags in kept.items() if flags.any()},
            self.continues[chosen],
            None if self.found_under is None else self.found_under.filter(mask),
            self.moved[chosen],
        )


@dataclass(frozen=True, slots=True)
class Net:
    """What a run of changes leaves. First the kept values are read, then `deleted` and the written keys go, then the
    rows come.

    Attributes:
        deleted: the key columns of rows that are gone, by a delete or to another key; none of the written keys.
        written: the rows to insert, or to write over those with their keys.
    """

    deleted: pa.Table
    written: Written


@dataclass(frozen=True, slots=True)
class Versions:
    """The committed versions that a run of changes adds to a history. Of several changes of a key in one transaction
    the last one counts.

    Attributes:
        closed: the key columns, and `valid_to` (UTC): when the open version of each touched key ended.
        continued: of those, the keys that the run's first transaction touched. A version that an earlier piece of that
            same transaction wrote is none, and goes.
        written: the new versions, with `valid_from`, `valid_to` and `_lsn`.
    """

    closed: pa.Table
    continued: pa.Table
    written: Written


@dataclass(frozen=True, slots=True)
class Lineages:
    """The touches of a run of changes, in their order: one per change, two for a key change.

    Attributes:
        event: the change that each touch belongs to.
        code: of the touched key.
        kind: new, came, stayed, left or died.
        by_key: positions, by key and then time; where two rows had a key at once, as if one had come after the other.
        by_row: positions, by lineage and then time.
        row_start: in that order: where the lineage of each position begins.
        keys: the key columns, one row per code.
        moves: whether any key changed.
    """

    table: Table
    changes: Changes
    event: _Index
    code: _Index
    kind: _Index
    by_key: _Index
    by_row: _Index
    row_start: _Index
    keys: pa.Table
    moves: bool
    _root: _Index = field(repr=False)

    @classmethod
    def of(cls, table: Table, changes: Changes) -> Lineages:
        """Follow each row of a keyed table through a run of changes.

        Raises:
            KeyRefused: a key is NULL or has a type without equality, or two rows have one key at once.
        """
        changes = with_values_before(changes)
        codes = encode_keys(table, changes)
        old, new, keys = codes.old, codes.new, codes.keys
        moves = old != new
        event = np.repeat(np.arange(len(changes)), 1 + moves)
        kinds = np.zeros(256, np.int64)
        kinds[[INSERT, UPDATE, DELETE]] = _INSERTED, _STAYED, _DELETED
        kind = kinds[changes.kind][event]
        code = new[event]
        leaves = np.flatnonzero(moves) + np.arange(moves.sum())
        kind[leaves], kind[leaves + 1] = _LEFT, _CAME
        code[leaves] = old[moves]
        by_key = np.argsort(code, kind="stable")
        by_key, stay = _stays(table, changes, _Touches(event, code, kind), by_key)
        lineage = _join_stays(stay, leaves)
        by_row = np.argsort(lineage, kind="stable") if len(leaves) or len(by_key) < len(event) else by_key
        first = _starts(lineage[by_row])
        row_start = np.maximum.accumulate(np.where(first, np.arange(len(event)), 0))
        if len(by_key) < len(event):
            kind = _end_where_last_seen(kind, by_key, by_row, row_start)
        root = np.empty_like(by_row)
        root[by_row] = by_row[row_start]
        return cls(table, changes, event, code, kind, by_key, by_row, row_start, keys, bool(len(leaves)), root)

    def net(self, *, soft: bool = False) -> Net:
        """What is left of the run.

        Args:
            soft: a deleted row stays, with its last values and the time of the delete in `_deleted_at`, which every
                written row has.
        """
        last = self._last_of_key()
        gone = self.kind[last] == _LEFT
        if not soft:
            gone |= self.kind[last] == _DELETED
        written = self._build_written(np.sort(last[~gone]))
        if soft:
            touches = np.sort(last[~gone])
            times = self._times(touches, self.kind[touches] == _DELETED)
            written = _with_columns(written, {DELETED_AT: times})
        return Net(self.keys.take(to_arrow(self.code[last[gone]])), written)

    def versions(self) -> Versions:
        """Every committed version that the run brings."""
        ordinal, committed_at = self.changes.ordinal, self.changes.committed_at
        code, at = self.code[self.by_key], self.event[self.by_key]
        last = np.ones(len(at), bool)
        last[:-1] = (code[1:] != code[:-1]) | (ordinal[at[1:]] != ordinal[at[:-1]])
        steps = self.by_key[last]  # one per key and transaction
        codes, begins = self.code[steps], committed_at[self.event[steps]]
        followed = np.zeros(len(steps), bool)
        followed[:-1] = codes[1:] == codes[:-1]
        begins = keep_each_ascending(begins, codes)
        ends = np.where(followed, np.append(begins[1:], 0), 0)
        first = _starts(codes)
        closed = self.keys.take(to_arrow(codes[first])).append_column(VALID_TO, to_arrow(begins[first]).cast(UTC_TIME))
        continued = codes[first & (ordinal[self.event[steps]] == ordinal[0])]
        there = ~np.isin(self.kind[steps], (_LEFT, _DELETED))
        order = np.argsort(steps[there], kind="stable")
        chosen = steps[there][order]
        columns = {
            VALID_FROM: to_arrow(begins[there][order]).cast(UTC_TIME),
            VALID_TO: to_arrow(ends[there][order], mask=~followed[there][order]).cast(UTC_TIME),
            CHANGE_LSN: to_arrow(ordinal[self.event[chosen]]),
        }
        written = _with_columns(self._build_written(chosen), columns)
        return Versions(closed, self.keys.take(to_arrow(continued)), written)

    def _last_of_key(self) -> _Index:
        """The last touch of each key."""
        code = self.code[self.by_key]
        ends = np.ones(len(code), bool)
        ends[:-1] = code[1:] != code[:-1]
        return self.by_key[ends]

    def _times(self, touches: _Index, chosen: _Mask) -> pa.Array:
        return to_arrow(self.changes.committed_at[self.event[touches]], mask=~chosen).cast(UTC_TIME)

    def _build_written(self, touches: _Index) -> Written:
        """The rows as they are right after these touches."""
        kept: dict[str, _Mask] = {}
        whole = self._sources(None)[touches]
        arrays = []
        for column in self.changes.rows.column_names:
            if column in self.table.key:  # as it was written last: 0.0 and -0.0 are one key
                arrays.append(self._take_key(column, touches))
                continue
            unsent = self.changes.unchanged.get(column)
            source = whole if unsent is None else self._sources(unsent)[touches]
            missing = source < 0
            if missing.any():
                kept[column] = missing
            arrays.append(_take(self.changes.rows[column], source, missing))
        root = self._root[touches]
        found = self.keys.take(to_arrow(self.code[root])) if self.moves else None
        rows = pa.Table.from_arrays(arrays, schema=_nullable(self.changes.rows.schema))
        continues, moved = self.kind[root] != _INSERTED, np.zeros(len(touches), bool)
        if self.moves:
            moved = continues & (self.code[root] != self.code[touches])
        return Written(rows, kept, continues, found, moved)

    def _take_key(self, column: str, touches: _Index) -> pa.ChunkedArray:
        """Each row's key: that of its change, or that which the row had before where it ends with leaving it."""
        rows = self.changes.rows[column]
        leaves = np.append(self.event[1:] == self.event[:-1], False)[touches]
        places = np.where(leaves, len(rows) + self.code[touches], self.event[touches])
        if leaves.any():
            rows = pa.chunked_array([*rows.chunks, *self.keys[column].chunks], rows.type)
        return _take(rows, places, np.zeros(len(touches), bool))

    def _sources(self, unsent: _Mask | None) -> _Index:
        """For each touch the change that holds the value which its row then has; -1 where the destination does."""
        sent = np.isin(self.kind, (_INSERTED, _CAME, _STAYED))
        if unsent is not None:
            sent &= ~unsent[self.event]
        place = np.where(sent[self.by_row], np.arange(len(self.event)), -1)
        latest = np.maximum.accumulate(place)
        source = np.empty(len(self.event), np.int64)
        source[self.by_row] = np.where(latest >= self.row_start, self.event[self.by_row[latest]], -1)
        return source


def net(table: Table, changes: Changes, *, soft: bool = False) -> Net:
    """What a run of changes of a keyed table leaves; see `Lineages.net`.

    Raises:
        KeyRefused: see `Lineages.of`.
    """
    return Lineages.of(table, changes).net(soft=soft)


def _starts(ordered: _Index) -> _Mask:
    """True where a value differs from the one before it."""
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return first


@dataclass(frozen=True, slots=True)
class _Touches:
    """See `Lineages`."""

    event: _Index
    code: _Index
    kind: _Index


def _stays(table: Table, changes: Changes, touches: _Touches, by_key: _Index) -> tuple[_Index, _Index]:
    """The touches by key, and the number of the stay that each touch belongs to."""
    code, kind = touches.code[by_key], touches.kind[by_key]
    first = _starts(code)
    comes = (kind == _INSERTED) | (kind == _CAME)
    empty = np.zeros(len(kind), bool)
    empty[1:] = (kind[:-1] == _LEFT) | (kind[:-1] == _DELETED)
    stay = np.empty(len(kind), np.int64)
    stay[by_key] = np.cumsum(first | comes) - 1
    wrong = ~first & (comes != empty)
    values = encode_values(changes) if changes.rotates else None
    if values is not None:  # a row that came and one that left may be two, if their values are
        earlier, after = values
        at = touches.event[by_key]
        wrong[1:] |= ~first[1:] & ~comes[1:] & ~empty[1:] & (earlier[at[1:]] != after[at[:-1]])
        wrong[:-1] |= first[:-1] & comes[:-1] & ~first[1:]  # and may have come and gone beside one that stays
    if not wrong.any():
        return by_key, stay
    try:
        if values is None:
            raise Tangled
        return untangle_keys(by_key, code, np.unique(code[wrong]), stay, _describe(changes, touches, values))
    except Tangled:
        raise KeyRefused(
            f"by the changes of {table.name} two rows have one key ({', '.join(table.key)}) at once, or none that"
            " changes",
            mend="name a key that is unique in primary_key:; where the origin checks it at the end of a transaction"
            " (DEFERRABLE), ALTER TABLE ... REPLICA IDENTITY FULL there",
        ) from None


def _describe(changes: Changes, touches: _Touches, values: tuple[_Index, _Index]) -> Callable[[int], Touch]:
    earlier, after = values

    def touch(place: int) -> Touch:
        event, kind = int(touches.event[place]), int(touches.kind[place])
        comes, goes = kind in (_INSERTED, _CAME), kind in (_LEFT, _DELETED)
        return Touch(place, int(changes.ordinal[event]), comes, goes, int(earlier[event]), int(after[event]))

    return touch


def _join_stays(stay: _Index, leaves: _Index) -> _Index:
    """The number of each touch's lineage: stays that one row made one after the other are joined."""
    if not len(leaves):
        return stay
    before = np.arange(stay.max() + 1)
    before[stay[leaves + 1]] = stay[leaves]
    while True:
        further = before[before]
        if (further == before).all():
            return before[stay]
        before = further


def _end_where_last_seen(kind: _Index, by_key: _Index, by_row: _Index, row_start: _Index) -> _Index:
    """The kinds of touches: a row that was deleted after it had come and gone beside one that stands ends under the key
    that it had before, which it did not leave for another one."""
    stands = np.zeros(len(kind), bool)
    stands[by_key] = True
    place = np.arange(len(kind))
    latest = np.maximum.accumulate(np.where(stands[by_row], place, -1))
    last = np.append(row_start[1:] != row_start[:-1], True)
    ends = last & (kind[by_row] == _DELETED) & ~stands[by_row] & (latest >= row_start)
    before = by_row[latest[ends]]
    kind = kind.copy()
    kind[before[kind[before] == _LEFT]] = _DELETED
    return kind


def _take(column: pa.ChunkedArray, source: _Index, missing: _Mask) -> pa.ChunkedArray:
    """The values at these places, NULL where they are missing."""
    if len(source) == len(column) and not missing.any() and (source == np.arange(len(source))).all():
        return column
    return column.take(to_arrow(source, mask=missing))


def _with_columns(written: Written, columns: Mapping[str, pa.Array]) -> Written:
    rows = written.rows
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return replace(written, rows=rows)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([each.with_nullable(True) for each in schema])
