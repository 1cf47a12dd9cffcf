"""Queries of a database behind SQLAlchemy, in one snapshot: MySQL, MariaDB, SQLite and any other.

What a column of a relation is, its catalog says. What an expression gives, the catalog does not know:

    MySQL, MariaDB   the result's own column descriptions
    SQLite           each value has a type of its own: all of them are looked at, and two kinds of them are refused
    any other        the first thousand values; a later one that does not fit is refused while it is read
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dbt_bridge.connectors.sqlalchemy.casts import converted
from dbt_bridge.connectors.sqlalchemy.dialect import (
    AnyDialect,
    Dialect,
    column_of,
    identifier,
)
from dbt_bridge.connectors.sqlalchemy.key_search import Part, parts
from dbt_bridge.connectors.sqlalchemy.mysql import MySql
from dbt_bridge.connectors.sqlalchemy.mysql import natural as natural_of_mysql
from dbt_bridge.connectors.sqlalchemy.mysql_result import described
from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.connectors.sqlalchemy.sqlite import Sqlite
from dbt_bridge.connectors.sqlalchemy.sqlite import natural as natural_of_sqlite
from dbt_bridge.errors import OriginError, TypeRefused
from dbt_bridge.nouns.reconciliation import (
    ROWS,
    Selection,
    bare,
    distinct,
    in_parentheses,
)
from dbt_bridge.nouns.table import Column, Table, TableName

_SAMPLE = 1_000
_KINDS = {"integer": "INTEGER", "real": "REAL", "text": "TEXT", "blob": "BLOB"}
_DECIMAL_SCALE = 9  # of an expression whose scale nobody tells


@dataclass(slots=True)
class SqlRows:
    """The rows of a query: a `contracts.side.Side`."""

    name: str
    database: SqlQueries
    table: Table
    query: str

    def count(self) -> int:
        return self.database.counted(self.query)

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """Stream rows. Keys are searched as `sql_keyed` has it.

        Raises (while it is read):
            TypeRefused: a value does not fit its column's type.
            OriginError: the database broke off.
        """
        by_name = {column.name: column for column in self.table.columns}
        wanted = [by_name[name] for name in columns]
        schema = pa.schema([pa.field(c.name, c.type) for c in wanted])
        return pa.RecordBatchReader.from_batches(schema, self._batches(wanted, schema, keys))

    def _batches(self, wanted: list[Column], schema: pa.Schema, keys: pa.Table | None) -> Iterator[pa.RecordBatch]:
        if keys is None:
            for arrays in self.database.read(self.query, self.table, wanted, None):
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            return
        by_name = {column.name: column for column in self.table.columns}
        found = [replace(by_name[field.name], type=field.type) for field in keys.schema]
        for part in parts(self.database.dialect.lookup, found, keys):
            for arrays in self.database.read(self.query, self.table, [*wanted, *found], part):
                batch = pa.RecordBatch.from_arrays(arrays[: len(wanted)], schema=schema)
                yield batch.filter(part.keeps(arrays[len(wanted) :]))


class SqlQueries(SqlOrigin):
    """A SQLAlchemy database that answers queries. See `reconciliation.Queries`."""

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
        statement = _text(f"SELECT * FROM {rows} WHERE 1 = 0")  # noqa: S608
        found = self._asked(lambda connection: list(map(str, connection.execute(statement).keys())), "a query")
        return distinct(found, self.name)

    def key(self, name: TableName) -> tuple[str, ...]:
        return self.describe(name).table.key

    def side(self, name: str, selection: Selection) -> SqlRows:
        query = selection.sql(self.quote_identifier)
        known = self._of_catalog(selection)
        rest = {c.name: c for c in self._described(query, [n for n in selection.values if n not in known])}
        columns = tuple(known.get(value) or rest[value] for value in selection.values)
        # SQLite takes several NULLs into a primary key (sqlite.org/lang_createtable.html, section 3.5).
        key = selection.key if isinstance(self._dialect, MySql) else ()
        return SqlRows(name, self, Table(TableName(self.name, "query"), columns, key), query)

    def result(self, sql: str) -> tuple[tuple[Column, ...], pa.Table]:
        names = self.names(in_parentheses(sql))
        columns = tuple(self._described(bare(sql), names))
        rows = SqlRows(self.name, self, Table(TableName(self.name, "query"), columns), bare(sql))
        return columns, rows.rows(names).read_all()

    def counted(self, query: str) -> int:
        statement = _text(f"SELECT count(*) FROM {in_parentheses(query)}")  # noqa: S608
        return self._asked(lambda connection: int(connection.execute(statement).scalar_one()), "a query")

    def read(self, query: str, table: Table, columns: Sequence[Column], part: Part | None) -> Iterator[list[pa.Array]]:
        """Batches, as arrays of these columns in their types."""
        readings = [self._dialect.reading(column) for column in columns]
        labelled = [reading.expression.label(f"c{place}") for place, reading in enumerate(readings)]
        names = [column_of(column.name) for column in table.columns]
        statement = sa.select(*labelled).select_from(_text(query).columns(*names).subquery(identifier(ROWS)))
        if part is not None and part.condition is not None:
            statement = statement.where(part.condition)
        with self._my_turn(), contextlib.closing(self._chunks(statement, str(table.name))) as chunks:
            for rows in chunks:
                yield [
                    converted(values, reading.convert, column, table.name)
                    for values, reading, column in zip(zip(*rows, strict=True), readings, columns, strict=True)
                ]

    @contextlib.contextmanager
    def _driver(self, place: str) -> Iterator[sa.Connection]:
        """Also leaves the transaction usable where a refused query ends it, as in Postgres: in a new state then."""
        try:
            with super()._driver(place) as connection:
                yield connection
        except OriginError:
            if isinstance(self._dialect, AnyDialect) and self._connection is not None:
                with contextlib.suppress(SQLAlchemyError):  # the connection is gone, which the next query tells
                    self._connection.rollback()
            raise

    def _of_catalog(self, selection: Selection) -> dict[str, Column]:
        """The values that are nothing but a column of a relation, with its type."""
        if selection.relation is None or not selection.plain:
            return {}
        there = {column.name: column for column in self.describe(selection.relation).table.columns}
        return {name: replace(there[column], name=name) for name, column in selection.plain.items() if column in there}

    def _described(self, query: str, names: Sequence[str]) -> list[Column]:
        if not names:
            return []
        if isinstance(self._dialect, MySql):
            kinds = self._asked(lambda connection: described(connection, _text(_nothing_of(query))), "a query")
            return [Column(name, natural_of_mysql(kinds[name]), kinds[name]) for name in names]
        if isinstance(self._dialect, Sqlite):
            return [self._sqlite_column(query, name) for name in names]
        return self._sampled(query, names)

    def _sqlite_column(self, query: str, name: str) -> Column:
        kind = f"typeof({self.quote_identifier(name)})"
        statement = _text(f"SELECT DISTINCT {kind} FROM {in_parentheses(query)}")  # noqa: S608
        found = set(self._asked(lambda connection: connection.execute(statement).scalars().all(), "a query"))
        found.discard("null")
        if found == {"integer", "real"}:
            found = {"real"}
        if len(found) > 1:
            raise TypeRefused(
                f"the origin {self.name!r}: {name!r} gives {' and '.join(sorted(found))} values",
                mend=f"give {name!r} a CAST in its expression or in the query",
            )
        declared = _KINDS[found.pop()] if found else "TEXT"
        return Column(name, natural_of_sqlite(declared), declared)

    def _sampled(self, query: str, names: Sequence[str]) -> list[Column]:
        def ask(connection: sa.Connection) -> Sequence[Any]:
            plain = [column_of(name) for name in names]
            statement = sa.select(*plain).select_from(_text(query).columns(*plain).subquery(ROWS)).limit(_SAMPLE)
            return connection.execute(statement).all()

        rows = self._asked(ask, "a query")
        return [Column(name, _arrow([row[place] for row in rows])) for place, name in enumerate(names)]


def _text(sql: str) -> sa.TextClause:
    """SQL that a person wrote: its colons name no parameters."""
    return sa.text(sql.replace(":", "\\:"))


def _nothing_of(query: str) -> str:
    return f"SELECT * FROM {in_parentheses(query)} WHERE 1 = 0"  # noqa: S608


def _arrow(values: Sequence[Any]) -> pa.DataType:
    found = pa.array(values).type
    if pa.types.is_null(found):
        return pa.string()
    if pa.types.is_decimal(found):
        return pa.decimal128(38, max(found.scale, _DECIMAL_SCALE))
    return found
