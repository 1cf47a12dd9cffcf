"""The audit tables of `_dbt_bridge`, declared once for every warehouse that keeps them.

A new column is a new field of `Receipt`, `ParityRow` or `Checkpoint`: tables that an earlier version made get it when
they are next written to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from dbt_bridge.nouns.checkpoint import CHECKPOINT_FIELDS
from dbt_bridge.nouns.parity_row import PARITY
from dbt_bridge.nouns.receipt import AUDIT_SCHEMA, RECEIPTS
from dbt_bridge.nouns.table import Column, Table, TableName

CHECKPOINTS = Table(
    TableName(AUDIT_SCHEMA, "checkpoints"),
    tuple(Column(name, pa.string()) for name in CHECKPOINT_FIELDS),
    key=("node",),
)
SAVED_AT = Column("saved_at", pa.timestamp("us", "UTC"))
"""Beside a checkpoint's fields, where the warehouse's own clock can write it."""

MOVED = (RECEIPTS, Table(CHECKPOINTS.name, (*CHECKPOINTS.columns, SAVED_AT), CHECKPOINTS.key))
COMPARED = (PARITY,)

Columns = Mapping[str, str]


def spell_types(tables: Sequence[Table], sql_type: Callable[[Column], str]) -> Mapping[str, Columns]:
    """Table -> column -> the warehouse's SQL type."""
    return {table.name.name: {column.name: sql_type(column) for column in table.columns} for table in tables}
