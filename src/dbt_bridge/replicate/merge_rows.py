"""The net effect of a run of changes as one table of rows, each with what is to be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.contracts.destination import DELETED_AT, Replica
from dbt_bridge.nouns.table import Column
from dbt_bridge.replicate.compaction import UTC_TIME, Net, Written

# What is to be done with a staged row.
DO = "_dbt_bridge_do"
GONE, WHOLE, FRESH, KEEPING, MOVED = range(5)
#   GONE     the row with this key is deleted
#   WHOLE    every value is here; the destination has the row, as far as the changes tell
#   FRESH    every value is here; the row is a new one
#   KEEPING  some values are the destination's own
#   MOVED    the destination has the row under another key
DELETED_AT_COLUMN = Column(DELETED_AT, UTC_TIME, "timestamp with time zone")


@dataclass(frozen=True, slots=True)
class Staging:
    """Rows to stage, and under which names their further columns go.

    Attributes:
        columns: of the landing table, those that are staged.
        kept: column -> the column that says that the landing table's own value stays.
        found: key column -> the column with the key under which the landing table has the row.
    """

    rows: pa.Table
    columns: tuple[Column, ...]
    kept: Mapping[str, str]
    found: Mapping[str, str]
    more: tuple[Column, ...]

    @property
    def all_columns(self) -> tuple[Column, ...]:
        return (*self.columns, *self.more)


def build_staging(replica: Replica, own: Sequence[Column], written: Written, gone: pa.Table, do: Any) -> Staging:
    """The written rows, and the keys of the gone ones, as one table to stage.

    Args:
        own: columns beyond the origin's: in `written.rows`, NULL for gone rows that do not have them.
        do: what is to be done with each written row; gone rows get GONE unless they say it themselves.
    """
    columns = (*replica.table.columns, *own)
    rows = written.rows.select([c.name for c in columns]).append_column(DO, pa.array(do, pa.int16()))
    more = [Column(DO, pa.int16())]
    kept: dict[str, str] = {}
    for i, (name, flags) in enumerate(written.kept.items()):
        kept[name] = f"_dbt_bridge_kept_{i}"
        rows = rows.append_column(kept[name], pa.array(flags))
        more.append(Column(kept[name], pa.bool_()))
    found: dict[str, str] = {}
    for i, name in enumerate(replica.table.key if written.found_under is not None else ()):
        column = replica.table.column(name)
        assert column is not None and written.found_under is not None
        found[name] = f"_dbt_bridge_found_{i}"
        rows = rows.append_column(found[name], written.found_under[name])
        more.append(Column(found[name], column.type, column.origin_type))
    if len(gone):
        if DO not in gone.column_names:
            gone = gone.append_column(DO, pa.array(np.full(len(gone), GONE), pa.int16()))
        rows = pa.concat_tables([rows, gone], promote_options="default")
    return Staging(rows, columns, kept, found, tuple(more))


def choose_actions(written: Written) -> Any:
    """What is to be done with each written row."""
    do = np.where(written.continues, WHOLE, FRESH)
    do[written.needing()] = KEEPING
    do[written.moved] = MOVED
    return do


@dataclass(frozen=True, slots=True)
class Effects:
    """What became of the table's rows. A row that got the time of its delete counts as deleted."""

    inserted: int
    updated: int
    deleted: int


def count_effects(replica: Replica, net: Net, inserted: int, updated: int, deleted: int) -> Effects:
    """From what the destination counted. A row that moved to another key is neither inserted nor deleted."""
    written = net.written
    soft_deleted = 0
    if replica.deletes == "soft":
        soft_deleted = int(
            (written.rows[DELETED_AT].is_valid().to_numpy(zero_copy_only=False) & written.continues).sum()
        )
    if not written.moved.any():
        return Effects(inserted, updated - soft_deleted, deleted + soft_deleted)
    new = int((~written.continues).sum())
    return Effects(new, int(written.continues.sum()) - soft_deleted, max(0, new + deleted - inserted) + soft_deleted)
