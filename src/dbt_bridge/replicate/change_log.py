"""A table's changes as rows of a log, from which its state can be rebuilt.

    _change         insert, update, delete or truncate
    _lsn            of the commit, as an integer; NULL in rows of a copy
    _seq            the number of the row in its commit: `_lsn, _seq` is the order in which things happened
    _committed_at   by the origin's clock; of a copy when its snapshot was taken
    _unchanged      the columns whose value an update did not send, as it is large and did not change: it is NULL here,
                    and what it was before; NULL where there are none

A delete has the values of the replica identity alone. An update that changed the key (without a key, under REPLICA
IDENTITY FULL: any update) is preceded by a `delete` with the old values and the same `_lsn`. A table that is copied
anew is logged as a truncate and inserts.

The state of a table without a key is a sum: each row is there as often as it came more than it went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.contracts.destination import CHANGE, CHANGE_LSN, COMMITTED_AT
from dbt_bridge.nouns.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Changes,
    Truncated,
)
from dbt_bridge.nouns.table import Table
from dbt_bridge.replicate.compaction import UTC_TIME
from dbt_bridge.replicate.key_codes import find_moved
from dbt_bridge.replicate.old_values import with_values_before

SEQUENCE, UNCHANGED = "_seq", "_unchanged"
LOG_COLUMNS = {
    CHANGE: pa.string(),
    CHANGE_LSN: pa.int64(),
    SEQUENCE: pa.int64(),
    COMMITTED_AT: UTC_TIME,
    UNCHANGED: pa.list_(pa.string()),
}
_WORDS = {INSERT: 0, UPDATE: 1, DELETE: 2}


@dataclass(slots=True)
class LogRows:
    """The rows of one table's log, run after run, also where a transaction comes in several."""

    _lsn: int = -1
    _rows: int = 0  # that the transaction of this LSN has in the log

    def build(self, table: Table, event: Changes | Truncated) -> pa.Table:
        """The rows for a run of changes that is not empty, in their order; for a TRUNCATE its one row, which has no
        other columns than the log's own.

        Raises:
            KeyRefused: a key is NULL, or has a type without equality.
        """
        if isinstance(event, Truncated):
            last = event.ordinal
            rows = _build_truncate_row(event, self._sequence(event.ordinal))
        else:
            last = int(event.ordinal[-1])
            rows = _build_change_rows(table, event, self._sequence(int(event.ordinal[0])))
        of_last = int(pc.sum(pc.equal(rows[CHANGE_LSN], last)).as_py())
        self._lsn, self._rows = last, of_last + self._sequence(last)
        return rows

    def _sequence(self, lsn: int) -> int:
        """How many rows the log has of this transaction."""
        return self._rows if lsn == self._lsn else 0


def _build_change_rows(table: Table, changes: Changes, sequence: int = 0) -> pa.Table:
    """The rows for a run of changes.

    Args:
        sequence: how many rows of the first commit were logged before.
    """
    changes = with_values_before(changes)
    replaced = find_moved(table, changes) if table.key else _has_before(changes)
    event = np.repeat(np.arange(len(changes)), 1 + replaced)
    old = np.zeros(len(event), bool)
    old[np.flatnonzero(replaced) + np.arange(replaced.sum())] = True
    rows = pa.Table.from_arrays(
        [_values(changes, name, event, old) for name in changes.rows.column_names], changes.rows.column_names
    )
    words = np.zeros(256, np.int64)
    words[list(_WORDS)] = list(_WORDS.values())
    word = np.where(old, _WORDS[DELETE], words[changes.kind[event]])
    ordinal = changes.ordinal[event]
    first = np.maximum.accumulate(np.where(np.append(True, ordinal[1:] != ordinal[:-1]), np.arange(len(event)), 0))
    number = np.arange(len(event)) - first + np.where(ordinal == ordinal[0], sequence, 0)
    columns = {
        CHANGE: pa.array(["insert", "update", "delete"]).take(to_arrow(word)),
        CHANGE_LSN: to_arrow(ordinal),
        SEQUENCE: to_arrow(number),
        COMMITTED_AT: to_arrow(changes.committed_at[event]).cast(UTC_TIME),
        UNCHANGED: _unsent(changes, event, old),
    }
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return rows


def _build_truncate_row(event: Truncated, sequence: int = 0) -> pa.Table:
    """The one row of the log for a TRUNCATE: it has no other columns."""
    values: Sequence[object] = ("truncate", event.ordinal, sequence, event.committed_at, None)
    arrays = [
        pa.array([value], pa.int64()).cast(type_) if type_ == UTC_TIME else pa.array([value], type_)
        for value, type_ in zip(values, LOG_COLUMNS.values(), strict=True)
    ]
    return pa.Table.from_arrays(arrays, list(LOG_COLUMNS))


def _has_before(changes: Changes) -> np.ndarray:
    if changes.has_before is None:
        return np.zeros(len(changes), bool)
    return np.asarray(changes.has_before & (changes.kind == UPDATE))


def _values(changes: Changes, name: str, event: np.ndarray, old: np.ndarray) -> pa.ChunkedArray:
    column = changes.rows[name]
    if not old.any():
        return column
    assert changes.before is not None, "old rows come from there"
    if name not in changes.before.column_names:
        return column.take(to_arrow(event, mask=old))
    both = pa.chunked_array([*column.chunks, *changes.before[name].chunks], column.type)
    return both.take(to_arrow(np.where(old, event + len(changes), event)))


def _unsent(changes: Changes, event: np.ndarray, old: np.ndarray) -> pa.Array:
    names = list(changes.unchanged)
    flags = np.zeros((len(event), len(names)), bool)
    for place, name in enumerate(names):
        flags[:, place] = changes.unchanged[name][event] & ~old
    counts = flags.sum(axis=1)
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    values = pa.array(names, pa.string()).take(to_arrow(np.nonzero(flags)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=to_arrow(counts == 0))
