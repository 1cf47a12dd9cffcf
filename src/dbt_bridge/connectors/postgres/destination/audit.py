"""The audit tables of `_dbt_bridge` in Postgres: receipts, checkpoints, and parity once something was compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination.column_types import landing_type
from dbt_bridge.nouns.checkpoint import CHECKPOINT_FIELDS, Checkpoint
from dbt_bridge.nouns.parity_row import PARITY, ParityRow
from dbt_bridge.nouns.receipt import AUDIT_SCHEMA, RECEIPTS, Receipt
from dbt_bridge.nouns.table import Table
from dbt_bridge.replicate import audit_tables
from dbt_bridge.replicate.audit_tables import Columns, spell_types

_CHECKPOINTS = sql.Identifier(AUDIT_SCHEMA, "checkpoints")
_LOCK = 0x6462_7462  # "dbtb": CREATE IF NOT EXISTS of two sessions at once breaks one of them

MOVED, COMPARED = (spell_types(tables, landing_type) for tables in (audit_tables.MOVED, audit_tables.COMPARED))


def _standing(cur: Cursor[Any], tables: Mapping[str, Columns] = MOVED) -> dict[str, set[str]]:
    """Those of the audit tables that are there, with their columns."""
    cur.execute(
        "SELECT c.relname, array_agg(a.attname::text)\n"
        "FROM pg_class c\n"
        "JOIN pg_namespace n ON n.oid = c.relnamespace\n"
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped\n"
        "WHERE n.nspname = %s AND c.relname = ANY(%s)\n"
        "GROUP BY c.relname",
        [AUDIT_SCHEMA, list(tables)],
    )
    return {table: set(columns) for table, columns in cur.fetchall()}


def ensure(cur: Cursor[Any], tables: Mapping[str, Columns] = MOVED) -> None:
    """Create the audit schema and these tables where they are missing, in the caller's transaction.

    Tables that an earlier version made get the columns that they lack.
    """
    if _complete(_standing(cur, tables), tables):
        return
    cur.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    if not _exists(cur):
        cur.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(AUDIT_SCHEMA)))
    there = _standing(cur, tables)
    for table, columns in tables.items():
        name = sql.Identifier(AUDIT_SCHEMA, table)
        if table not in there:
            cur.execute(sql.SQL("CREATE TABLE {} (\n  {}\n)").format(name, _definitions(table, columns)))
        for column in columns.keys() - there.get(table, columns.keys()):
            cur.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
                    name, sql.Identifier(column), sql.SQL(columns[column])
                )
            )


def _complete(there: Mapping[str, set[str]], tables: Mapping[str, Columns]) -> bool:
    return all(columns.keys() <= there.get(table, set()) for table, columns in tables.items())


def _definitions(table: str, columns: Columns) -> sql.Composed:
    key = {"checkpoints": "node"}.get(table)
    return sql.SQL(",\n  ").join(
        sql.SQL("{} {}{}").format(
            sql.Identifier(column), sql.SQL(type_), sql.SQL(" PRIMARY KEY" if column == key else "")
        )
        for column, type_ in columns.items()
    )


def _exists(cur: Cursor[Any]) -> bool:
    cur.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [AUDIT_SCHEMA])
    return cur.fetchone() is not None


def append_receipts(cur: Cursor[Any], receipts: Sequence[Receipt]) -> None:
    if not receipts:
        return
    _append(cur, RECEIPTS, [receipt.as_dict() for receipt in receipts])


def append_parity(cur: Cursor[Any], rows: Sequence[ParityRow]) -> None:
    _append(cur, PARITY, [row.as_dict() for row in rows])


def _append(cur: Cursor[Any], table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [c.name for c in table.columns]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table.name.schema, table.name.name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.Placeholder() for _ in names),
    )
    cur.executemany(statement, [[row[name] for name in names] for row in rows])


def save_checkpoints(cur: Cursor[Any], checkpoints: Sequence[Checkpoint]) -> None:
    """Replace each node's checkpoint."""
    if not checkpoints:
        return
    columns = [sql.Identifier(name) for name in CHECKPOINT_FIELDS]
    statement = sql.SQL(
        "INSERT INTO {table} ({columns}, saved_at)\n"
        "VALUES ({values}, now())\n"
        "ON CONFLICT (node) DO UPDATE\n"
        "SET {changes}, saved_at = now()"
    ).format(
        table=_CHECKPOINTS,
        columns=sql.SQL(", ").join(columns),
        values=sql.SQL(", ").join(sql.Placeholder() for _ in columns),
        changes=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in columns[1:]),
    )
    cur.executemany(statement, [list(point.as_row().values()) for point in checkpoints])


def checkpoint(cur: Cursor[Any], node: str) -> Checkpoint | None:
    return next(iter(_read(cur, sql.SQL("WHERE node = {}").format(sql.Literal(node)))), None)


def checkpoints(cur: Cursor[Any]) -> list[Checkpoint]:
    """All of them, in the order of their nodes."""
    return _read(cur, sql.SQL("ORDER BY node"))


def _read(cur: Cursor[Any], which: sql.Composable) -> list[Checkpoint]:
    """Whole rows, so that a table of an earlier version can be read by a user who may not alter it."""
    if "checkpoints" not in _standing(cur):
        return []
    cur.execute(sql.SQL("SELECT to_jsonb(c) FROM {} AS c {}").format(_CHECKPOINTS, which))
    return [Checkpoint.of_row(row) for (row,) in cur.fetchall()]


def forget(cur: Cursor[Any], node: str) -> None:
    if "checkpoints" in _standing(cur):
        cur.execute(sql.SQL("DELETE FROM {} WHERE node = %s").format(_CHECKPOINTS), [node])
