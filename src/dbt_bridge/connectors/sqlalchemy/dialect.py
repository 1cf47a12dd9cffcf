"""What differs between SQL databases that are read through SQLAlchemy, and how any of them is read.

Dialect         what the origin asks
AnyDialect      any SQLAlchemy database, through the inspector and the driver's Python values
MySql           sql_mysql.py: MySQL and MariaDB
Sqlite          sql_sqlite.py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.sql.elements import ColumnElement

from dbt_bridge.connectors.sqlalchemy.casts import Values, converted, exactly
from dbt_bridge.connectors.sqlalchemy.cursor import parsed
from dbt_bridge.connectors.sqlalchemy.key_search import Lookup
from dbt_bridge.contracts.origin import Described
from dbt_bridge.nouns.table import Column, Table, TableName

_TEXT = re.compile(r"n?(var)?char|n?text|string|enum", re.IGNORECASE)  # columns that an index finds by a text


@dataclass(frozen=True, slots=True)
class Reading:
    """How one column is read: what is selected, and how the driver's values become an Arrow array."""

    expression: ColumnElement[Any]
    convert: Callable[[Values], pa.Array]


@dataclass(frozen=True, slots=True)
class Bound:
    """`cursor >= value` in SQL; where it is not exact, it lets some rows too many through, never too few."""

    condition: ColumnElement[bool]
    exact: bool = True


class Dialect(Protocol):
    """What the origin asks of its database's kind. Each method but the first two uses the open snapshot."""

    def engine(self, url: sa.URL) -> sa.Engine:
        """An engine; makes no connection."""

    def begin(self, connection: sa.Connection) -> None:
        """Take the snapshot, where the database has them."""

    def default_schema(self, connection: sa.Connection) -> str: ...

    def tables(self, connection: sa.Connection, schema: str) -> list[str]: ...

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        """None when there is no such table that this user may see."""

    def reading(self, column: Column) -> Reading: ...

    def bound(self, column: Column, text: str) -> Bound:
        """`column >= text`, where text is a cursor value."""

    def lookup(self, column: Column) -> Lookup | None:
        """How rows are found by values of the column as it travels; None where every row must be looked at."""

    def greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        """The greatest value of a cursor column without NULLs, as Python's; None for no rows."""

    def interrupt(self, connection: sa.Connection) -> None:
        """Break off the result that is being streamed, from any thread, so that reading it ends soon."""


def identifier(name: str) -> sa.quoted_name:
    """A name that SQLAlchemy always quotes."""
    return sa.quoted_name(name, quote=True)


def column_of(name: str, kind: Any = None) -> sa.ColumnClause[Any]:
    return sa.column(identifier(name), kind)


def table_of(name: TableName) -> sa.TableClause:
    return sa.table(identifier(name.name), schema=identifier(name.schema) if name.schema else None)


class AnyDialect:
    """Any SQLAlchemy database: types by SQLAlchemy's reflection, values as its driver gives them."""

    def engine(self, url: sa.URL) -> sa.Engine:
        return sa.create_engine(url, poolclass=sa.NullPool)

    def begin(self, connection: sa.Connection) -> None:
        """Ask for repeatable reads; databases that lack them read each table at its own moment."""
        dialect = connection.dialect
        levels = dialect.get_isolation_level_values(connection.connection.dbapi_connection)  # type: ignore[arg-type]
        for level in ("SNAPSHOT", "REPEATABLE READ", "SERIALIZABLE"):
            if level in levels:
                connection.execution_options(isolation_level=level)
                return

    def default_schema(self, connection: sa.Connection) -> str:
        return connection.dialect.default_schema_name or ""

    def tables(self, connection: sa.Connection, schema: str) -> list[str]:
        return sa.inspect(connection).get_table_names(schema=schema or None)

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        inspector = sa.inspect(connection)
        try:
            reflected = inspector.get_columns(name.name, schema=name.schema or None)
            key = inspector.get_pk_constraint(name.name, schema=name.schema or None)["constrained_columns"]
        except NoSuchTableError:
            return None
        columns = tuple(
            Column(c["name"], natural(c["type"]), str(c["type"].compile(connection.dialect)), bool(c["nullable"]))
            for c in reflected
        )
        return Described(Table(name, columns, tuple(key)))

    def reading(self, column: Column) -> Reading:
        plain = column_of(column.name)
        if pa.types.is_string(column.type):
            return Reading(sa.cast(plain, sa.Text()), lambda values: pa.array(values, pa.string()))
        return Reading(plain, lambda values: _inferred(values, column.type))

    def bound(self, column: Column, text: str) -> Bound:
        return Bound(column_of(column.name) >= sa.literal(parsed(column, text)))

    def lookup(self, column: Column) -> Lookup | None:
        plain = column_of(column.name)
        if pa.types.is_string(column.type) and not _TEXT.match(column.origin_type):
            return Lookup(self.reading(column).expression, lambda value: [value])
        return Lookup(plain, lambda value: [value])

    def greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        return greatest(connection, self.reading(column), column, name)

    def interrupt(self, connection: sa.Connection) -> None:
        raw = connection.connection.dbapi_connection
        if raw is not None and hasattr(raw, "cancel"):
            raw.cancel()


def greatest(connection: sa.Connection, reading: Reading, column: Column, name: TableName) -> Any:
    """The maximum as the database computes it, read as the column's rows are."""
    most = sa.select(sa.func.max(column_of(column.name)).label(identifier(column.name))).select_from(table_of(name))
    value = connection.execute(sa.select(reading.expression).select_from(most.subquery())).scalar()
    return converted([value], reading.convert, column, name)[0].as_py()


def _inferred(values: Values, wanted: pa.DataType) -> pa.Array:
    """Arrow's own type of the driver's values, and from there exactly the wanted one."""
    found = pa.array(values)
    return pa.nulls(len(values), wanted) if pa.types.is_null(found.type) else exactly(found, wanted)


def natural(kind: Any) -> pa.DataType:
    """The Arrow type of a reflected SQLAlchemy type; what has no exact counterpart travels as text."""
    if isinstance(kind, sa.Boolean):
        return pa.bool_()
    if isinstance(kind, sa.SmallInteger):
        return pa.int16()
    if isinstance(kind, sa.Integer):
        return pa.int64()
    if isinstance(kind, sa.Float):
        return pa.float64()
    if isinstance(kind, sa.Numeric):
        return _decimal(kind)
    if isinstance(kind, sa.DateTime):
        return pa.timestamp("us", "UTC" if kind.timezone else None)
    if isinstance(kind, sa.Date):
        return pa.date32()
    if isinstance(kind, sa.Time) and not kind.timezone:
        return pa.time64("us")
    if isinstance(kind, sa.LargeBinary):
        return pa.binary()
    return pa.string()


def _decimal(kind: Any) -> pa.DataType:
    """decimal(p,s) as declared; without digits there is no bound on them, so text."""
    if not kind.precision or kind.precision > 76:
        return pa.string()
    make = pa.decimal128 if kind.precision <= 38 else pa.decimal256
    return make(kind.precision, kind.scale or 0)
