"""What a Postgres destination remembers of deliveries, in the schema of their tables; see `contracts.outgoing.MARKS`.

A table is known by its oid: one that was dropped and made again has nothing behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection, Cursor, errors, sql

from dbt_bridge.connectors.postgres.destination.relation import Relation, find_relation, identifier
from dbt_bridge.contracts.outgoing import MARKS, Mark, Outgoing, refuse_held, refuse_overtaken
from dbt_bridge.nouns.table import TableName
from dbt_bridge.system.lock_wait import find_lock_wait

_LOCK = 0x6462_7464


def remember(cur: Cursor[Any], table: Relation, delivery: Outgoing, load_id: str) -> None:
    """Keep what this delivery brought, in the transaction of its rows.

    Raises:
        DestinationError: another run came before it.
    """
    if not (delivery.token or delivery.secret):
        return
    if delivery.follows is not None and recall(cur, table, delivery).token != delivery.follows:
        raise refuse_overtaken(table.name, delivery)
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


def recall(cur: Cursor[Any], table: Relation, delivery: Outgoing) -> Mark:
    """Of this exposure's last delivery into this very table."""
    marks = _marks(cur, table.name.schema)
    if find_relation(cur, marks) is None:
        return Mark()
    cur.execute(
        sql.SQL("SELECT token, secret FROM {} WHERE table_oid = %s AND exposure = %s AND relation = %s").format(
            identifier(marks)
        ),
        [table.oid, delivery.node, delivery.relation],
    )
    row = cur.fetchone()
    return Mark() if row is None else Mark(row[0], bytes(row[1]))


@contextmanager
def hold(connection: Connection[Any], name: TableName, delivery: Outgoing) -> Iterator[None]:
    """See `DeletesOwn.hold`: a lock of this connection's session, which goes when the process does."""
    wait = find_lock_wait()
    key = [_LOCK + 1, f"{name} {delivery.node} {delivery.relation}"]
    row = connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", key).fetchone()
    if row != (True,):
        if wait.seconds <= 0:
            raise refuse_held(name, delivery)
        wait.tell(f"waiting up to {wait.seconds:g} seconds for another run that delivers {delivery.node}")
        connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{wait.seconds * 1000:.0f}ms"])
        try:
            connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", key)
        except errors.LockNotAvailable:
            raise refuse_held(name, delivery) from None
    yield


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
