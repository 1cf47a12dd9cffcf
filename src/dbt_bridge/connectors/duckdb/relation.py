"""What stands under a name in a DuckDB catalog, and statements on one cursor in it."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbt_bridge.connectors.duckdb.session import retry_conflicts
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.names import DUCKDB
from dbt_bridge.nouns.table import GHOST_MARK, TableName, quote_identifier, quote_literal

fold_case = DUCKDB.same


def fold_in_sql(column: str) -> str:
    """A column of the catalog as `fold_case` gives it: DuckDB's own `lower` folds other letters too."""
    return f"translate({column}, '{string.ascii_uppercase}', '{string.ascii_lowercase}')"


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
        return next((c for c in self.columns if fold_case(c) == fold_case(name)), None)


@dataclass(frozen=True, slots=True)
class Check:
    """A constraint of a table: its kind (`NOT NULL`, `CHECK`, `PRIMARY KEY`, ...), columns and expression."""

    kind: str
    columns: tuple[str, ...]
    expression: str


def fill_in(statement: str, *texts: str) -> str:
    """A question to DuckDB's catalog with texts as literals in the places of its `?`.

    DuckDB 1.5 imports pandas, where that is installed, to look at the first value that is bound: a second of start.
    The statement must be one that is written here, without names of users in it.
    """
    parts = statement.split("?")
    assert len(parts) == len(texts) + 1, "a text for each place"
    return parts[0] + "".join(quote_literal(text) + part for text, part in zip(texts, parts[1:], strict=True))


class CatalogCursor:
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

    def look_up(self, statement: str, *texts: str) -> list[Any]:
        """All rows of a question to the catalog; see `fill_in`."""
        rows: list[Any] = self._cur.execute(fill_in(statement, *texts)).fetchall()
        return rows

    def scalar(self, statement: str, values: list[Any] | None = None) -> Any:
        row = self.row(statement, values)
        return row[0] if row else None

    def row(self, statement: str, values: list[Any] | None = None) -> Any:
        """The first row, or None. All are fetched: DuckDB 2 takes no other statement before."""
        return next(iter(self.execute(statement, values).fetchall()), None)

    def create_schema(self, schema: str) -> None:
        retry_conflicts(
            lambda: self.execute(
                f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(self._catalog)}.{quote_identifier(schema)}"
            )
        )

    def drop_staging(self, name: TableName) -> None:
        retry_conflicts(lambda: self.execute(f"DROP TABLE IF EXISTS {self.sql_name(name)}"))

    def list_tables(self, prefix: str) -> list[TableName]:
        rows = self.look_up(
            "SELECT schema_name, table_name FROM duckdb_tables()\n"
            "WHERE database_name = ? AND starts_with(table_name, ?)",
            self._catalog,
            prefix,
        )
        return [TableName(*row) for row in rows]

    def find_relation(self, name: TableName) -> Relation | None:
        """The table or view under a name, or None."""
        found = self.look_up(
            "SELECT schema_name, name, view FROM (\n"  # noqa: S608
            "  SELECT database_name, schema_name, table_name AS name, '' AS view FROM duckdb_tables()\n"
            "  UNION ALL\n"
            "  SELECT database_name, schema_name, view_name, coalesce(sql, 'view') FROM duckdb_views()\n"
            ")\n"
            f"WHERE database_name = ? AND {fold_in_sql('schema_name')} = ? AND {fold_in_sql('name')} = ?",
            self._catalog,
            fold_case(name.schema),
            fold_case(name.name),
        )
        if not found:
            return None
        schema, table, view = found[0]
        columns = self.look_up(
            "SELECT column_name, data_type FROM duckdb_columns()\n"
            "WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
            self._catalog,
            schema,
            table,
        )
        return Relation(TableName(schema, table), dict(columns), bool(view), GHOST_MARK in view)

    def find_table(self, name: TableName) -> Relation | None:
        """The table to be changed, or None (a ghost view counts as none).

        Raises:
            DestinationError: a view that is not ours has the name.
        """
        found = self.find_relation(name)
        if found is None or found.is_ghost:
            return None
        if found.is_view:
            raise DestinationError(
                f"{name} is a view that dbt-bridge did not make, so no rows can land under its name",
                mend="name another one: `table:` of an exposure, `identifier:` of a source's table",
            )
        return found

    def list_checks(self, name: TableName) -> list[Check]:
        """The constraints of a table."""
        rows = self.look_up(
            "SELECT constraint_type, constraint_column_names, coalesce(expression, '') FROM duckdb_constraints()\n"
            "WHERE database_name = ? AND schema_name = ? AND table_name = ?",
            self._catalog,
            name.schema,
            name.name,
        )
        return [Check(kind, tuple(columns or ()), expression) for kind, columns, expression in rows]

    def find_comment(self, name: TableName) -> str | None:
        """What `COMMENT ON TABLE` said of a table last."""
        found = self.look_up(
            "SELECT comment FROM duckdb_tables()\nWHERE database_name = ? AND schema_name = ? AND table_name = ?",
            self._catalog,
            name.schema,
            name.name,
        )
        return None if not found or found[0][0] is None else str(found[0][0])

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
        table, keys = self.sql_name(staging), ", ".join(map(quote_identifier, key))
        distinct = f"SELECT max({quote_identifier(row)}) FROM {table} GROUP BY {keys}"  # noqa: S608
        rows, kept = self.row(
            f"SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM ({distinct}))"  # noqa: S608
        )
        if rows != kept:
            self.execute(f"DELETE FROM {table} WHERE {quote_identifier(row)} NOT IN ({distinct})")  # noqa: S608
        self.execute(f"ALTER TABLE {table} DROP COLUMN {quote_identifier(row)}")
