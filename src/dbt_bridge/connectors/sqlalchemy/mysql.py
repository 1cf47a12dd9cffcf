"""MySQL and MariaDB, value by value exact.

What the server sends is chosen by the SELECT, because drivers decode some types wrongly or lossily:

    decimal, date, datetime, timestamp, year(4) ...   CAST(c AS CHAR), parsed strictly by Arrow. PyMySQL turns the
        zero date '0000-00-00' into text, and TIME over 24 hours into a timedelta; here both are refused.
    float                     c * 1e0: the text of a FLOAT has 6 digits only (MySQL manual, "Problems with
                              Floating-Point Values"); as a double it has all of them
    timestamp                 the session's time zone is UTC, so it is a moment in time; datetime has no zone
    bit(n)                    bit(1) is a boolean; others are their unsigned integer
    tinyint(1)                an integer: MySQL keeps -128 to 127 in it, whatever it is called
    unsigned                  the next wider signed type; bigint unsigned is decimal(20,0)
    geometry                  the server's own bytes (SRID and WKB); as text, ST_AsText
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import time
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from dbt_bridge.connectors.sqlalchemy.casts import Values, exactly, from_text
from dbt_bridge.connectors.sqlalchemy.cursor import parsed, written
from dbt_bridge.connectors.sqlalchemy.dialect import (
    Bound,
    Reading,
    column_of,
    greatest,
)
from dbt_bridge.connectors.sqlalchemy.key_search import Lookup
from dbt_bridge.contracts.origin import Described
from dbt_bridge.nouns.table import Column, Table, TableName

_SIGNED = {"tinyint": pa.int8(), "smallint": pa.int16(), "mediumint": pa.int32(), "int": pa.int32()}
_UNSIGNED = {"tinyint": pa.int16(), "smallint": pa.int32(), "mediumint": pa.int32(), "int": pa.int64()}
_BINARY = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"}
_GEOMETRY = {
    "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
    "geometrycollection", "geomcollection",
}  # fmt: skip
_PLAIN_TEXT = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_TEXT_INDEXED = {"uuid", "inet6", "inet4"}  # MariaDB compares them with text as what they are

_SESSION = (
    "SET SESSION time_zone = '+00:00'",
    "SET SESSION sql_mode = ''",
    "SET SESSION net_write_timeout = 3600",  # a slow destination must not make the server hang up after 60 s
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)

_COLUMNS = sa.text(
    """
    SELECT table_name, column_name, column_type, is_nullable
    FROM information_schema.columns
    WHERE table_schema = :schema AND table_name = :name
    ORDER BY ordinal_position
    """
)
_KEY = sa.text(
    """
    SELECT table_name, column_name
    FROM information_schema.statistics
    WHERE table_schema = :schema AND table_name = :name AND index_name = 'PRIMARY'
    ORDER BY seq_in_index
    """
)
_SIZE = sa.text(
    """
    SELECT table_name, table_rows, data_length
    FROM information_schema.tables
    WHERE table_schema = :schema AND table_name = :name
    """
)
_TABLES = sa.text(
    """
    SELECT table_name
    FROM information_schema.tables
    WHERE table_schema = :schema AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
    """
)


class MySql:
    """MySQL and MariaDB through any of SQLAlchemy's drivers."""

    def engine(self, url: sa.URL) -> sa.Engine:
        # utf8mb4 whatever the URL says: in a narrower charset the server replaces characters by '?'.
        return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"charset": "utf8mb4"})

    def begin(self, connection: sa.Connection) -> None:
        for statement in _SESSION:
            connection.exec_driver_sql(statement)

    def default_schema(self, connection: sa.Connection) -> str:
        return connection.dialect.default_schema_name or ""

    def tables(self, connection: sa.Connection, schema: str) -> list[str]:
        return [str(name) for (name,) in connection.execute(_TABLES, {"schema": schema})]

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        # information_schema compares names without regard to case; tables may differ by case alone.
        wanted = {"schema": name.schema, "name": name.name}
        rows = [row for row in connection.execute(_COLUMNS, wanted) if row[0] == name.name]
        if not rows:
            return None
        columns = tuple(_column(column, kind, nullable == "YES") for _, column, kind, nullable in rows)
        key = tuple(str(column) for table, column in connection.execute(_KEY, wanted) if table == name.name)
        sizes = [row for row in connection.execute(_SIZE, wanted) if row[0] == name.name]
        estimate, size = (sizes[0][1], sizes[0][2]) if sizes else (None, None)
        return Described(Table(name, columns, key), _whole(estimate), _whole(size))

    def reading(self, column: Column) -> Reading:
        kind = _kind(column.origin_type)
        plain = column_of(column.name)
        if pa.types.is_string(column.type):
            return Reading(*_as_text(plain, kind))
        first = natural(column.origin_type)
        return Reading(_sent(plain, kind), _parser(kind, first, column.type))

    def bound(self, column: Column, text: str) -> Bound:
        value = parsed(column, text)
        if pa.types.is_temporal(column.type):
            # Without the offset: the session is in UTC, and MariaDB's literals know no offsets.
            value = text.removesuffix("+00:00")
        return Bound(column_of(column.name) >= sa.literal(value))

    def lookup(self, column: Column) -> Lookup | None:
        kind, plain = _kind(column.origin_type), column_of(column.name)
        if column.type != natural(column.origin_type) or pa.types.is_string(column.type):
            if not pa.types.is_string(column.type):
                return None
            searched = plain if kind in _PLAIN_TEXT or kind in _TEXT_INDEXED else _as_text(plain, kind)[0]
            return Lookup(searched, (lambda text: [text.encode()]) if kind in _BINARY else lambda text: [text])
        if pa.types.is_temporal(column.type):
            return Lookup(plain, lambda value: [_literal(value)])
        return Lookup(plain, lambda value: [value])

    def greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        return greatest(connection, self.reading(column), column, name)

    def interrupt(self, connection: sa.Connection) -> None:
        """KILL QUERY through a second connection: the rest of the rows would have to be read otherwise."""
        raw = connection.connection.dbapi_connection
        number = int(raw.thread_id())  # type: ignore[union-attr]
        with connection.engine.connect() as other:
            other.exec_driver_sql(f"KILL QUERY {number:d}")


