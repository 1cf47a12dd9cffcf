"""A staged table takes its place in DuckDB: replace, append or merge, inside the caller's transaction."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbt_bridge.connectors.duckdb.column_types import wider
from dbt_bridge.connectors.duckdb.retry import retried
from dbt_bridge.contracts.destination import (
    Load,
    Loaded,
    Staged,
    Window,
)
from dbt_bridge.errors import DestinationError, KeyRefused, TypeRefused
from dbt_bridge.nouns.table import GHOST_MARK, TableName, quote_identifier
from dbt_bridge.replicate.window import check_cursor

_TEXTS = ("VARCHAR", "JSON")


def folded(identifier: str) -> str:
    """An identifier as DuckDB compares it: without regard to the case of ASCII letters."""
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), identifier)


@dataclass(frozen=True, slots=True)
class Relation:
    """What stands under a name.

    Attributes:
        name: as the catalog spells it.
        columns: name -> SQL type, in order.
        is_ghost: a view that stands for a source that has not landed.
    """

    name: TableName
    columns: Mapping[str, str]
    is_view: bool
    is_ghost: bool

    def column(self, name: str) -> str | None:
        """The catalog's spelling of a column."""
        return next((c for c in self.columns if folded(c) == folded(name)), None)


class Publication:
    """Statements on one cursor, in one catalog."""

    def __init__(self, cur: Any, catalog: str) -> None:
        self._cur = cur
        self._catalog = catalog

    @property
    def cursor(self) -> Any:
        return self._cur

    def sql_name(self, name: TableName) -> str:
        return f"{quote_identifier(self._catalog)}.{quote_identifier(name.schema)}.{quote_identifier(name.name)}"

    def execute(self, statement: str, values: list[Any] | None = None) -> Any:
        return self._cur.execute(statement, values) if values else self._cur.execute(statement)

    def scalar(self, statement: str, values: list[Any] | None = None) -> Any:
        row = self.row(statement, values)
        return row[0] if row else None

    def row(self, statement: str, values: list[Any] | None = None) -> Any:
        """The first row, or None. All are fetched: DuckDB 2 takes no other statement before."""
        return next(iter(self.execute(statement, values).fetchall()), None)

    def create_schema(self, schema: str) -> None:
        retried(
            lambda: self.execute(
                f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(self._catalog)}.{quote_identifier(schema)}"
            )
        )

    def drop_staging(self, name: TableName) -> None:
        retried(lambda: self.execute(f"DROP TABLE IF EXISTS {self.sql_name(name)}"))

    def tables_like(self, prefix: str) -> list[TableName]:
        rows = self.execute(
            "SELECT schema_name, table_name FROM duckdb_tables()\n"
            "WHERE database_name = ? AND starts_with(table_name, ?)",
            [self._catalog, prefix],
        ).fetchall()
        return [TableName(*row) for row in rows]

    def relation(self, name: TableName) -> Relation | None:
        """The table or view under a name, or None."""
        found = self.row(
            "SELECT schema_name, name, view FROM (\n"
            "  SELECT database_name, schema_name, table_name AS name, '' AS view FROM duckdb_tables()\n"
            "  UNION ALL\n"
            "  SELECT database_name, schema_name, view_name, coalesce(sql, 'view') FROM duckdb_views()\n"
            ")\n"
            "WHERE database_name = $1 AND lower(schema_name) = lower($2) AND lower(name) = lower($3)\n"
            "ORDER BY (schema_name = $2) DESC, (name = $3) DESC",
            [self._catalog, name.schema, name.name],
        )
        if found is None:
            return None
        schema, table, view = found
        columns = self.execute(
            "SELECT column_name, data_type FROM duckdb_columns()\n"
            "WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
            [self._catalog, schema, table],
        ).fetchall()
        return Relation(TableName(schema, table), dict(columns), bool(view), GHOST_MARK in view)

    def standing(self, name: TableName) -> Relation | None:
        """The table to be changed, or None (a ghost view counts as none).

        Raises:
            DestinationError: a view that is not ours has the name.
        """
        found = self.relation(name)
        if found is None or found.is_ghost:
            return None
        if found.is_view:
            raise DestinationError(
                f"{name} is a view that dbt-bridge did not make, so no rows can land under its name",
                mend=f"DROP VIEW {self.sql_name(name)}, or land under another name",
            )
        return found

    def is_bare(self, name: TableName) -> bool:
        """Whether a table has no key, index, constraint or default that replacing it by another one would lose."""
        place = [self._catalog, name.schema, name.name]
        found = self.row(
            "SELECT 1 FROM duckdb_constraints()\n"
            "WHERE database_name = $1 AND schema_name = $2 AND table_name = $3\n"
            "UNION ALL\n"
            "SELECT 1 FROM duckdb_indexes()\n"
            "WHERE database_name = $1 AND schema_name = $2 AND table_name = $3\n"
            "UNION ALL\n"
            "SELECT 1 FROM duckdb_columns()\n"
            "WHERE database_name = $1 AND schema_name = $2 AND table_name = $3\n"
            "  AND column_default IS NOT NULL AND column_default <> 'NULL'\n"
            "LIMIT 1",
            place,
        )
        return found is None

    def keep_last(self, staging: TableName, key: tuple[str, ...], row: str) -> None:
        """Leave one staged row per key, the one that came last, and drop the column of the order."""
        table, keys = self.sql_name(staging), _list(key)
        distinct = f"SELECT max({quote_identifier(row)}) FROM {table} GROUP BY {keys}"  # noqa: S608
        rows, kept = self.row(
            f"SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM ({distinct}))"  # noqa: S608
        )
        if rows != kept:
            self.execute(f"DELETE FROM {table} WHERE {quote_identifier(row)} NOT IN ({distinct})")  # noqa: S608
        self.execute(f"ALTER TABLE {table} DROP COLUMN {quote_identifier(row)}")


