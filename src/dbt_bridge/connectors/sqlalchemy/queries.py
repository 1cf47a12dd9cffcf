"""Queries of a database behind SQLAlchemy, in one snapshot: MySQL, MariaDB, SQLite and any other.

The catalog says which type a column of a relation has. It does not know what an expression gives; `describe_query` of
the database's types (column_types.py, mysql_types.py, sqlite_types.py) finds that out:

    MySQL, MariaDB   by the result's own column descriptions
    SQLite           by all values, for each has a type of its own; two kinds of them are refused
    any other        by the first thousand values; a later one that does not fit is refused while it is read
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dbt_bridge.connectors.sqlalchemy.casts import decode_column
from dbt_bridge.connectors.sqlalchemy.dialect import Dialect
from dbt_bridge.connectors.sqlalchemy.expressions import make_column, make_identifier, make_text
from dbt_bridge.connectors.sqlalchemy.key_search import Part, split_keys
from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin, label_expressions
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.reconciliation import (
    ROWS,
    Selection,
    in_parentheses,
    require_distinct,
    strip_semicolon,
)
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.system.owned_reader import make_reader


@dataclass(slots=True)
class SqlRows:
    """The rows of a query: a `contracts.side.Side`."""

    name: str
    database: SqlQueries
    table: Table
    query: str

    def count(self) -> int:
        return self.database.count_rows(self.query)

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """Stream rows. How keys are searched is in key_search.py.

        Raises (while it is read):
            TypeRefused: a value does not fit its column's type.
            OriginError: the database broke off.
        """
        by_name = {column.name: column for column in self.table.columns}
        wanted = [by_name[name] for name in columns]
        schema = pa.schema([pa.field(c.name, c.type) for c in wanted])
        return make_reader(schema, self._batches(wanted, schema, keys))

    def _batches(self, wanted: list[Column], schema: pa.Schema, keys: pa.Table | None) -> Iterator[pa.RecordBatch]:
        if keys is None:
            for arrays in self.database.read(self.query, self.table, wanted, None):
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            return
        by_name = {column.name: column for column in self.table.columns}
        found = [replace(by_name[field.name], type=field.type) for field in keys.schema]
        for part in split_keys(self.database.dialect.resolve_lookup, found, keys):
            for arrays in self.database.read(self.query, self.table, [*wanted, *found], part):
                batch = pa.RecordBatch.from_arrays(arrays[: len(wanted)], schema=schema)
                yield batch.filter(part.keeps(arrays[len(wanted) :]))


class SqlQueries(SqlOrigin):
    """A SQLAlchemy database that answers queries. See `contracts.queries.Queries`."""

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    def quote_identifier(self, name: str) -> str:
        """As the database quotes identifiers; SQLAlchemy's own function also doubles percent signs."""
        style = self._url.get_dialect()().identifier_preparer
        inner = name.replace(style.escape_quote, style.escape_to_quote)
        return f"{style.initial_quote}{inner}{style.final_quote}"

    def relation(self, name: TableName) -> str:
        return ".".join(self.quote_identifier(part) for part in (name.schema, name.name) if part)

    def names(self, rows: str) -> list[str]:
        statement = make_text(f"SELECT * FROM {rows} WHERE 1 = 0")  # noqa: S608
        found = self._ask(lambda connection: list(map(str, connection.execute(statement).keys())), "a query")
        return require_distinct(found, self.name)

    def key(self, name: TableName) -> tuple[str, ...]:
        return self.describe(name).table.key

    def side(self, name: str, selection: Selection) -> SqlRows:
        query = selection.sql(self.quote_identifier)
        known = self._find_in_catalog(selection)
        rest = {c.name: c for c in self._describe_columns(query, [n for n in selection.values if n not in known])}
        columns = tuple(known.get(value) or rest[value] for value in selection.values)
        key = selection.key if self._dialect.has_strict_keys else ()
        return SqlRows(name, self, Table(TableName(self.name, "query"), columns, key), query)

    def result(self, sql: str) -> tuple[tuple[Column, ...], pa.Table]:
        names = self.names(in_parentheses(sql))
        columns = tuple(self._describe_columns(strip_semicolon(sql), names))
        rows = SqlRows(self.name, self, Table(TableName(self.name, "query"), columns), strip_semicolon(sql))
        return columns, rows.rows(names).read_all()

    def count_rows(self, query: str) -> int:
        statement = make_text(f"SELECT count(*) FROM {in_parentheses(query)}")  # noqa: S608
        return self._ask(lambda connection: int(connection.execute(statement).scalar_one()), "a query")

    def read(self, query: str, table: Table, columns: Sequence[Column], part: Part | None) -> Iterator[list[pa.Array]]:
        """Batches, as arrays of these columns in their types."""
        readings = [self._dialect.resolve_reading(column) for column in columns]
        names = [make_column(column.name) for column in table.columns]
        rows_of_query = make_text(query).columns(*names).subquery(make_identifier(ROWS))
        statement = sa.select(*label_expressions(readings)).select_from(rows_of_query)
        if part is not None and part.condition is not None:
            statement = statement.where(part.condition)
        with self._take_turn(), contextlib.closing(self._stream_chunks(statement, str(table.name))) as chunks:
            for rows in chunks:
                yield [
                    decode_column(values, reading.decode, column, table.name)
                    for values, reading, column in zip(zip(*rows, strict=True), readings, columns, strict=True)
                ]

    @contextlib.contextmanager
    def _use_driver(self, place: str) -> Iterator[sa.Connection]:
        """Where a refused query ends the transaction (as in Postgres), begin another one, with a newer state."""
        try:
            with super()._use_driver(place) as connection:
                yield connection
        except OriginError:
            if self._dialect.ends_transactions and self._connection is not None:
                with contextlib.suppress(SQLAlchemyError):  # the connection is gone, which the next query tells
                    self._connection.rollback()
            raise

    def _find_in_catalog(self, selection: Selection) -> dict[str, Column]:
        """The selected values that are a plain column of a relation, with the type that the catalog knows."""
        if selection.relation is None or not selection.plain:
            return {}
        known = {column.name: column for column in self.describe(selection.relation).table.columns}
        return {name: replace(known[column], name=name) for name, column in selection.plain.items() if column in known}

    def _describe_columns(self, query: str, names: Sequence[str]) -> list[Column]:
        if not names:
            return []
        dialect = self._dialect
        return self._ask(lambda connection: dialect.describe_query(connection, query, names, self.name), "a query")
