"""Changes as the rows of a log: what happened, at which LSN, when it was committed, and the row's columns.

A value that an update did not send is the old row's where that came along (REPLICA IDENTITY FULL), else NULL; a delete
has the columns that the origin sent of the old row, a truncate none.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dbt_bridge.changes import DELETE, INSERT, UPDATE, Changes, Truncated
from dbt_bridge.load.compaction import UTC_TIME
from dbt_bridge.load.destination import CHANGE, CHANGE_LSN, COMMITTED_AT, Replica
from dbt_bridge.table import Column

LOG_COLUMNS = (
    Column(CHANGE, pa.string(), "text"),
    Column(CHANGE_LSN, pa.int64(), "bigint"),
    Column(COMMITTED_AT, UTC_TIME, "timestamp with time zone"),
)
_NAMES = {INSERT: "insert", UPDATE: "update", DELETE: "delete"}


def logged(replica: Replica, event: Changes | Truncated) -> pa.Table:
    """One row per change: the landing table's columns, then `LOG_COLUMNS`."""
    if isinstance(event, Truncated):
        nothing = [pa.nulls(1, c.type) for c in replica.table.columns]
        rows = pa.Table.from_arrays(nothing, names=[c.name for c in replica.table.columns])
        return _with(rows, pa.array(["truncate"]), pa.array([event.lsn]), pa.array([event.committed_at]))
    codes = np.searchsorted(sorted(_NAMES), event.kind)
    kinds = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array([_NAMES[k] for k in sorted(_NAMES)]))
    names = [c.name for c in replica.table.columns]
    return _with(
        whole_rows(event).select(names), kinds.cast(pa.string()), pa.array(event.lsn), pa.array(event.committed_at)
    )


def _with(rows: pa.Table, kinds: pa.Array, lsn: pa.Array, committed_at: pa.Array) -> pa.Table:
    rows = rows.append_column(CHANGE, kinds).append_column(CHANGE_LSN, lsn.cast(pa.int64()))
    return rows.append_column(COMMITTED_AT, committed_at.cast(UTC_TIME))


def whole_rows(changes: Changes) -> pa.Table:
    """The rows, with the values that updates did not send from their old rows, as far as these came along."""
    rows, before = changes.rows, changes.before
    for name, unsent in changes.unchanged.items():
        if before is None or name not in before.column_names or not unsent.any():
            continue
        place = np.where(unsent, np.arange(len(rows)) + len(rows), np.arange(len(rows)))
        both = pa.chunked_array([*rows[name].chunks, *before[name].chunks], rows[name].type)
        rows = rows.set_column(rows.column_names.index(name), name, both.take(pa.array(place)))
    return rows