def refuse_one_place(staged: Sequence[Staged]) -> None:
    """Two tables whose names differ in case alone would replace each other.

    Raises:
        DestinationError: names both.
    """
    seen: dict[tuple[str, str], TableName] = {}
    for name in (one.load.table.name for one in staged):
        other = seen.setdefault((folded(name.schema), folded(name.name)), name)
        if other != name:
            raise DestinationError(
                f"{other} and {name} are one table to DuckDB, which does not tell upper from lower case",
                mend="land one of them in another `schema:`, or leave it out with `exclude:`",
            )


def publish_one(on: Publication, staged: Staged) -> Loaded:
    """Put one staged table in its place."""
    load = staged.load
    standing = on.standing(load.table.name)
    if standing is not None and load.write_disposition == "replace" and not on.is_bare(standing.name):
        return _replace_rows(on, staged, standing)
    if standing is None or load.write_disposition == "replace":
        deleted = _replace(on, staged, standing)
        inserted = on.scalar(f"SELECT count(*) FROM {on.sql_name(load.table.name)}")  # noqa: S608
        return Loaded(staged.rows, inserted, 0, deleted, staged.bytes)
    evolve(on, staged, standing)
    into = on.standing(load.table.name)
    assert into is not None
    if load.write_disposition == "merge":
        inserted, updated = _merge(on, staged, into)
        loaded = Loaded(staged.rows, inserted, updated, 0, staged.bytes)
    else:
        deleted = _delete_window(on, into, load.window) if load.window else 0
        loaded = Loaded(staged.rows, _append(on, staged, into), 0, deleted, staged.bytes)
    on.execute(f"DROP TABLE {on.sql_name(staged.staging)}")
    return loaded


def _replace(on: Publication, staged: Staged, standing: Relation | None) -> int:
    name = staged.load.table.name
    deleted = 0
    if standing is not None:
        deleted = on.scalar(f"SELECT count(*) FROM {on.sql_name(standing.name)}")  # noqa: S608
        on.execute(f"DROP TABLE {on.sql_name(standing.name)}")
    else:
        on.execute(f"DROP VIEW IF EXISTS {on.sql_name(name)}")
    on.execute(f"ALTER TABLE {on.sql_name(staged.staging)} RENAME TO {quote_identifier(name.name)}")
    return deleted


def _replace_rows(on: Publication, staged: Staged, standing: Relation) -> Loaded:
    """Replace the rows in place, so that what somebody put on the table stays."""
    evolve(on, staged, standing)
    into = on.standing(standing.name)
    assert into is not None
    deleted = on.scalar(f"DELETE FROM {on.sql_name(into.name)}")  # noqa: S608
    inserted = _append(on, staged, into)
    on.execute(f"DROP TABLE {on.sql_name(staged.staging)}")
    return Loaded(staged.rows, inserted, 0, int(deleted), staged.bytes)


def _append(on: Publication, staged: Staged, into: Relation) -> int:
    source = on.relation(staged.staging)
    assert source is not None
    columns = [(c, into.column(c)) for c in source.columns]
    targets = ", ".join(quote_identifier(target) for _, target in columns if target)
    values = ", ".join(f"CAST({quote_identifier(c)} AS {into.columns[target]})" for c, target in columns if target)
    return int(
        on.scalar(
            f"INSERT INTO {on.sql_name(into.name)} ({targets})\nSELECT {values}\nFROM {on.sql_name(staged.staging)}"
        )
    )


def _delete_window(on: Publication, into: Relation, window: Window) -> int:
    cursor = into.column(window.cursor)
    assert cursor is not None, "check_types has seen it"
    return int(
        on.scalar(
            f"DELETE FROM {on.sql_name(into.name)}\n"  # noqa: S608
            f"WHERE {quote_identifier(cursor)} >= CAST(? AS {into.columns[cursor]})",
            [window.at_least],
        )
    )


