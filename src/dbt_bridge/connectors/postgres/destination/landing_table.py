"""What changes find in Postgres: the landing table as it must stand, the index on its key, and its columns, which
follow those of the origin where no stored value changes.

A landing table may have been changed by hand. Columns beyond the origin's are kept; one that is missing, or whose type
does not take the origin's values, stops the table until it is copied anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from psycopg import Cursor, errors, sql

from dbt_bridge.connectors.postgres.destination.column_types import (
    base,
    fits,
    landing_type,
    wider,
    wire,
)
from dbt_bridge.connectors.postgres.destination.locks import do_when_free, try_at_once
from dbt_bridge.connectors.postgres.destination.relation import Relation, find_relation, identifier
from dbt_bridge.contracts.destination import DELETED_AT, CannotReshape, Replica
from dbt_bridge.errors import KeyRefused, TypeRefused
from dbt_bridge.nouns.changes import Reshaped
from dbt_bridge.nouns.names import OWN_NAMES, POSTGRES
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.replica_checks import recopy_command

TIME = "timestamp with time zone"


def own_columns(replica: Replica) -> dict[str, str]:
    """The columns that a landing table has beyond the origin's, with their types."""
    return {DELETED_AT: TIME} if replica.deletes == "soft" else {}


def require_table(cur: Cursor[Any], replica: Replica, name: TableName, own: Mapping[str, str]) -> Relation:
    """The table, after a look at whether it can take the replica's changes.

    Args:
        name: of the landing table or its history.
        own: columns beyond the origin's that must be there, with their types.

    Raises:
        TypeRefused: the table or a column is not there any more, or has a type that does not take the values.
    """
    mend = recopy_command(replica.node)
    found = find_relation(cur, name)
    if found is None or found.is_ghost or found.kind not in ("r", "p"):
        raise TypeRefused(f"the table {name} is not there any more, so changes cannot be applied to it", mend=mend)
    wanted = {**{c.name: landing_type(c) for c in replica.table.columns}, **own}
    for column, type_ in wanted.items():
        there = found.columns.get(column)
        if there is None:
            raise TypeRefused(f"{name} has no column {column!r} any more, which its changes bring", mend=mend)
        if not fits(there, type_, is_enum=column in found.enums):
            raise TypeRefused(f"column {column!r} of {name} is {there} now, and its changes bring {type_}", mend=mend)
    return found


def value(column: Column, into: Relation, alias: str = "s") -> sql.Composable:
    """A staged value as the table takes it."""
    expression: sql.Composable = sql.Identifier(alias, column.name)
    type_, there = landing_type(column), into.columns[column.name]
    if wire(column).cast:
        expression = sql.SQL("CAST({} AS {})").format(expression, sql.SQL(type_))
    # An explicit cast to varchar(n) would cut off in silence; the assignment refuses.
    if there != type_ and not base(there).startswith(("character", "bit")):
        expression = sql.SQL("CAST({} AS {})").format(expression, sql.SQL(there))
    return expression


def as_staged(column: Column, alias: str = "t") -> sql.Composable:
    """A value of the landing table as the staging table has it."""
    return sql.SQL("CAST({} AS {})").format(sql.Identifier(alias, column.name), sql.SQL(wire(column).sql_type))


def same_key(replica: Replica, into: Relation, staged_as: Mapping[str, str] | None = None) -> sql.Composable:
    """That `t` has the key of `s`, whose columns may have other names there."""
    names = staged_as or {}
    parts = []
    for name in replica.table.key:
        column = replica.table.column(name)
        assert column is not None
        staged = value(column, into)
        if name in names:
            renamed = Column(names[name], column.type, column.origin_type)
            staged = value(renamed, _with(into, renamed.name, into.columns[name]))
        parts.append(sql.SQL("t.{} = {}").format(sql.Identifier(name), staged))
    return sql.SQL(" AND ").join(parts)


def _with(relation: Relation, column: str, type_: str) -> Relation:
    return Relation(
        relation.oid,
        relation.name,
        relation.kind,
        {**relation.columns, column: type_},
        relation.enums,
        relation.is_ghost,
    )


