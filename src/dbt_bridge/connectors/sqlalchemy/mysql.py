"""MySQL and MariaDB: one consistent snapshot, the catalog of information_schema, cursors and keys.

Types are decided in mysql_types.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import time
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from dbt_bridge.connectors.sqlalchemy import mysql_types
from dbt_bridge.connectors.sqlalchemy.column_types import Reading
from dbt_bridge.connectors.sqlalchemy.cursor import format_value, parse_value
from dbt_bridge.connectors.sqlalchemy.dialect import Bound, format_address, read_maximum
from dbt_bridge.connectors.sqlalchemy.expressions import make_column
from dbt_bridge.connectors.sqlalchemy.key_search import Lookup
from dbt_bridge.connectors.sqlalchemy.mysql_types import (
    BINARY,
    PLAIN_TEXT,
    kind_of,
    natural_type,
    read_as_text,
)
from dbt_bridge.connectors.sqlalchemy.mysql_watch import make_watched_engine
from dbt_bridge.contracts.origin import Described
from dbt_bridge.nouns.table import Column, Table, TableName

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
_IDENTITY = sa.text("SHOW GLOBAL VARIABLES WHERE variable_name IN ('server_uuid', 'server_uid')")
_TABLES = sa.text(
    """
    SELECT table_name
    FROM information_schema.tables
    WHERE table_schema = :schema AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
    """
)


class MySql:
    """MySQL and MariaDB through any of SQLAlchemy's drivers."""

    has_strict_keys = True
    ends_transactions = False

    def make_engine(self, url: sa.URL) -> sa.Engine:
        # utf8mb4 whatever the URL says: in a narrower charset the server replaces characters by '?'.
        if url.get_driver_name() == "pymysql":
            return make_watched_engine(url, charset="utf8mb4")
        return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"charset": "utf8mb4"})

    def begin_snapshot(self, connection: sa.Connection) -> None:
        for statement in _SESSION:
            connection.exec_driver_sql(statement)

    def read_identity(self, connection: sa.Connection, url: sa.URL) -> tuple[str, ...]:
        """MySQL's `server_uuid`. MariaDB's `server_uid` comes from its machine, and a container has another one at each
        start: there the address identifies it too."""
        known = {str(name): str(value) for name, value in connection.execute(_IDENTITY)}
        if "server_uuid" in known:
            return (known["server_uuid"],)
        return (*known.values(), format_address(url))

    def find_default_schema(self, connection: sa.Connection) -> str:
        return connection.dialect.default_schema_name or ""

    def list_tables(self, connection: sa.Connection, schema: str) -> list[str]:
        return [str(name) for (name,) in connection.execute(_TABLES, {"schema": schema})]

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        # information_schema compares names without regard to case; tables may differ by case alone.
        wanted = {"schema": name.schema, "name": name.name}
        rows = [row for row in connection.execute(_COLUMNS, wanted) if row[0] == name.name]
        if not rows:
            return None
        columns = tuple(_make_column(column, kind, nullable == "YES") for _, column, kind, nullable in rows)
        key = tuple(str(column) for table, column in connection.execute(_KEY, wanted) if table == name.name)
        sizes = [row for row in connection.execute(_SIZE, wanted) if row[0] == name.name]
        estimate, size = (sizes[0][1], sizes[0][2]) if sizes else (None, None)
        return Described(Table(name, columns, key), _to_int(estimate), _to_int(size))

    def resolve_reading(self, column: Column) -> Reading:
        return mysql_types.resolve_reading(column)

    def describe_query(self, connection: sa.Connection, query: str, names: Sequence[str], origin: str) -> list[Column]:
        return mysql_types.describe_query(connection, query, names)

    def build_bound(self, column: Column, text: str) -> Bound:
        value = parse_value(column, text)
        if pa.types.is_temporal(column.type):
            # Without the offset: the session is in UTC, and MariaDB's literals know no offsets.
            value = text.removesuffix("+00:00")
        return Bound(make_column(column.name) >= sa.literal(value))

    def resolve_lookup(self, column: Column) -> Lookup | None:
        kind, plain = kind_of(column.origin_type), make_column(column.name)
        if column.type != natural_type(column.origin_type) or pa.types.is_string(column.type):
            if not pa.types.is_string(column.type):
                return None
            searched = plain if kind in PLAIN_TEXT or kind in _TEXT_INDEXED else read_as_text(plain, kind).expression
            return Lookup(searched, (lambda text: [text.encode()]) if kind in BINARY else lambda text: [text])
        if pa.types.is_temporal(column.type):
            return Lookup(plain, lambda value: [_format_literal(value)])
        return Lookup(plain, lambda value: [value])

    def read_greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        return read_maximum(connection, self.resolve_reading(column), column, name)

    def interrupt(self, connection: sa.Connection) -> None:
        """KILL QUERY through a second connection: the rest of the rows would have to be read otherwise."""
        raw = connection.connection.dbapi_connection
        number = int(raw.thread_id())  # type: ignore[union-attr]
        with connection.engine.connect() as other:
            other.exec_driver_sql(f"KILL QUERY {number:d}")


def _format_literal(value: Any) -> str:
    """A date, time or datetime as the session's text of it, which is in UTC."""
    return value.strftime("%H:%M:%S.%f") if isinstance(value, time) else format_value(value).removesuffix("+00:00")


def _to_int(number: Any) -> int | None:
    return None if number is None else int(number)


def _make_column(name: Any, kind: Any, nullable: bool) -> Column:
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    return Column(str(name), natural_type(kind), kind, nullable)
