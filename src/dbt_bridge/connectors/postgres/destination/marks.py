"""What a Postgres destination remembers of deliveries, in the schema of their tables; see `contracts.outgoing.MARKS`.

A table is known by its oid: one that was dropped and made again has nothing behind it.
"""

from __future__ import annotations

from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination.relation import Relation, find_relation, identifier
from dbt_bridge.contracts.outgoing import MARKS, Outgoing
from dbt_bridge.nouns.table import TableName

_LOCK = 0x6462_7464


def remember(cur: Cursor[Any], table: Relation, delivery: Outgoing, load_id: str) -> None:
    """Keep what this delivery brought, in the transaction of its rows."""
    if not (delivery.token or delivery.secret):
        return
    marks = _marks(cur, table.name.schema)
    if find_relation(cur, marks) is None:
        cur.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        cur.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (\n"
                "  table_oid bigint, exposure text, relation text, table_name text,\n"
                "  token text, secret bytea, load_id text, delivered_at timestamptz,\n"
                "  PRIMARY KEY (table_oid, exposure, relation)\n"
                ")"
            ).format(identifier(marks))
        )
    cur.execute(
        sql.SQL(
            "INSERT INTO {} VALUES (%s, %s, %s, %s, %s, %s, %s, now())\n"
            "ON CONFLICT (table_oid, exposure, relation) DO UPDATE\n"
            "SET token = excluded.token, secret = excluded.secret, load_id = excluded.load_id,\n"
            "  delivered_at = excluded.delivered_at"
        ).format(identifier(marks)),
        [
            table.oid, delivery.node, delivery.relation, table.name.name, delivery.token, delivery.secret, load_id,
        ],
    )  # fmt: skip


def recall(cur: Cursor[Any], table: Relation, delivery: Outgoing) -> tuple[str, bytes]:
    """The token and the secret of this exposure's last delivery into this very table; empty without one."""
    marks = _marks(cur, table.name.schema)
    if find_relation(cur, marks) is None:
        return "", b""
    cur.execute(
        sql.SQL("SELECT token, secret FROM {} WHERE table_oid = %s AND exposure = %s AND relation = %s").format(
            identifier(marks)
        ),
        [table.oid, delivery.node, delivery.relation],
    )
    row = cur.fetchone()
    return ("", b"") if row is None else (row[0], bytes(row[1]))


def _marks(cur: Cursor[Any], schema: str) -> TableName:
    """The table of marks; one of this user's own, where another one's is out of reach."""
    cur.execute(
        "SELECT has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')\n"
        "  AND has_table_privilege(c.oid, 'UPDATE'), (SELECT oid FROM pg_roles WHERE rolname = current_user)\n"
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n"
        "WHERE n.nspname = %s AND c.relname = %s",
        [schema, MARKS],
    )
    row = cur.fetchone()
    return TableName(schema, MARKS if row is None or row[0] else f"{MARKS}_{row[1]}")
