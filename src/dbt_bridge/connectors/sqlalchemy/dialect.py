"""What differs between SQL databases that are read through SQLAlchemy, and how any of them is read.

Dialect       what the origin asks of its kind of database
AnyDialect    any SQLAlchemy database, through the inspector and the driver's Python values
MySql         mysql.py: MySQL and MariaDB
Sqlite        sqlite.py
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.sql.elements import ColumnElement

from dbt_bridge.connectors.sqlalchemy import column_types
from dbt_bridge.connectors.sqlalchemy.casts import decode_column
from dbt_bridge.connectors.sqlalchemy.column_types import Reading, natural_type
from dbt_bridge.connectors.sqlalchemy.cursor import parse_value
from dbt_bridge.connectors.sqlalchemy.expressions import make_column, make_identifier, make_table
from dbt_bridge.connectors.sqlalchemy.key_search import Lookup
from dbt_bridge.contracts.origin import Described
from dbt_bridge.nouns.table import Column, Table, TableName

_TEXT = re.compile(r"n?(var)?char|n?text|string|enum", re.IGNORECASE)  # columns that an index finds by a text


def format_address(url: sa.URL) -> str:
    """Where a database is, for one that has no identity of its own."""
    return f"{url.get_backend_name()}://{url.host or ''}:{url.port or ''}/{url.database or ''}"


@dataclass(frozen=True, slots=True)
class Bound:
    """`cursor >= value` in SQL; where it is not exact, it lets some rows too many through, never too few."""

    condition: ColumnElement[bool]
    exact: bool = True


class Dialect(Protocol):
    """What the origin asks of its kind of database. Each method but the first two uses the open snapshot.

    Attributes:
        has_strict_keys: a declared primary key holds no two equal keys, NULLs included.
        ends_transactions: a refused query ends the transaction, as in Postgres.
    """

    has_strict_keys: bool
    ends_transactions: bool

    def make_engine(self, url: sa.URL) -> sa.Engine:
        """An engine, not connected."""

    def begin_snapshot(self, connection: sa.Connection) -> None:
        """Take the snapshot, where the database has them."""

    def read_identity(self, connection: sa.Connection, url: sa.URL) -> tuple[str, ...]:
        """See `HasIdentity.read_identity`."""

    def find_default_schema(self, connection: sa.Connection) -> str: ...

    def list_tables(self, connection: sa.Connection, schema: str) -> list[str]: ...

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        """None when there is no such table that this user may see."""

    def resolve_reading(self, column: Column) -> Reading:
        """How a column is read in the type that it travels in; see column_types.py."""

    def describe_query(self, connection: sa.Connection, query: str, names: Sequence[str], origin: str) -> list[Column]:
        """The columns of these names that a query gives.

        Args:
            origin: its name, for messages.

        Raises:
            TypeRefused: a column gives values of several kinds.
            UsageError: the driver does not tell the types of expressions.
        """

    def build_bound(self, column: Column, text: str) -> Bound:
        """`column >= text`, where text is a cursor value."""

    def resolve_lookup(self, column: Column) -> Lookup | None:
        """How rows are found by values of the column as it travels; None where every row must be read for it."""

    def read_greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        """The greatest value of a cursor column without NULLs, as Python's; None for no rows."""

    def interrupt(self, connection: sa.Connection) -> None:
        """Cancel the result that is being streamed, from any thread, so that reading it ends soon."""


class AnyDialect:
    """Any SQLAlchemy database: types by SQLAlchemy's reflection, values as its driver gives them."""

    has_strict_keys = False
    ends_transactions = True

    def make_engine(self, url: sa.URL) -> sa.Engine:
        return sa.create_engine(url, poolclass=sa.NullPool)

    def begin_snapshot(self, connection: sa.Connection) -> None:
        """Ask for repeatable reads; databases that lack them read each table at its own moment."""
        dialect = connection.dialect
        levels = dialect.get_isolation_level_values(connection.connection.dbapi_connection)  # type: ignore[arg-type]
        for level in ("SNAPSHOT", "REPEATABLE READ", "SERIALIZABLE"):
            if level in levels:
                connection.execution_options(isolation_level=level)
                return

    def read_identity(self, connection: sa.Connection, url: sa.URL) -> tuple[str, ...]:
        return (format_address(url),)

    def find_default_schema(self, connection: sa.Connection) -> str:
        return connection.dialect.default_schema_name or ""

    def list_tables(self, connection: sa.Connection, schema: str) -> list[str]:
        return sa.inspect(connection).get_table_names(schema=schema or None)

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        inspector = sa.inspect(connection)
        try:
            reflected = inspector.get_columns(name.name, schema=name.schema or None)
            key = inspector.get_pk_constraint(name.name, schema=name.schema or None)["constrained_columns"]
        except NoSuchTableError:
            return None
        columns = tuple(
            Column(c["name"], natural_type(c["type"]), str(c["type"].compile(connection.dialect)), bool(c["nullable"]))
            for c in reflected
        )
        return Described(Table(name, columns, tuple(key)))

    def resolve_reading(self, column: Column) -> Reading:
        return column_types.resolve_reading(column)

    def describe_query(self, connection: sa.Connection, query: str, names: Sequence[str], origin: str) -> list[Column]:
        return column_types.describe_query(connection, query, names)

    def build_bound(self, column: Column, text: str) -> Bound:
        return Bound(make_column(column.name) >= sa.literal(parse_value(column, text)))

    def resolve_lookup(self, column: Column) -> Lookup | None:
        plain = make_column(column.name)
        if pa.types.is_string(column.type) and not _TEXT.match(column.origin_type):
            return Lookup(self.resolve_reading(column).expression, lambda value: [value])
        return Lookup(plain, lambda value: [value])

    def read_greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        return read_maximum(connection, self.resolve_reading(column), column, name)

    def interrupt(self, connection: sa.Connection) -> None:
        raw = connection.connection.dbapi_connection
        if raw is not None and hasattr(raw, "cancel"):
            raw.cancel()


def read_maximum(connection: sa.Connection, reading: Reading, column: Column, name: TableName) -> Any:
    """The maximum as the database computes it, read as the column's rows are."""
    maximum = sa.func.max(make_column(column.name)).label(make_identifier(column.name))
    most = sa.select(maximum).select_from(make_table(name))
    value = connection.execute(sa.select(reading.expression).select_from(most.subquery())).scalar()
    return decode_column([value], reading.decode, column, name)[0].as_py()
