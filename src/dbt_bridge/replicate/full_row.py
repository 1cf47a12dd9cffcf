"""Changes of a table without a key: a changed row is found by all its old values, NULLs included.

The table is a multiset. A destination first adds `added`; then it takes away, for each row of `removed` and of `died`,
exactly one equal row: that order is right whichever of them the run itself added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dbt_bridge.contracts.destination import DELETED_AT
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.changes import DELETE, UPDATE, Changes
from dbt_bridge.nouns.table import Table
from dbt_bridge.replicate.compaction import UTC_TIME
from dbt_bridge.replicate.old_values import with_values_before


@dataclass(frozen=True, slots=True)
class FullRows:
    """What a run of changes does to a multiset of rows.

    Attributes:
        added: new rows.
        removed: old rows of updates, and of deletes where a deleted row is to go.
        died: with `_deleted_at`: old rows of deletes where a deleted row is to stay.
        inserts, updates, deletes: how many changes there were of each kind.
    """

    added: pa.Table
    removed: pa.Table
    died: pa.Table
    inserts: int
    updates: int
    deletes: int


def full_rows(table: Table, changes: Changes, *, soft: bool = False) -> FullRows:
    """Raises KeyRefused where an update came without its old row, as it does but for REPLICA IDENTITY FULL."""
    changes = with_values_before(changes)
    updates, deletes = changes.kind == UPDATE, changes.kind == DELETE
    unknown = np.zeros(len(changes), bool)
    for unsent in changes.unchanged.values():
        unknown |= unsent
    if updates.any():
        unknown |= updates if changes.has_before is None else updates & ~changes.has_before
    if unknown.any():
        raise KeyRefused(
            f"{table.name} has no key, and its updates came without the old row that would be found by its values",
            mend=f"at the origin: ALTER TABLE {table.name} REPLICA IDENTITY FULL, or ADD PRIMARY KEY",
        )
    rows = changes.rows
    removed = [] if soft else [rows.filter(pa.array(deletes))]
    if changes.before is not None:
        before = changes.before.select(rows.column_names).cast(rows.schema)
        removed.append(before.filter(pa.array(updates)))
    died = rows.filter(pa.array(deletes if soft else np.zeros(len(changes), bool)))
    at = pa.array(changes.committed_at[deletes] if soft else np.empty(0, np.int64)).cast(UTC_TIME)
    return FullRows(
        rows.filter(pa.array(~deletes)),
        pa.concat_tables(removed) if removed else rows.slice(0, 0),
        died.append_column(DELETED_AT, at),
        int(len(changes) - updates.sum() - deletes.sum()),
        int(updates.sum()),
        int(deletes.sum()),
    )