def _literal(value: Any) -> str:
    """A date, time or datetime as the session's text of it, which is in UTC."""
    return value.strftime("%H:%M:%S.%f") if isinstance(value, time) else written(value).removesuffix("+00:00")


def _whole(number: Any) -> int | None:
    return None if number is None else int(number)


def _column(name: Any, kind: Any, nullable: bool) -> Column:
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    return Column(str(name), natural(kind), kind, nullable)


def _kind(origin_type: str) -> str:
    return re.split(r"[ (]", origin_type.lower(), maxsplit=1)[0]


def natural(origin_type: str) -> pa.DataType:
    """The Arrow type of a column type as `information_schema.columns.column_type` writes it."""
    kind, unsigned = _kind(origin_type), " unsigned" in origin_type.lower()
    digits = [int(n) for n in re.findall(r"\d+", origin_type)]
    if kind in _SIGNED:
        return (_UNSIGNED if unsigned else _SIGNED)[kind]
    if kind == "bigint":
        return pa.decimal128(20, 0) if unsigned else pa.int64()
    if kind == "decimal":
        precision, scale = digits[0], digits[1] if len(digits) > 1 else 0
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    if kind == "bit":
        return pa.bool_() if digits[0] == 1 else pa.int64() if digits[0] < 64 else pa.decimal128(20, 0)
    if kind in _BINARY or kind in _GEOMETRY:
        return pa.binary()
    fixed = {
        "year": pa.int16(), "float": pa.float32(), "double": pa.float64(), "date": pa.date32(),
        "time": pa.time64("us"), "datetime": pa.timestamp("us"), "timestamp": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return fixed.get(kind, pa.string())


def _as_text(plain: ColumnElement[Any], kind: str) -> tuple[ColumnElement[Any], Callable[[Values], pa.Array]]:
    """A column in the server's text form. Bytes are not converted by it: it would write '?' for what is not UTF-8."""
    if kind in _BINARY:
        return plain, _text_of_bytes
    if kind in _GEOMETRY:
        return sa.func.ST_AsText(plain), _text
    if kind in _PLAIN_TEXT:
        return plain, _text
    if kind == "float":
        plain = plain * sa.literal_column("1e0")
    if kind == "bit":
        plain = plain + sa.literal_column("0")
    return sa.cast(plain, sa.CHAR()), _text


def _sent(plain: ColumnElement[Any], kind: str) -> ColumnElement[Any]:
    """What the server sends for a column that is not wanted as text."""
    if kind in _BINARY or kind in _GEOMETRY or kind in _PLAIN_TEXT or kind in ("double", "year"):
        return plain
    if kind in _SIGNED or kind == "bigint":
        return plain
    if kind == "float":
        return plain * sa.literal_column("1e0")
    if kind == "bit":
        return sa.cast(plain + sa.literal_column("0"), sa.CHAR())
    return sa.cast(plain, sa.CHAR())


def _parser(kind: str, first: pa.DataType, wanted: pa.DataType) -> Callable[[Values], pa.Array]:
    """From the driver's values to the natural type, and from there exactly to the wanted one."""
    if kind in _SIGNED or kind in ("bigint", "year"):
        return lambda values: exactly(pa.array(values, pa.int64() if first != pa.decimal128(20, 0) else first), wanted)
    if kind in ("double", "float"):
        return lambda values: exactly(exactly(pa.array(values, pa.float64()), first), wanted)
    if pa.types.is_binary(first):
        return lambda values: exactly(pa.array(values, pa.binary()), wanted)
    if kind == "bit" and pa.types.is_boolean(first):
        return lambda values: exactly(exactly(from_text(_text(values), pa.int64()), first), wanted)
    return lambda values: exactly(from_text(_text(values), first), wanted)


def _text(values: Values) -> pa.Array:
    """Text values; some servers send the text of JSON and of catalog expressions as bytes."""
    if any(isinstance(value, bytes) for value in values):
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
    return pa.array(values, pa.string())


def _text_of_bytes(values: Values) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.string())