def _merge(on: Publication, staged: Staged, into: Relation) -> tuple[int, int]:
    """Rows inserted and updated. Columns that the load does not bring keep their values in updated rows."""
    source = on.relation(staged.staging)
    assert source is not None
    pairs = [(quote_identifier(into.column(c) or c), f"s.{quote_identifier(c)}") for c in source.columns]
    keys = [(quote_identifier(into.column(k) or k), f"s.{quote_identifier(k)}") for k in staged.load.table.key]
    rest = [pair for pair in pairs if pair not in keys]
    update = "UPDATE SET " + ", ".join(f"{t} = {s}" for t, s in rest or keys)
    target, staging = on.sql_name(into.name), on.sql_name(staged.staging)
    before = on.scalar(f"SELECT count(*) FROM {target}")  # noqa: S608
    distinct = on.scalar(f"SELECT count(*) FROM {staging}")  # noqa: S608
    touched = on.scalar(
        f"MERGE INTO {target} AS t\n"  # noqa: S608
        f"USING {staging} AS s\n"
        f"ON {' AND '.join(f't.{t} = {s}' for t, s in keys)}\n"
        f"WHEN MATCHED THEN {update}\n"
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(t for t, _ in pairs)}) VALUES ({', '.join(s for _, s in pairs)})"
    )
    if touched != distinct:
        raise KeyRefused(
            f"{into.name} already holds several rows with the same key ({', '.join(staged.load.table.key)}), so a merge"
            " cannot leave one row per key",
            mend="load the table once with replace, or name a key that is unique in it",
        )
    inserted = on.scalar(f"SELECT count(*) FROM {target}") - before  # noqa: S608
    return inserted, touched - inserted


def evolve(on: Publication, staged: Staged, standing: Relation) -> None:
    """Give the standing table the new columns and the wider types that the staged rows need."""
    source = on.relation(staged.staging)
    assert source is not None
    target = on.sql_name(standing.name)
    for column, incoming in source.columns.items():
        there = standing.column(column)
        if there is None:
            on.execute(f"ALTER TABLE {target} ADD COLUMN {quote_identifier(column)} {incoming}")
            continue
        type_ = evolved_type(on, staged, standing, column, incoming)
        if type_ != standing.columns[there]:
            on.execute(f"ALTER TABLE {target} ALTER COLUMN {quote_identifier(there)} TYPE {type_}")


def evolved_type(on: Publication, staged: Staged, standing: Relation, column: str, incoming: str) -> str:
    """The SQL type that keeps the standing and the staged values of a column, each checked.

    Raises:
        TypeRefused: there is none.
    """
    there = standing.column(column)
    assert there is not None
    existing = standing.columns[there]
    if existing == incoming:
        return existing
    old, new = on.sql_name(standing.name), on.sql_name(staged.staging)
    if _only_nulls(on, new, column):
        return existing
    if _only_nulls(on, old, there):
        return incoming
    wanted = wider(existing, incoming)
    if wanted and is_kept(on, old, there, existing, wanted) and is_kept(on, new, column, incoming, wanted):
        return wanted
    raise type_changed(standing.name, there, existing, incoming)


def type_changed(name: TableName, column: str, existing: str, incoming: str) -> TypeRefused:
    return TypeRefused(
        f"column {column!r} of {name} is {existing} and the new rows bring {incoming}, which would lose values",
        mend=f"load the table once with replace (dbt-bridge sync --full-refresh), or set types: {{{column}: ...}}",
    )


def _only_nulls(on: Publication, table: str, column: str) -> bool:
    return on.scalar(f"SELECT 1 FROM {table} WHERE {quote_identifier(column)} IS NOT NULL LIMIT 1") is None  # noqa: S608


def is_kept(on: Publication, table: str, column: str, before: str, after: str) -> bool:
    """Whether every value comes back from the other type as it was."""
    if before == after:
        return True
    name = quote_identifier(column)
    lost = on.scalar(
        f"SELECT 1 FROM {table}\n"  # noqa: S608
        f"WHERE {name} IS NOT NULL\n"
        f"  AND TRY_CAST(TRY_CAST({name} AS {after}) AS {before}) IS DISTINCT FROM {name}\n"
        "LIMIT 1"
    )
    return lost is None


def _list(columns: tuple[str, ...]) -> str:
    return ", ".join(quote_identifier(c) for c in columns)


def check_types(on: Publication, load: Load, incoming: Mapping[str, str]) -> None:
    """Refuse, before any row moves, types between which there is no lossless way at all."""
    if load.write_disposition == "replace":
        on.standing(load.table.name)
        return
    standing = on.standing(load.table.name)
    if standing is None:
        return
    if load.window is not None:
        cursor = standing.column(load.window.cursor)
        check_cursor(standing.name, load.window.cursor, standing.columns[cursor] if cursor else None, _TEXTS)
    for column, type_ in incoming.items():
        there = standing.column(column)
        if there is None or type_ == '"NULL"' or wider(standing.columns[there], type_):
            continue
        if not _only_nulls(on, on.sql_name(standing.name), there):
            raise type_changed(standing.name, there, standing.columns[there], type_)
