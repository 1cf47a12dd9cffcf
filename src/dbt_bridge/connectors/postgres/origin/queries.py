"""Queries of a Postgres database in one exported snapshot: their columns as the server types them, rows as Arrow.

Serves a legacy system and the warehouse of a reconciliation alike. Names without a schema are found by the user's own
`search_path`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dbt_bridge.connectors.postgres.origin import catalog, key_search
from dbt_bridge.connectors.postgres.origin.column_types import resolve_reading
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.digests import TableDigests
from dbt_bridge.connectors.postgres.origin.initial_copy import Copy, open_reader
from dbt_bridge.nouns.reconciliation import (
    Selection,
    in_parentheses,
    require_distinct,
    strip_semicolon,
)
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
    quote_table_name,
)


class PostgresRows(TableDigests):
    """The rows of a query: a `contracts.side.Side`, whose digests the server computes.

    Args:
        relation: what the server says of the query's columns.
    """

    def __init__(self, name: str, connections: Connections, relation: catalog.Relation, query: str) -> None:
        super().__init__(connections, relation, workers=1, rows=in_parentheses(query))
        self.name = name

    @property
    def table(self) -> Table:
        return self._relation.table

    def count(self) -> int:
        return int(self._connections.query(f"SELECT count(*) FROM {self._rows}")[0][0])  # noqa: S608

    def cancel(self) -> None:
        """See `contracts.side.Cancels`: nothing is read of this database afterwards."""
        self._connections.close()

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """Stream rows; keys are looked for a few thousand at a time.

        Raises (while it is read):
            TypeRefused: a value does not fit its column's Arrow type.
            OriginError: the server broke off.
        """
        wanted = tuple(_find_column(self.table, name) for name in columns)
        ranges = ("",) if keys is None else tuple(key_search.build_conditions(self._relation, keys))
        return self._open(wanted, ranges)

    def _open(self, columns: tuple[Column, ...], ranges: tuple[str, ...]) -> pa.RecordBatchReader:
        readings = tuple(resolve_reading(self._relation.types[c.name], c.type) for c in columns)
        copy = Copy(self.table.name, columns, readings, ranges=ranges, rows=self._rows)
        return self._count_bytes(open_reader(self._connections, copy, workers=1))


class PostgresQueries:
    """A Postgres database that answers queries; constructing does no I/O. See `contracts.queries.Queries`.

    Args:
        url: libpq's URL or `key=value` form.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._connections = Connections(name, url, own_path=True)

    def quote_identifier(self, identifier: str) -> str:
        return quote_identifier(identifier)

    def relation(self, name: TableName) -> str:
        return quote_table_name(name) if name.schema else quote_identifier(name.name)

    def names(self, rows: str) -> list[str]:
        columns = self._connections.describe_query(f"SELECT * FROM {rows}")  # noqa: S608
        return require_distinct([column.name for column in columns], self.name)

    def key(self, name: TableName) -> tuple[str, ...]:
        """The primary key of a table, as the catalog has it; a view has none."""
        self._connections.query("SELECT 1")
        where = name if name.schema else TableName(self._connections.default_schema, name.name)
        return catalog.describe_relation(self._connections, where).table.key

    def side(self, name: str, selection: Selection) -> PostgresRows:
        return self._open_rows(name, selection.sql(quote_identifier), selection.key)

    def result(self, sql: str) -> tuple[tuple[Column, ...], pa.Table]:
        rows = self._open_rows(self.name, strip_semicolon(sql))
        return rows.table.columns, rows.rows([c.name for c in rows.table.columns]).read_all()

    def close(self) -> None:
        self._connections.close()

    def _open_rows(self, name: str, query: str, key: tuple[str, ...] = ()) -> PostgresRows:
        described = self._connections.describe_query(query)
        require_distinct([column.name for column in described], self.name)
        resolved = catalog.resolve_columns(self._connections, described)
        table = Table(TableName(self.name, "query"), resolved.columns, key)
        relation = catalog.Relation(table, resolved.types, rows=None, bytes=None, pages=0)
        return PostgresRows(name, self._connections, relation, query)


def _find_column(table: Table, name: str) -> Column:
    found = table.column(name)
    assert found is not None, f"{name} is not selected"
    return found
