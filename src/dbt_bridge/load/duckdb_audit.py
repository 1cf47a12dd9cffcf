"""The audit tables `_dbt_bridge.receipts` and `_dbt_bridge.checkpoints` in DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dbt_bridge.load.destination import Checkpoint
from dbt_bridge.load.duckdb_retry import in_transaction, retried
from dbt_bridge.receipt import AUDIT_SCHEMA, RECEIPTS, Receipt, as_arrow
from dbt_bridge.table import quoted

_SQL_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "timestamp[us, tz=UTC]": "TIMESTAMPTZ"}


def _table(catalog: str, name: str) -> str:
    return f"{quoted(catalog)}.{quoted(AUDIT_SCHEMA)}.{quoted(name)}"


def ensure(cur: Any, catalog: str) -> None:
    """Create the audit schema and its tables where they are missing. Several threads may do so at once."""
    found = cur.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = ? AND schema_name = ? "
        "AND table_name IN ('receipts', 'checkpoints')",
        [catalog, AUDIT_SCHEMA],
    ).fetchone()
    if found == (2,):
        return
    columns = ",\n  ".join(f"{quoted(c.name)} {_SQL_TYPES[str(c.type)]}" for c in RECEIPTS.columns)
    for statement in (
        f"CREATE SCHEMA IF NOT EXISTS {quoted(catalog)}.{quoted(AUDIT_SCHEMA)}",
        f"CREATE TABLE IF NOT EXISTS {_table(catalog, 'receipts')} (\n  {columns}\n)",
        f"CREATE TABLE IF NOT EXISTS {_table(catalog, 'checkpoints')}\n"
        "  (node VARCHAR, origin VARCHAR, cursor VARCHAR, value VARCHAR, saved_at TIMESTAMPTZ)",
    ):
        retried(lambda statement=statement: cur.execute(statement))  # type: ignore[misc]


def append_receipts(cur: Any, catalog: str, receipts: Sequence[Receipt]) -> None:
    """Append inside the caller's transaction."""
    if not receipts:
        return
    cur.register("_dbt_bridge_new_receipts", as_arrow(tuple(receipts)))
    try:
        cur.execute(f"INSERT INTO {_table(catalog, 'receipts')} BY NAME FROM _dbt_bridge_new_receipts")
    finally:
        cur.unregister("_dbt_bridge_new_receipts")


def save_checkpoints(cur: Any, catalog: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Replace each node's checkpoint inside the caller's transaction."""
    for point in checkpoints:
        cur.execute(f"DELETE FROM {_table(catalog, 'checkpoints')} WHERE node = ?", [point.node])  # noqa: S608
        cur.execute(
            f"INSERT INTO {_table(catalog, 'checkpoints')} VALUES (?, ?, ?, ?, now())",  # noqa: S608
            [point.node, point.origin, point.cursor, point.value],
        )


def checkpoint(cur: Any, catalog: str, node: str) -> Checkpoint | None:
    ensure(cur, catalog)
    row = cur.execute(
        f"SELECT node, origin, cursor, value FROM {_table(catalog, 'checkpoints')} WHERE node = ?",  # noqa: S608
        [node],
    ).fetchone()
    return Checkpoint(*row) if row else None


def forget(cur: Any, catalog: str, node: str) -> None:
    ensure(cur, catalog)
    statement = f"DELETE FROM {_table(catalog, 'checkpoints')} WHERE node = ?"  # noqa: S608
    in_transaction(cur, lambda cur: cur.execute(statement, [node]))
