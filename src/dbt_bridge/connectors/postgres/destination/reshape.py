"""The columns of a landing table in Postgres follow those of its origin, where no stored value changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Cursor, errors, sql

from dbt_bridge.connectors.postgres.destination.column_types import fits, landing_type, wider
from dbt_bridge.connectors.postgres.destination.relation import Relation, find, identifier
from dbt_bridge.contracts.destination import CannotReshape, Replica
from dbt_bridge.nouns.changes import Reshaped
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.replica_checks import copied_anew


def reshape(cur: Cursor[Any], replica: Replica, event: Reshaped) -> None:
    """Rename and add columns, of the history too. A column that the origin dropped stays, with its values.

    Raises:
        CannotReshape: the new columns do not fit the table that stands.
    """
    names = [replica.table.name, *([replica.history_name] if replica.history else [])]
    for name in names:
        found = find(cur, name)
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
    there = find(cur, name)
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
    try:
        with cur.connection.transaction():
            cur.execute(sql.SQL("ALTER TABLE {} {}").format(identifier(name), change))
    except (
        errors.FeatureNotSupported,
        errors.DependentObjectsStillExist,
        errors.DuplicateColumn,
        errors.UndefinedColumn,
    ) as error:
        raise _cannot(replica, name, error.diag.message_primary or str(error)) from error


def _cannot(replica: Replica, name: TableName, why: str) -> CannotReshape:
    return CannotReshape(
        f"the columns of {name} cannot follow those of its origin: {why}", mend=copied_anew(replica.node)
    )
