"""A log of changes in Postgres: a landing table that keeps every change as a row, and no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination.column_types import landing_type
from dbt_bridge.connectors.postgres.destination.history import moment
from dbt_bridge.connectors.postgres.destination.landing_table import identifiers, listed, value
from dbt_bridge.connectors.postgres.destination.publish import publish_one
from dbt_bridge.connectors.postgres.destination.relation import Relation, identifier, standing
from dbt_bridge.contracts.destination import (
    CHANGE,
    COMMITTED_AT,
    Loaded,
    Replica,
    Staged,
)
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.change_log import LOG_COLUMNS, SEQUENCE

OWN = tuple(Column(name, type_) for name, type_ in LOG_COLUMNS.items())
OWN_TYPES = {column.name: landing_type(column) for column in OWN}


def join(cur: Cursor[Any], replica: Replica, staged: Staged, copied_at: int) -> Loaded:
    """Begin the log with a copy's rows; a log that stands goes on, with a truncate before them."""
    name = replica.table.name
    there = standing(cur, name)
    goes_on = there is not None and CHANGE in there.columns
    names: dict[str, sql.Composable] = {
        "target": identifier(name),
        "change": sql.Identifier(CHANGE),
        "at": sql.Identifier(COMMITTED_AT),
        "copied_at": moment(copied_at),
    }
    if goes_on:
        cur.execute(
            sql.SQL("INSERT INTO {target} ({change}, {seq}, {at}) VALUES ('truncate', 0, {copied_at})").format(
                **names, seq=sql.Identifier(SEQUENCE)
            )
        )
    loaded = publish_one(cur, replace(staged, load=replace(staged.load, write_disposition=_disposition(goes_on))))
    for column in OWN:
        cur.execute(
            sql.SQL("ALTER TABLE {target} ADD COLUMN IF NOT EXISTS {column} {type}").format(
                **names, column=sql.Identifier(column.name), type=sql.SQL(OWN_TYPES[column.name])
            )
        )
    cur.execute(
        sql.SQL(
            "UPDATE {target} AS t\n"
            "SET {change} = 'insert', {at} = {copied_at}, {seq} = n.seq\n"
            "FROM (SELECT ctid, row_number() OVER () - 1 + {first} AS seq FROM {target} WHERE {change} IS NULL) AS n\n"
            "WHERE t.ctid = n.ctid"
        ).format(**names, seq=sql.Identifier(SEQUENCE), first=sql.Literal(int(goes_on)))
    )
    return loaded


def _disposition(goes_on: bool) -> Any:
    return "append" if goes_on else "replace"


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
