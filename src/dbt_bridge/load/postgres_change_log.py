"""A log of changes in Postgres: a landing table that keeps every change as a row, and no state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.load.change_log import LOG_COLUMNS
from dbt_bridge.load.destination import CHANGE, COMMITTED_AT, Loaded, Replica, Staged
from dbt_bridge.load.postgres_history import moment
from dbt_bridge.load.postgres_landing import identifiers, listed, value
from dbt_bridge.load.postgres_publish import publish_one
from dbt_bridge.load.postgres_relation import Relation, identifier
from dbt_bridge.table import Column, TableName

OWN_TYPES = {c.name: c.origin_type for c in LOG_COLUMNS}


def join(cur: Cursor[Any], replica: Replica, staged: Staged, copied_at: int) -> Loaded:
    """Put the copy into the log: its rows were there, by whatever changes, when it was made."""
    loaded = publish_one(cur, staged)
    target = identifier(replica.table.name)
    for column in LOG_COLUMNS:
        cur.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
                target, sql.Identifier(column.name), sql.SQL(column.origin_type)
            )
        )
    cur.execute(
        sql.SQL("UPDATE {target} SET {change} = 'insert', {at} = {copied_at} WHERE {change} IS NULL").format(
            target=target,
            change=sql.Identifier(CHANGE),
            at=sql.Identifier(COMMITTED_AT),
            copied_at=moment(copied_at),
        )
    )
    return loaded


def append(cur: Cursor[Any], into: Relation, columns: Sequence[Column], staged: TableName) -> int:
    """Add staged entries."""
    cur.execute(
        sql.SQL("INSERT INTO {} ({})\nSELECT {}\nFROM {} AS s").format(
            identifier(into.name),
            identifiers([c.name for c in columns]),
            listed([value(c, into) for c in columns]),
            identifier(staged),
        )
    )
    return cur.rowcount
