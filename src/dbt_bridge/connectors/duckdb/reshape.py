"""A DuckDB table's columns follow those of its origin, where that is exact.

Columns that the origin dropped stay: rows that it updates keep their values in them, new rows have NULL. The same
holds for columns that somebody added here, from which they cannot be told.
"""

from __future__ import annotations

import pyarrow as pa

from dbt_bridge.connectors.duckdb.column_types import wider
from dbt_bridge.connectors.duckdb.landing_table import registered, standing, types_of
from dbt_bridge.connectors.duckdb.publish import Publication, folded
from dbt_bridge.contracts.destination import CannotReshape, Replica
from dbt_bridge.nouns.changes import Reshaped
from dbt_bridge.nouns.table import Table, TableName, quote_identifier


def reshape(on: Publication, replica: Replica, event: Reshaped, name: TableName, *, changed: bool) -> bool:
    """Rename, add and widen columns of the table, or of its history; whether any was added or widened.

    Args:
        replica: as it was before.
        changed: whether this transaction changed the table before.

    Raises:
        CannotReshape: values would be lost, or made up.
        TypeRefused: the table is not there any more.
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
                mend=f"ALTER TABLE {on.sql_name(name)} DROP COLUMN {quote_identifier(column)}",
            )
    here = {spelled[folded(old)]: new for old, new in renamed.items() if folded(old) in spelled}
    _rename(on, on.sql_name(name), here)
    altered = _altered(on, replica, event, name)
    if altered and changed:
        _rebuild(on, replica, name)
    for alteration in altered:
        on.execute(f"ALTER TABLE {on.sql_name(name)} {alteration}")
    return bool(altered)


def _rebuild(on: Publication, replica: Replica, name: TableName) -> None:
    """Put a copy in the table's place. A transaction that deleted rows of a table and then adds a column to it cannot
    be committed (DuckDB 1.5.5: "another transaction has altered this table"); one that replaced the table can."""
    found = standing(on, replica, name)
    if not on.is_bare(found.name):
        raise CannotReshape(
            f"the columns of {name} changed at its origin, and it has an index or a constraint that would be lost",
            mend="dbt-bridge sync copies the table anew",
        )
    table, copy = on.sql_name(found.name), TableName(found.name.schema, "_dbt_bridge_reshaped")
    on.execute(f"CREATE TABLE {on.sql_name(copy)} AS\nFROM {table}")
    on.execute(f"DROP TABLE {table}")
    on.execute(f"ALTER TABLE {on.sql_name(copy)} RENAME TO {quote_identifier(found.name.name)}")


def _rename(on: Publication, table: str, renamed: dict[str, str]) -> None:
    """Two steps, so that columns can change their names with each other."""
    for number, old in enumerate(renamed):
        on.execute(f"ALTER TABLE {table} RENAME COLUMN {quote_identifier(old)} TO _dbt_bridge_renamed_{number}")
    for number, new in enumerate(renamed.values()):
        on.execute(f"ALTER TABLE {table} RENAME COLUMN _dbt_bridge_renamed_{number} TO {quote_identifier(new)}")


def _altered(on: Publication, replica: Replica, event: Reshaped, name: TableName) -> list[str]:
    """Add what is missing, and widen what is too narrow."""
    schema = Table(name, tuple(event.columns)).arrow_schema
    with registered(on, "_dbt_bridge_shape", pa.Table.from_batches([], schema)):
        wanted = types_of(on, "_dbt_bridge_shape")
    found = standing(on, replica, name)
    altered = []
    for column, type_ in wanted.items():
        there = found.column(column)
        if there is None:
            altered.append(f"ADD COLUMN {quote_identifier(column)} {type_}")
            continue
        existing = found.columns[there]
        both = wider(existing, type_)
        if both is None or (existing != type_ and "DOUBLE" in (both, existing)):
            raise CannotReshape(
                f"column {column!r} of {name} is {existing}, and the origin's is {type_} now",
                mend="dbt-bridge sync copies the table anew",
            )
        if both != existing:
            altered.append(f"ALTER COLUMN {quote_identifier(there)} TYPE {both}")
    return altered
