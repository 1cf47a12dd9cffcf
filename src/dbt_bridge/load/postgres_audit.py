"""The audit tables `_dbt_bridge.receipts` and `_dbt_bridge.checkpoints` in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.load.destination import Checkpoint
from dbt_bridge.load.postgres_types import landing_type
from dbt_bridge.receipt import AUDIT_SCHEMA, RECEIPTS, Receipt

_RECEIPTS = sql.Identifier(AUDIT_SCHEMA, "receipts")
_CHECKPOINTS = sql.Identifier(AUDIT_SCHEMA, "checkpoints")
_LOCK = 0x6462_7462  # "dbtb": CREATE IF NOT EXISTS of two sessions at once breaks one of them


def _stands(cur: Cursor[Any]) -> bool:
    cur.execute(
        "SELECT count(*)\n"
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n"
        "WHERE n.nspname = %s AND c.relname IN ('receipts', 'checkpoints')",
        [AUDIT_SCHEMA],
    )
    return cur.fetchone() == (2,)


def ensure(cur: Cursor[Any]) -> None:
    """Create the audit schema and its tables where they are missing, in the caller's transaction."""
    if _stands(cur):
        return
    cur.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    columns = sql.SQL(",\n  ").join(
        sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(landing_type(c))) for c in RECEIPTS.columns
    )
    if not _exists(cur):
        cur.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(AUDIT_SCHEMA)))
    cur.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} (\n  {}\n)").format(_RECEIPTS, columns))
    cur.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (\n"
            "  node text PRIMARY KEY, origin text, cursor text, value text, saved_at timestamptz\n)"
        ).format(_CHECKPOINTS)
    )


def _exists(cur: Cursor[Any]) -> bool:
    cur.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [AUDIT_SCHEMA])
    return cur.fetchone() is not None


def append_receipts(cur: Cursor[Any], receipts: Sequence[Receipt]) -> None:
    if not receipts:
        return
    names = [c.name for c in RECEIPTS.columns]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        _RECEIPTS,
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.Placeholder() for _ in names),
    )
    cur.executemany(statement, [[receipt.as_dict()[name] for name in names] for receipt in receipts])


def save_checkpoints(cur: Cursor[Any], checkpoints: Sequence[Checkpoint]) -> None:
    """Replace each node's checkpoint."""
    for point in checkpoints:
        cur.execute(
            sql.SQL(
                "INSERT INTO {} (node, origin, cursor, value, saved_at)\n"
                "VALUES (%s, %s, %s, %s, now())\n"
                "ON CONFLICT (node) DO UPDATE\n"
                "SET origin = excluded.origin, cursor = excluded.cursor, value = excluded.value, saved_at = now()"
            ).format(_CHECKPOINTS),
            [point.node, point.origin, point.cursor, point.value],
        )


def checkpoint(cur: Cursor[Any], node: str) -> Checkpoint | None:
    if not _stands(cur):
        return None
    cur.execute(sql.SQL("SELECT node, origin, cursor, value FROM {} WHERE node = %s").format(_CHECKPOINTS), [node])
    row = cur.fetchone()
    return Checkpoint(*row) if row else None


def forget(cur: Cursor[Any], node: str) -> None:
    if _stands(cur):
        cur.execute(sql.SQL("DELETE FROM {} WHERE node = %s").format(_CHECKPOINTS), [node])
