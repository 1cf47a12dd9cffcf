"""A DuckDB table that changes are applied to, rows on their way into it, and its columns, which follow those of the
origin where that is exact.

Columns that the origin dropped stay: rows that it updates keep their values in them, new rows have NULL. The same
holds for columns that somebody added here, from which they cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.connectors.duckdb.column_types import wider
from dbt_bridge.connectors.duckdb.publish import is_kept
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, Relation, fold_case
from dbt_bridge.contracts.destination import DELETED_AT, CannotReshape, Replica
from dbt_bridge.errors import KeyRefused, TypeRefused
from dbt_bridge.nouns.changes import Reshaped
from dbt_bridge.nouns.table import Table, TableName, quote_identifier
from dbt_bridge.replicate.compaction import Written
from dbt_bridge.replicate.duckdb_equality import as_key
from dbt_bridge.replicate.loads import type_changed
from dbt_bridge.replicate.replica_checks import recopy_command

_PLAIN, _PARTIAL, _FILLED = "_dbt_bridge_plain", "_dbt_bridge_partial", "_dbt_bridge_filled"
_KEPT, _FOUND = "_dbt_bridge_kept_", "_dbt_bridge_found_"
_NEEDS, _DIED, _MISSES = "_dbt_bridge_needs", "_dbt_bridge_died", "_dbt_bridge_misses"


@dataclass(frozen=True, slots=True)
class Target:
    """A standing table, seen by the columns that changes bring.

    Attributes:
        sql: its quoted name.
        own: column that travels -> the catalog's spelling.
        extras: columns that the changes do not bring: added here by hand, or dropped at the origin.
    """

    relation: Relation
    sql: str
    own: Mapping[str, str]
    extras: tuple[str, ...]

    def column(self, name: str) -> str:
        return quote_identifier(self.own[name])

    def type(self, name: str) -> str:
        return self.relation.columns[self.own[name]]

    def same_key(self, columns: Sequence[str], given: str) -> str:
        """That `t`, a row of the table, has the key of `s`, whose columns are named `given` and a number from 0."""
        both = ((f"t.{self.column(c)}", f"s.{given}{i}", self.type(c)) for i, c in enumerate(columns))
        return " AND ".join(f"{as_key(own, type_)} = {as_key(other, type_)}" for own, other, type_ in both)


def require_table(on: CatalogCursor, replica: Replica, name: TableName) -> Relation:
    """The table that follows its origin.

    Raises:
        TypeRefused: it is not there any more.
    """
    found = on.find_table(name)
    if found is None:
        raise TypeRefused(f"{name} follows its origin, and it is not there any more", mend=recopy_command(replica.node))
    return found


def require_columns(on: CatalogCursor, replica: Replica, name: TableName, columns: Sequence[str]) -> Target:
    """The table with these columns.

    Raises:
        TypeRefused: it, or one of its columns, is not there any more.
    """
    found = require_table(on, replica, name)
    spelled = {fold_case(column): column for column in found.columns}
    missing = [column for column in columns if fold_case(column) not in spelled]
    if missing:
        raise TypeRefused(
            f"{name} follows its origin, and has no column {missing[0]!r} any more, whose earlier values no change"
            " brings again",
            mend=recopy_command(replica.node),
        )
    own = {column: spelled[fold_case(column)] for column in columns}
    extras = tuple(column for column in found.columns if column not in own.values())
    return Target(found, on.sql_name(found.name), own, extras)


def check_values(on: CatalogCursor, into: Target, rows: str, types: Mapping[str, str]) -> None:
    """Rows of these SQL types keep every value in the table, whose types somebody may have changed.

    Raises:
        TypeRefused: a value would be lost.
    """
    for column, incoming in types.items():
        existing = into.type(column)
        if incoming in (existing, '"NULL"'):
            continue
        if wider(existing, incoming) is None or not is_kept(on, rows, column, incoming, existing):
            raise type_changed(into.relation.name, into.own[column], existing, incoming)


class _Lent:
    """Arrow rows that DuckDB reads through this. It keeps what was registered in a transaction until that ends (a
    dropped view can be rolled back), which would be every row of a huge one; it does not keep what was only lent."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows: pa.Table | None = rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        assert self.rows is not None, "read while it was lent"
        return self.rows.__arrow_c_stream__(requested_schema)


