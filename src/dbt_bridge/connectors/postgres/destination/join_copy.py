"""A staged initial copy takes the place of a Postgres table that follows its origin from then on.

A landing table that keeps deleted rows keeps them also when it is copied anew.
"""

from __future__ import annotations

from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination import change_log, history
from dbt_bridge.connectors.postgres.destination.history import moment_literal
from dbt_bridge.connectors.postgres.destination.landing_table import (
    TIME,
    drop_own_indexes,
    ensure_key,
    join_list,
    own_columns,
    quote_identifiers,
    refuse_null_keys,
    require_table,
)
from dbt_bridge.connectors.postgres.destination.publish import publish_one
from dbt_bridge.connectors.postgres.destination.relation import (
    Relation,
    find_relation,
    find_table,
    identifier,
)
from dbt_bridge.contracts.destination import DELETED_AT, Loaded, Replica, Staged
from dbt_bridge.nouns.table import TableName


def join(cur: Cursor[Any], replica: Replica, staged: Staged, copied_at: int) -> Loaded:
    """Show the copy, with what the replica keeps beside its columns.

    Raises:
        TypeRefused: a column does not take the values of the changes.
        KeyRefused: rows share a key, or have none.
    """
    if replica.change_log:
        return change_log.join(cur, replica, staged, copied_at)
    name = replica.table.name
    if (standing := find_table(cur, name)) is not None:
        drop_own_indexes(cur, standing)
    if replica.deletes == "soft":
        _keep_deleted(cur, replica, staged, copied_at)
    loaded = publish_one(cur, staged)
    into = require_table(cur, replica, name, own_columns(replica))
    if replica.table.key:
        ensure_key(cur, replica, into)
        refuse_null_keys(cur, replica, into)
    cur.execute(sql.SQL("ANALYZE {}").format(identifier(name)))
    if replica.history:
        history.join(cur, replica, into, copied_at)
    return loaded


def _keep_deleted(cur: Cursor[Any], replica: Replica, staged: Staged, copied_at: int) -> int:
    """Rows that the standing table has and the copy has not join the copy, as deleted; answers how many."""
    cur.execute(
        sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
            identifier(staged.staging), sql.Identifier(DELETED_AT), sql.SQL(TIME)
        )
    )
    there, copy = find_table(cur, replica.table.name), find_relation(cur, staged.staging)
    assert copy is not None
    if there is None or any(name not in there.columns for name in replica.table.key):
        return 0
    columns = [name for name in copy.columns if name in there.columns and name != DELETED_AT]
    dead = sql.Identifier("t", DELETED_AT) if DELETED_AT in there.columns else sql.SQL("NULL")
    absent = _absent_by_key if replica.table.key else _absent_by_row
    cur.execute(
        sql.SQL("INSERT INTO {} ({}, {})\n{}").format(
            identifier(staged.staging),
            quote_identifiers(columns),
            sql.Identifier(DELETED_AT),
            absent(replica, there, copy, columns, dead, moment_literal(copied_at)),
        )
    )
    return cur.rowcount


def _old(copy: Relation, columns: list[str]) -> sql.Composed:
    """The standing table's values in the copy's types."""
    return join_list(
        [sql.SQL("CAST({} AS {})").format(sql.Identifier("t", name), sql.SQL(copy.columns[name])) for name in columns]
    )


def _absent_by_key(
    replica: Replica,
    there: Relation,
    copy: Relation,
    columns: list[str],
    dead: sql.Composable,
    at: sql.Composable,
) -> sql.Composable:
    same = sql.SQL(" AND ").join([sql.SQL("s.{0} = t.{0}").format(sql.Identifier(k)) for k in replica.table.key])
    return sql.SQL(
        "SELECT {old}, coalesce({dead}, {at})\nFROM {there} AS t\n"
        "WHERE NOT EXISTS (SELECT FROM {copy} AS s WHERE {same})"
    ).format(
        old=_old(copy, columns),
        dead=dead,
        at=at,
        there=identifier(there.name),
        copy=identifier(copy.name),
        same=same,
    )


def _absent_by_row(
    replica: Replica,
    there: Relation,
    copy: Relation,
    columns: list[str],
    dead: sql.Composable,
    at: sql.Composable,
) -> sql.Composable:
    """Equal rows are counted, and compared as the server prints them: not every type has an equality."""

    def number_rows(name: TableName, alias: str, where: sql.Composable) -> sql.Composable:
        row = sql.SQL("CAST(ROW({}) AS text)").format(
            join_list([sql.Identifier(alias, column) for column in columns]) if alias == "s" else _old(copy, columns)
        )
        return sql.SQL(
            "SELECT {alias}.*, {row} AS _dbt_bridge_text, row_number() OVER (PARTITION BY {row}) AS _dbt_bridge_n\n"
            "FROM {name} AS {alias}\nWHERE {where}"
        ).format(alias=sql.Identifier(alias), row=row, name=identifier(name), where=where)

    alive = sql.SQL("{} IS NULL").format(dead)
    return sql.SQL(
        "SELECT {old}, {at}\nFROM ({alive_rows}) AS t\n"
        "LEFT JOIN ({copied}) AS s USING (_dbt_bridge_text, _dbt_bridge_n)\nWHERE s._dbt_bridge_n IS NULL\n"
        "UNION ALL\nSELECT {old}, {dead}\nFROM {there} AS t\nWHERE NOT ({alive})"
    ).format(
        old=_old(copy, columns),
        at=at,
        alive_rows=number_rows(there.name, "t", alive),
        copied=number_rows(copy.name, "s", sql.SQL("true")),
        dead=dead if isinstance(dead, sql.Identifier) else sql.SQL("CAST(NULL AS timestamptz)"),
        there=identifier(there.name),
        alive=alive,
    )
