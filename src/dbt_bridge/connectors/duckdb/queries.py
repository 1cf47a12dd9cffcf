"""Queries of a DuckDB database: the warehouse, or a file of a legacy system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from dbt_bridge.connectors.duckdb import read as reading
from dbt_bridge.connectors.duckdb.relation import fold_case, fold_in_sql
from dbt_bridge.errors import DestinationError, scrubbed
from dbt_bridge.nouns.reconciliation import Selection, in_parentheses, strip_semicolon
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
    quote_table_name,
)

_KEYS = "_dbt_bridge_keys"


@dataclass(slots=True)
class DuckDBRows:
    """The rows of a query: a `contracts.side.Side`.

    Attributes:
        types: DuckDB's own, by name.
    """

    name: str
    connection: Any
    table: Table
    query: str
    types: Mapping[str, str]
    _reading: Any = None  # the cursor of the newest rows

    def cancel(self) -> None:
        """See `contracts.side.Cancels`."""
        if self._reading is not None:
            self._reading.interrupt()

    def count(self) -> int:
        with _open_cursor(self.connection, self.name) as cur:
            return int(cur.execute(f"SELECT count(*) FROM {in_parentheses(self.query)}").fetchone()[0])  # noqa: S608

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """Stream rows, exactly; see `read`.

        Raises (also while it is read):
            DestinationError: DuckDB broke off, or a value has no Arrow form.
        """
        cur = self._reading = self.connection.cursor()
        with _translate_errors(self.name):
            statement = _select_all(self.query, {name: self.types[name] for name in self.types})
            wanted = ", ".join(quote_identifier(name) for name in columns)
            statement = f"SELECT {wanted}\nFROM (\n{statement}\n) AS held"
            if keys is not None:
                cur.register(_KEYS, _plain(keys))
                same = " AND ".join(
                    f"k.{quote_identifier(c)} IS NOT DISTINCT FROM held.{quote_identifier(c)}"
                    for c in keys.column_names
                )
                statement += f"\nWHERE EXISTS (SELECT 1 FROM {_KEYS} AS k WHERE {same})"  # noqa: S608
            return reading.read(cur, self.name, statement, {name: self.types[name] for name in columns})


class DuckDBQueries:
    """A DuckDB database that answers queries, each on a cursor of its own. See `contracts.queries.Queries`.

    Args:
        catalog: the attached database in which relations are found.
        release: called when it is closed; the connection is somebody else's by default.
    """

    def __init__(self, name: str, connection: Any, catalog: str, release: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._connection = connection
        self._catalog = catalog
        self._release = release

    def quote_identifier(self, identifier: str) -> str:
        return quote_identifier(identifier)

    def relation(self, name: TableName) -> str:
        """With its catalog: a file `shop.duckdb` that has a schema `shop` makes `shop.orders` ambiguous."""
        return (
            f"{quote_identifier(self._catalog)}.{quote_table_name(name)}"
            if name.schema
            else quote_identifier(name.name)
        )

    def names(self, rows: str) -> list[str]:
        return list(self._types(f"SELECT * FROM {rows}"))  # noqa: S608

    def key(self, name: TableName) -> tuple[str, ...]:
        with _open_cursor(self._connection, self.name) as cur:
            found = cur.execute(
                "SELECT constraint_column_names FROM duckdb_constraints()\n"  # noqa: S608
                "WHERE constraint_type = 'PRIMARY KEY' AND database_name = $1\n"
                f"  AND {fold_in_sql('schema_name')} = coalesce(nullif($2, ''), {fold_in_sql('current_schema()')})\n"
                f"  AND {fold_in_sql('table_name')} = $3",
                [self._catalog, fold_case(name.schema), fold_case(name.name)],
            ).fetchone()
        return tuple(found[0]) if found else ()

    def side(self, name: str, selection: Selection) -> DuckDBRows:
        return self._rows(name, selection.sql(quote_identifier), selection.key)

    def result(self, sql: str) -> tuple[tuple[Column, ...], pa.Table]:
        rows = self._rows(self.name, strip_semicolon(sql))
        return rows.table.columns, rows.rows([c.name for c in rows.table.columns]).read_all()

    def close(self) -> None:
        self._release()

    def _rows(self, name: str, query: str, key: tuple[str, ...] = ()) -> DuckDBRows:
        types = self._types(query)
        with _open_cursor(self._connection, name) as cur:
            schema = reading.schema_of(cur, _select_all(query, types), types)
        columns = tuple(Column(f.name, f.type, sql) for f, sql in zip(schema, types.values(), strict=True))
        return DuckDBRows(name, self._connection, Table(TableName(self.name, "query"), columns, key), query, types)

    def _types(self, query: str) -> dict[str, str]:
        with _open_cursor(self._connection, self.name) as cur:
            return {row[0]: row[1] for row in cur.execute(f"DESCRIBE SELECT * FROM {in_parentheses(query)}").fetchall()}  # noqa: S608


def _select_all(query: str, types: Mapping[str, str]) -> str:
    parts = ", ".join(reading.select_exactly(name, sql) for name, sql in types.items())
    return f"SELECT {parts}\nFROM {in_parentheses(query)}"


def _plain(keys: pa.Table) -> pa.Table:
    """Arrow's uuid and json as the bytes and texts in which `read` selects them."""
    columns = [
        pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        if isinstance(column.type, pa.BaseExtensionType)
        else column
        for column in keys.columns
    ]
    return pa.table(dict(zip(keys.column_names, columns, strict=True)))


@contextmanager
def _open_cursor(connection: Any, where: str) -> Iterator[Any]:
    with closing(connection.cursor()) as cur, _translate_errors(where):
        yield cur


@contextmanager
def _translate_errors(where: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        said = scrubbed(" ".join(str(error).split()))
        raise DestinationError(
            f"{where}: DuckDB refused the query: {said}", mend="correct its SQL in the YAML"
        ) from error