@contextmanager
def lend_rows(on: CatalogCursor, name: str, rows: pa.Table) -> Iterator[str]:
    """Arrow rows under a name that this cursor's statements can use, inside a transaction. After an error it is left
    to the rollback to forget the name: a transaction that failed takes no other statement."""
    lent = _Lent(rows)
    on.cursor.register(name, lent)
    try:
        yield name
        on.cursor.unregister(name)
    finally:
        lent.rows = None


def describe_types(on: CatalogCursor, rows: str) -> dict[str, str]:
    """The SQL types of a registered table's columns."""
    return {row[0]: row[1] for row in on.execute(f"DESCRIBE FROM {quote_identifier(rows)}").fetchall()}


@dataclass(frozen=True, slots=True)
class Source:
    """Whole rows that wait under a name: column at the target -> expression."""

    name: str
    columns: Mapping[str, str]


def insert(on: CatalogCursor, into: Target, source: Source) -> int:
    """Append a source's rows; answers how many."""
    targets = ", ".join(quote_identifier(column) for column in source.columns)
    values = ", ".join(source.columns.values())
    return int(on.scalar(f"INSERT INTO {into.sql} ({targets})\nSELECT {values}\nFROM {quote_identifier(source.name)}"))


@contextmanager
def complete_rows(
    on: CatalogCursor, replica: Replica, state: Target, written: Written, into: Target
) -> Iterator[list[Source]]:
    """The written rows with the values that they keep, read from the state as it is now, to be put into a table.

    Where that is the state itself, rows that it has also keep their values in columns that the changes do not bring.

    Raises:
        KeyRefused: the row whose values are kept is not there, or there are several with its key.
    """
    extras = into.extras if into is state else ()
    needing = written.needing(everything=bool(extras))
    plain = written.take(~needing)
    columns = {into.own[name]: quote_identifier(name) for name in written.rows.column_names}
    with lend_rows(on, _PLAIN, plain.rows):
        check_values(on, into, _PLAIN, describe_types(on, _PLAIN))
        if not needing.any():
            yield [Source(_PLAIN, columns)]
            return
        _fill(on, replica, state, written.take(needing), extras)
        filled = Source(_FILLED, {**columns, **{extra: quote_identifier(extra) for extra in extras}})
        yield [Source(_PLAIN, columns), filled] if len(plain) else [filled]
        on.execute(f"DROP TABLE temp.{_FILLED}")


def _fill(on: CatalogCursor, replica: Replica, state: Target, written: Written, extras: Sequence[str]) -> None:
    """Make the table of rows whose missing values come from the state."""
    key = replica.table.key
    rows, flags = written.rows, {column: f"{_KEPT}{i}" for i, column in enumerate(written.kept)}
    found = written.found_under if written.found_under is not None else rows.select(list(key))
    for column, flag in flags.items():
        rows = rows.append_column(flag, to_arrow(written.kept[column]))
    for i, column in enumerate(key):
        rows = rows.append_column(f"{_FOUND}{i}", found[column])
    needing = written.needing()
    died = np.zeros(len(rows), bool)
    if DELETED_AT in rows.column_names:
        died = needing & ~np.asarray(rows[DELETED_AT].is_null())
    rows = rows.append_column(_NEEDS, to_arrow(needing & ~died)).append_column(_DIED, to_arrow(died))
    selected = [_value(state, c, flags.get(c)) for c in written.rows.column_names]
    selected += [f"t.{quote_identifier(extra)}" for extra in extras]
    matches = state.same_key(key, _FOUND)
    with lend_rows(on, _PARTIAL, rows):
        check_values(on, state, _PARTIAL, {c: t for c, t in describe_types(on, _PARTIAL).items() if c in state.own})
        count = on.scalar(
            f"CREATE OR REPLACE TEMP TABLE {_FILLED} AS\n"
            f"SELECT {', '.join(selected)}, s.{_NEEDS} AND t.rowid IS NULL AS {_MISSES}\n"
            f"FROM {_PARTIAL} AS s LEFT JOIN {state.sql} AS t ON {matches}\n"
            f"WHERE t.rowid IS NOT NULL OR NOT s.{_DIED}"
        )
    if count > len(written):
        raise KeyRefused(
            f"{replica.table.name} holds several rows with the same key ({', '.join(key)})",
            mend=recopy_command(replica.node),
        )
    if on.scalar(f"SELECT count(*) FROM {_FILLED} WHERE {_MISSES}"):  # noqa: S608
        raise KeyRefused(
            f"a row of {replica.table.name} whose large value did not change is not there any more, so that value is"
            " not known",
            mend=recopy_command(replica.node),
        )