def join_list(parts: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def quote_identifiers(names: Sequence[str]) -> sql.Composed:
    return join_list([sql.Identifier(name) for name in names])


# A unique index whose columns are exactly these, which ON CONFLICT can take (indexcmds.c, infer_arbiter_indexes).
_UNIQUE = """
SELECT 1
FROM pg_index i
WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
  AND i.indexprs IS NULL
  AND (i.indpred IS NULL) = %(whole)s
  AND (i.indpred IS NULL OR i.indexrelid::regclass::text LIKE %(ours)s)
  AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
       FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
       WHERE k.n <= i.indnkeyatts) = %(columns)s
"""
_OURS = f"{OWN_NAMES}_key"
_OWN_INDEXES = """
SELECT c.relname::text
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %s AND position(%s IN c.relname) > 0
"""


def drop_own_indexes(cur: Cursor[Any], table: Relation) -> None:
    """Rows come faster into a table without them; they are made again after them. Under a reader they stay."""
    cur.execute(_OWN_INDEXES, [table.oid, _OURS])
    drops = [sql.SQL("DROP INDEX {}").format(sql.Identifier(table.name.schema, index)) for (index,) in cur.fetchall()]
    for drop in drops:
        try_at_once(cur, partial(cur.execute, drop))


def _free_index_name(cur: Cursor[Any], name: TableName) -> str:
    """A name for our index on a table. An index keeps its name when its table gets another one, so it may be taken."""
    for number in itertools.count():
        index = POSTGRES.make(f"{_OURS}_{name.name}", f"_{number}" if number else "")
        cur.execute(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n"
            "WHERE n.nspname = %s AND c.relname = %s",
            [name.schema, index],
        )
        if cur.fetchone() is None:
            return index
    raise AssertionError("there are more numbers than indexes")


def ensure_key(cur: Cursor[Any], replica: Replica, table: Relation, where: str = "") -> None:
    """A unique index on the key, ours or somebody's.

    Args:
        where: of the rows that the key is unique among; all when empty.

    Raises:
        KeyRefused: rows share a key, or have none, or it cannot be indexed.
    """
    key = replica.table.key
    cur.execute(_UNIQUE, {"oid": table.oid, "whole": not where, "ours": f"%{_OURS}%", "columns": sorted(key)})
    if cur.fetchone() is not None:
        return
    statement = sql.SQL("CREATE UNIQUE INDEX {} ON {} ({}){}").format(
        sql.Identifier(_free_index_name(cur, table.name)),
        identifier(table.name),
        quote_identifiers(key),
        sql.SQL(where),
    )
    try:
        do_when_free(cur, table.name, lambda: cur.execute(statement), readers=False)
    except (errors.UniqueViolation, errors.UndefinedObject, errors.ProgramLimitExceeded) as error:
        told = " ".join((error.diag.message_detail or error.diag.message_primary or "").split())
        raise KeyRefused(
            f"{table.name} can have no unique index on its key ({', '.join(key)}), by which changes find rows: {told}",
            mend="name a key that is unique in it in primary_key:, or `write_disposition: append` for a log of changes",
        ) from error


def refuse_null_keys(cur: Cursor[Any], replica: Replica, table: Relation) -> None:
    for column in replica.table.key:
        cur.execute(
            sql.SQL("SELECT 1 FROM {} WHERE {} IS NULL LIMIT 1").format(identifier(table.name), sql.Identifier(column))
        )
        if cur.fetchone() is not None:
            raise KeyRefused(
                f"the key column {column!r} of {table.name} holds NULL, so changes cannot find that row",
                mend="name a key that is never NULL in primary_key:",
            )


# --- columns that change at the origin -------------------------------------------------------------------------------


def reshape(cur: Cursor[Any], replica: Replica, event: Reshaped) -> None:
    """Rename and add columns, of the history too. A column that the origin dropped stays, with its values.

    Raises:
        CannotReshape: the new columns do not fit the table that stands.
    """
    names = [replica.table.name, *([replica.history_name] if replica.history else [])]
    for name in names:
        found = find_relation(cur, name)
        if found is None:
            raise _cannot(replica, name, "it is not there any more")
        _rename(cur, replica, found, event.renamed)
        _add(cur, replica, name, event)


def _rename(cur: Cursor[Any], replica: Replica, table: Relation, renamed: Mapping[str, str]) -> None:
    """By way of names of our own, for two columns may have swapped theirs."""
    passing = {old: f"_dbt_bridge_renamed_{i}" for i, old in enumerate(renamed)}
    for old in renamed:
        if old not in table.columns:
            raise _cannot(replica, table.name, f"it has no column {old!r}, which the origin renamed")
    for old, new in (*passing.items(), *((passing[old], new) for old, new in renamed.items())):
        change = sql.SQL("RENAME COLUMN {} TO {}").format(sql.Identifier(old), sql.Identifier(new))
        _alter(cur, replica, table.name, change)


def _add(cur: Cursor[Any], replica: Replica, name: TableName, event: Reshaped) -> None:
    there = find_relation(cur, name)
    assert there is not None
    before = {event.renamed.get(c.name, c.name) for c in replica.table.columns}
    for column in event.columns:
        if column.name not in before:
            if column.name in there.columns:
                raise _cannot(replica, name, f"it already has a column {column.name!r}, which the origin added")
            change = sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(column.name), sql.SQL(landing_type(column)))
            _alter(cur, replica, name, change)
        elif column.name not in there.columns:
            raise _cannot(replica, name, f"it has no column {column.name!r} any more")
        else:
            _widen(cur, replica, there, column)


def _widen(cur: Cursor[Any], replica: Replica, table: Relation, column: Column) -> None:
    there, type_ = table.columns[column.name], landing_type(column)
    if fits(there, type_, is_enum=column.name in table.enums):
        return
    wanted = wider(there, type_)
    if wanted is None:
        raise _cannot(replica, table.name, f"its column {column.name!r} is {there}, and the origin's is {type_} now")
    change = sql.SQL("ALTER COLUMN {} TYPE {}").format(sql.Identifier(column.name), sql.SQL(wanted))
    _alter(cur, replica, table.name, change)


def _alter(cur: Cursor[Any], replica: Replica, name: TableName, change: sql.Composable) -> None:
    alter = sql.SQL("ALTER TABLE {} {}").format(identifier(name), change)
    try:
        do_when_free(cur, name, lambda: cur.execute(alter))
    except (
        errors.FeatureNotSupported,
        errors.DependentObjectsStillExist,
        errors.DuplicateColumn,
        errors.UndefinedColumn,
    ) as error:
        raise _cannot(replica, name, error.diag.message_primary or str(error)) from error


def _cannot(replica: Replica, name: TableName, why: str) -> CannotReshape:
    return CannotReshape(
        f"the columns of {name} cannot follow those of its origin: {why}", mend=recopy_command(replica.node)
    )
