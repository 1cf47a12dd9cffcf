"""Changes of a table without a key in Postgres: found by their whole row, exactly one of equal rows per change.

Equal rows cannot be told apart, so a run of changes is a sum: each row is written as often as it came more than it
went. Values are compared as the server prints them where `=` would take two that differ for one (1.0 and 1.00) or does
not exist (json). An updated row is a new one: columns that somebody added to the table by hand are NULL in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination.column_types import base
from dbt_bridge.connectors.postgres.destination.landing_table import join_list, quote_identifiers, value
from dbt_bridge.connectors.postgres.destination.relation import Relation, identifier
from dbt_bridge.contracts.destination import DELETED_AT, Replica
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.compaction import UTC_TIME
from dbt_bridge.replicate.full_row import FullRows
from dbt_bridge.replicate.merge_rows import DELETED_AT_COLUMN
from dbt_bridge.replicate.replica_checks import recopy_command

SIGN = "_dbt_bridge_sign"
_TIMES, _ROW = "_dbt_bridge_times", "_dbt_bridge_row"

# Types whose `=` takes only values for one that print alike.
EXACT = {
    "smallint", "integer", "bigint", "boolean", "date", "time without time zone", "timestamp without time zone",
    "timestamp with time zone", "uuid", "text", "bytea",
}  # fmt: skip


def sign_rows(replica: Replica, rows: FullRows) -> tuple[pa.Table, tuple[Column, ...]]:
    """The rows that went (-1) and came (+1), with their columns; a soft delete goes and comes with its time."""
    soft = replica.deletes == "soft"
    dead = rows.died.drop_columns([DELETED_AT])
    parts = [_part(rows.added, 1), _part(rows.removed, -1), _part(dead, -1), _part(dead, 1)]
    own: tuple[Column, ...] = ()
    if soft:
        times = [pa.nulls(len(part), UTC_TIME) for part in parts[:-1]]
        parts = [
            part.append_column(DELETED_AT, at) for part, at in zip(parts, [*times, rows.died[DELETED_AT]], strict=True)
        ]
        own = (DELETED_AT_COLUMN,)
    return pa.concat_tables(parts), (*replica.table.columns, *own, Column(SIGN, pa.int16()))


def _part(rows: pa.Table, sign: int) -> pa.Table:
    return rows.append_column(SIGN, pa.array(np.full(len(rows), sign), pa.int16()))


def write_signed(cur: Cursor[Any], replica: Replica, into: Relation, staged: TableName, rows: pa.Table) -> None:
    """Delete what went, insert what came.

    Raises:
        KeyRefused: a row that went is not there.
    """
    columns = [*replica.table.columns, *((DELETED_AT_COLUMN,) if replica.deletes == "soft" else ())]
    _sum_up(cur, into, staged, columns)
    _delete(cur, replica, into, columns, rows)
    names = quote_identifiers([c.name for c in columns])
    cur.execute(
        sql.SQL(
            "INSERT INTO {} ({})\nOVERRIDING SYSTEM VALUE\nSELECT {}\nFROM pg_temp.{} AS s, generate_series(1, s.{})"
        ).format(
            identifier(into.name),
            names,
            join_list([sql.Identifier("s", c.name) for c in columns]),
            sql.Identifier(_ROW),
            sql.Identifier(_TIMES),
        )
    )
    cur.execute(sql.SQL("DROP TABLE pg_temp.{}").format(sql.Identifier(_ROW)))


def _comparable(expression: sql.Composable, type_: str) -> sql.Composable:
    return expression if base(type_) in EXACT else sql.SQL("CAST({} AS text)").format(expression)


def _sum_up(cur: Cursor[Any], into: Relation, staged: TableName, columns: list[Column]) -> None:
    """A temporary table of the distinct rows, in the landing table's types, with how often each comes or goes."""
    values = [value(c, into) for c in columns]
    named = [sql.SQL("{} AS {}").format(v, sql.Identifier(c.name)) for c, v in zip(columns, values, strict=True)]
    first = [sql.SQL("(array_agg({0}))[1] AS {0}").format(sql.Identifier(c.name)) for c in columns]
    groups = [_comparable(sql.Identifier(c.name), into.columns[c.name]) for c in columns]
    cur.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {row} ON COMMIT DROP AS\n"
            "SELECT {first}, CAST(sum({sign}) AS integer) AS {times}\n"
            "FROM (SELECT {named}, {sign} FROM {staged} AS s) AS s\n"
            "GROUP BY {groups}\n"
            "HAVING sum({sign}) <> 0"
        ).format(
            row=sql.Identifier(_ROW),
            first=join_list(first),
            sign=sql.Identifier(SIGN),
            times=sql.Identifier(_TIMES),
            named=join_list(named),
            staged=identifier(staged),
            groups=join_list(groups),
        )
    )


def _delete(cur: Cursor[Any], replica: Replica, into: Relation, columns: list[Column], rows: pa.Table) -> None:
    table = sql.SQL("pg_temp.{}").format(sql.Identifier(_ROW))
    row = cur.execute(
        sql.SQL("SELECT coalesce(-sum({0}), 0) FROM {1} WHERE {0} < 0").format(sql.Identifier(_TIMES), table)
    ).fetchone()
    assert row is not None
    if not (wanted := int(row[0])):
        return
    cur.execute(sql.SQL("ANALYZE {}").format(table))
    cur.execute(
        sql.SQL(
            "WITH pair AS (\n"
            "  SELECT t.tableoid AS part, t.ctid AS place, s.{times} AS times,\n"
            "    row_number() OVER (PARTITION BY s.ctid) AS n\n"
            "  FROM {target} AS t JOIN {row} AS s ON {same}\n"
            "  WHERE s.{times} < 0\n"
            ")\n"
            "DELETE FROM {target} AS t\n"
            "USING pair\n"
            "WHERE t.ctid = pair.place AND t.tableoid = pair.part AND pair.n <= -pair.times"
        ).format(times=sql.Identifier(_TIMES), target=identifier(into.name), row=table, same=_same(into, columns, rows))
    )
    if cur.rowcount != wanted:
        raise KeyRefused(
            f"{wanted - cur.rowcount} rows that the origin changed or deleted are not in {into.name}",
            mend=recopy_command(replica.node),
        )


def _same(into: Relation, columns: list[Column], rows: pa.Table) -> sql.Composable:
    """Whole rows alike. IS NOT DISTINCT FROM cannot be hashed, so columns without NULL in the changes use `=`."""
    solid, rest = [], []
    for column in columns:
        t, s = (_comparable(sql.Identifier(alias, column.name), into.columns[column.name]) for alias in ("t", "s"))
        if rows[column.name].null_count == 0:
            solid.append(sql.SQL("{} = {}").format(t, s))
        else:
            rest.append((t, s))
    alike = [sql.SQL("{} IS NOT DISTINCT FROM {}").format(t, s) for t, s in rest]
    if not solid:
        both = [join_list([pair[side] for pair in rest]) for side in (0, 1)]
        solid = [sql.SQL("CAST(ROW({}) AS text) = CAST(ROW({}) AS text)").format(*both)]
    return sql.SQL(" AND ").join([*solid, *alike])