def _value(state: Target, column: str, flag: str | None) -> str:
    given = f"s.{quote_identifier(column)}"
    if flag is None:
        return given
    cast = f"CAST({given} AS {state.type(column)})"
    return f"CASE WHEN s.{flag} THEN t.{state.column(column)} ELSE {cast} END AS {quote_identifier(column)}"


# --- columns that change at the origin -------------------------------------------------------------------------------


def reshape(on: CatalogCursor, replica: Replica, event: Reshaped, name: TableName, *, changed: bool) -> bool:
    """Rename, add and widen columns of the table, or of its history; whether any was added or widened.

    Args:
        replica: as it was before.
        changed: whether this transaction changed the table before.

    Raises:
        CannotReshape: values would be lost, or made up.
        TypeRefused: the table is not there any more.
    """
    spelled = {fold_case(column): column for column in require_table(on, replica, name).columns}
    known = {fold_case(event.renamed.get(c.name, c.name)) for c in replica.table.columns}
    renamed = {old: new for old, new in event.renamed.items() if old != new}
    staying = spelled.keys() - {fold_case(old) for old in renamed}
    for column in [*renamed.values(), *(c.name for c in event.columns if fold_case(c.name) not in known)]:
        if fold_case(column) in staying:
            raise CannotReshape(
                f"the origin of {replica.table.name} now has a column {column!r}, and {name} has another one of that"
                " name, from before",
                mend=f"ALTER TABLE {on.sql_name(name)} DROP COLUMN {quote_identifier(column)}",
            )
    here = {spelled[fold_case(old)]: new for old, new in renamed.items() if fold_case(old) in spelled}
    _rename(on, on.sql_name(name), here)
    altered = _list_alterations(on, replica, event, name)
    if altered and changed:
        _rebuild(on, replica, name)
    for alteration in altered:
        on.execute(f"ALTER TABLE {on.sql_name(name)} {alteration}")
    return bool(altered)


def _rebuild(on: CatalogCursor, replica: Replica, name: TableName) -> None:
    """Put a copy in the table's place. A transaction that deleted rows of a table and then adds a column to it cannot
    be committed (DuckDB 1.5.5: "another transaction has altered this table"); one that replaced the table can."""
    found = require_table(on, replica, name)
    if not on.is_bare(found.name):
        raise CannotReshape(
            f"the columns of {name} changed at its origin, and it has an index or a constraint that would be lost",
            mend="dbt-bridge sync copies the table anew",
        )
    table, copy = on.sql_name(found.name), TableName(found.name.schema, "_dbt_bridge_reshaped")
    on.execute(f"CREATE TABLE {on.sql_name(copy)} AS\nFROM {table}")
    on.execute(f"DROP TABLE {table}")
    on.execute(f"ALTER TABLE {on.sql_name(copy)} RENAME TO {quote_identifier(found.name.name)}")


def _rename(on: CatalogCursor, table: str, renamed: dict[str, str]) -> None:
    """Two steps, so that columns can change their names with each other."""
    for number, old in enumerate(renamed):
        on.execute(f"ALTER TABLE {table} RENAME COLUMN {quote_identifier(old)} TO _dbt_bridge_renamed_{number}")
    for number, new in enumerate(renamed.values()):
        on.execute(f"ALTER TABLE {table} RENAME COLUMN _dbt_bridge_renamed_{number} TO {quote_identifier(new)}")


def _list_alterations(on: CatalogCursor, replica: Replica, event: Reshaped, name: TableName) -> list[str]:
    """Add what is missing, and widen what is too narrow."""
    schema = Table(name, tuple(event.columns)).arrow_schema
    with lend_rows(on, "_dbt_bridge_shape", pa.Table.from_batches([], schema)):
        wanted = describe_types(on, "_dbt_bridge_shape")
    found = require_table(on, replica, name)
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
