"""A DuckDB table's columns follow those of its origin, where that is exact.

Columns that the origin dropped stay: rows that it updates keep their values in them, new rows have NULL. The same
holds for columns that somebody added here, from which they cannot be told.
"""

from __future__ import annotations

from dbt_bridge.changes import Reshaped
from dbt_bridge.load.destination import CannotReshape, Replica
from dbt_bridge.load.duckdb_publish import Publication, folded
from dbt_bridge.load.duckdb_target import registered, standing, types_of
from dbt_bridge.load.duckdb_types import wider
from dbt_bridge.table import Table, TableName, quoted


def reshape(on: Publication, replica: Replica, event: Reshaped, name: TableName) -> None:
    """Rename, add and widen columns of the table, or of its history.

    Args:
        replica: as it was before.

    Raises:
        CannotReshape: values would be lost, or made up.
        DestinationError: the table is not there any more.
    """
    spelled = {folded(column): column for column in standing(on, replica, name).columns}
    known = {folded(event.renamed.get(c.name, c.name)) for c in replica.table.columns}
    renamed = {old: new for old, new in event.renamed.items() if old != new}
    staying = spelled.keys() - {folded(old) for old in renamed}
    for column in [*renamed.values(), *(c.name for c in event.columns if folded(c.name) not in known)]:
        if folded(column) in staying:
            raise CannotReshape(
                f"the origin of {replica.table.name} now has a column {column!r}, and {name} has another one of that"
                " name, from before",
                mend=f"ALTER TABLE {on.sql_name(name)} DROP COLUMN {quoted(column)}",
            )
    _rename(
        on, on.sql_name(name), {spelled[folded(old)]: new for old, new in renamed.items() if folded(old) in spelled}
    )
    _fit(on, replica, event, name)


def _rename(on: Publication, table: str, renamed: dict[str, str]) -> None:
    """Two steps, so that columns can change their names with each other."""
    for number, old in enumerate(renamed):
        on.execute(f"ALTER TABLE {table} RENAME COLUMN {quoted(old)} TO _dbt_bridge_renamed_{number}")
    for number, new in enumerate(renamed.values()):
        on.execute(f"ALTER TABLE {table} RENAME COLUMN _dbt_bridge_renamed_{number} TO {quoted(new)}")


def _fit(on: Publication, replica: Replica, event: Reshaped, name: TableName) -> None:
    """Add what is missing, and widen what is too narrow."""
    schema = Table(name, tuple(event.columns)).arrow_schema
    with registered(on, "_dbt_bridge_shape", schema.empty_table()):
        wanted = types_of(on, "_dbt_bridge_shape")
    found = standing(on, replica, name)
    table = on.sql_name(found.name)
    for column, type_ in wanted.items():
        there = found.column(column)
        if there is None:
            on.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column)} {type_}")
            continue
        existing = found.columns[there]
        both = wider(existing, type_)
        if both is None or ("DOUBLE" in (both, existing) and existing != type_):
            raise CannotReshape(
                f"column {column!r} of {name} is {existing}, and the origin's is {type_} now",
                mend="dbt-bridge sync copies the table anew",
            )
        if both != existing:
            on.execute(f"ALTER TABLE {table} ALTER COLUMN {quoted(there)} TYPE {both}")
