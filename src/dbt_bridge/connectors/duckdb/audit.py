"""The audit tables of `_dbt_bridge` in DuckDB: receipts, checkpoints, and parity once something was compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dbt_bridge.connectors.duckdb.relation import fill_in
from dbt_bridge.connectors.duckdb.session import in_transaction, retry_conflicts
from dbt_bridge.nouns import parity_row
from dbt_bridge.nouns.checkpoint import CHECKPOINT_FIELDS, Checkpoint
from dbt_bridge.nouns.parity_row import ParityRow
from dbt_bridge.nouns.receipt import AUDIT_SCHEMA, Receipt, as_arrow
from dbt_bridge.nouns.table import Column, quote_identifier
from dbt_bridge.replicate import audit_tables
from dbt_bridge.replicate.audit_tables import Columns, spell_types

_SQL_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "timestamp[us, tz=UTC]": "TIMESTAMPTZ"}


def _sql_type(column: Column) -> str:
    return _SQL_TYPES[str(column.type)]


MOVED, COMPARED = (spell_types(tables, _sql_type) for tables in (audit_tables.MOVED, audit_tables.COMPARED))


def _table(catalog: str, name: str) -> str:
    return f"{quote_identifier(catalog)}.{quote_identifier(AUDIT_SCHEMA)}.{quote_identifier(name)}"


def ensure(cur: Any, catalog: str, tables: Mapping[str, Columns] = MOVED) -> None:
    """Create the audit schema and these tables where they are missing, and the columns that an earlier version did not
    have. Several threads may do so at once."""
    columns_of = "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = ? AND schema_name = ?"
    found = cur.execute(fill_in(columns_of, catalog, AUDIT_SCHEMA)).fetchall()
    standing = {table: {column for t, column in found if t == table} for table in tables}
    if not found:
        _execute(cur, f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(catalog)}.{quote_identifier(AUDIT_SCHEMA)}")
    for table, columns in tables.items():
        if not standing[table]:
            parts = ",\n  ".join(f"{quote_identifier(name)} {type_}" for name, type_ in columns.items())
            _execute(cur, f"CREATE TABLE IF NOT EXISTS {_table(catalog, table)} (\n  {parts}\n)")
            continue
        for name in columns.keys() - standing[table]:
            added = f"{quote_identifier(name)} {columns[name]}"
            _execute(cur, f"ALTER TABLE {_table(catalog, table)} ADD COLUMN IF NOT EXISTS {added}")


def _execute(cur: Any, statement: str) -> None:
    retry_conflicts(lambda: cur.execute(statement))


def append_receipts(cur: Any, catalog: str, receipts: Sequence[Receipt]) -> None:
    """Append inside the caller's transaction."""
    if receipts:
        _append(cur, _table(catalog, "receipts"), as_arrow(tuple(receipts)))


def append_parity(cur: Any, catalog: str, rows: Sequence[ParityRow]) -> None:
    """Append inside the caller's transaction."""
    _append(cur, _table(catalog, "parity"), parity_row.as_arrow(rows))


def _append(cur: Any, table: str, rows: pa.Table) -> None:
    cur.register("_dbt_bridge_new_rows", rows)
    try:
        cur.execute(f"INSERT INTO {table} BY NAME FROM _dbt_bridge_new_rows")
    finally:
        cur.unregister("_dbt_bridge_new_rows")


def save_checkpoints(cur: Any, catalog: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Replace each node's checkpoint inside the caller's transaction."""
    names = ", ".join(map(quote_identifier, CHECKPOINT_FIELDS))
    marks = ", ".join("?" for _ in CHECKPOINT_FIELDS)
    for point in checkpoints:
        cur.execute(f"DELETE FROM {_table(catalog, 'checkpoints')} WHERE node = ?", [point.node])  # noqa: S608
        cur.execute(
            f"INSERT INTO {_table(catalog, 'checkpoints')} ({names}, saved_at) VALUES ({marks}, now())",  # noqa: S608
            list(point.as_row().values()),
        )


def checkpoint(cur: Any, catalog: str, node: str) -> Checkpoint | None:
    return next((point for point in checkpoints(cur, catalog) if point.node == node), None)


def checkpoints(cur: Any, catalog: str) -> list[Checkpoint]:
    """All of them. What an earlier version did not save is empty."""
    ensure(cur, catalog)
    names = ", ".join(map(quote_identifier, CHECKPOINT_FIELDS))
    rows = cur.execute(f"SELECT {names} FROM {_table(catalog, 'checkpoints')} ORDER BY node").fetchall()  # noqa: S608
    return [Checkpoint.of_row(dict(zip(CHECKPOINT_FIELDS, row, strict=True))) for row in rows]


def forget(cur: Any, catalog: str, node: str) -> None:
    ensure(cur, catalog)
    statement = f"DELETE FROM {_table(catalog, 'checkpoints')} WHERE node = ?"  # noqa: S608
    in_transaction(cur, lambda cur: cur.execute(statement, [node]))
