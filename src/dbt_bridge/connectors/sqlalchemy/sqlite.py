"""SQLite through Python's own driver: the file, its snapshot and catalog, cursors and keys.

The file is opened read-only. One read transaction is the snapshot: in WAL mode writers go on meanwhile, in the
older journal modes they wait until the copy is done. Types are decided in sqlite_types.py.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from dbt_bridge.connectors.sqlalchemy import sqlite_types
from dbt_bridge.connectors.sqlalchemy.casts import decode_column
from dbt_bridge.connectors.sqlalchemy.column_types import Reading
from dbt_bridge.connectors.sqlalchemy.cursor import parse_value
from dbt_bridge.connectors.sqlalchemy.dialect import Bound, read_maximum
from dbt_bridge.connectors.sqlalchemy.expressions import make_column, make_table
from dbt_bridge.connectors.sqlalchemy.key_search import Lookup
from dbt_bridge.connectors.sqlalchemy.sqlite_types import natural_type
from dbt_bridge.contracts.origin import Described
from dbt_bridge.errors import ConnectionFailed
from dbt_bridge.nouns.table import Column, Table, TableName

_COLUMNS = sa.text(
    """
    SELECT name, type, "notnull", pk
    FROM pragma_table_xinfo(:name, :schema)
    WHERE hidden <> 1
    ORDER BY cid
    """
)
_TABLES = sa.text(
    r"""
    SELECT name
    FROM pragma_table_list
    WHERE schema = :schema AND type IN ('table', 'virtual') AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
    """
)
_KIND = sa.text("SELECT name, type, wr FROM pragma_table_list WHERE schema = :schema AND lower(name) = lower(:name)")

_ISO_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"


class Sqlite:
    """SQLite through Python's own driver."""

    has_strict_keys = False  # several NULLs in a primary key are taken (sqlite.org/lang_createtable.html, section 3.5)
    ends_transactions = False

    def make_engine(self, url: sa.URL) -> sa.Engine:
        database = url.database or ":memory:"
        if database == ":memory:" or database.startswith("file:"):
            return sa.create_engine(url, poolclass=sa.StaticPool, connect_args={"check_same_thread": False})

        def connect() -> sqlite3.Connection:
            path = Path(database)
            if not path.exists():
                raise ConnectionFailed(
                    f"there is no SQLite file {path}",
                    mend="correct the path in the origin's credentials; a relative one starts at the project's root",
                )
            uri = f"{path.resolve().as_uri()}?mode=ro"
            return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)

        return sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool)

    def begin_snapshot(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()  # the first read takes the snapshot

    def read_identity(self, connection: sa.Connection, url: sa.URL) -> tuple[str, ...]:
        """The file's path. Its inode is another one after each `mv new.db shop.db`, with which many are updated."""
        return (f"sqlite:{Path(url.database or '').resolve()}",)

    def find_default_schema(self, connection: sa.Connection) -> str:
        return "main"

    def list_tables(self, connection: sa.Connection, schema: str) -> list[str]:
        return [str(name) for (name,) in connection.execute(_TABLES, {"schema": schema})]

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        wanted = {"schema": name.schema, "name": name.name}
        kinds = connection.execute(_KIND, wanted).all()
        if not kinds:
            return None
        true_name, kind, without_rowid = kinds[0]
        rows: list[tuple[str, str, int, int]] = [tuple(row) for row in connection.execute(_COLUMNS, wanted)]  # type: ignore[misc]
        columns = tuple(
            Column(column, natural_type(declared), declared, not required) for column, declared, required, _ in rows
        )
        key = tuple(column for column, _, _, position in sorted(rows, key=lambda row: row[3]) if position)
        table = Table(TableName(name.schema, str(true_name)), columns, key)
        has_rowid = kind == "table" and not without_rowid
        return Described(table, _estimate_rows(connection, table.name) if has_rowid else None)

    def resolve_reading(self, column: Column) -> Reading:
        return sqlite_types.resolve_reading(column)

    def describe_query(self, connection: sa.Connection, query: str, names: Sequence[str], origin: str) -> list[Column]:
        return sqlite_types.describe_query(connection, query, names, origin)

    def build_bound(self, column: Column, text: str) -> Bound:
        value, plain = parse_value(column, text), make_column(column.name)
        if pa.types.is_temporal(column.type):
            # The stored texts may be written with T or a space, with and without fractions: only dates compare.
            return Bound(plain >= sa.literal(text[:10]), exact=False)
        if isinstance(value, Decimal):
            value = _to_stored(value)
        return Bound(plain >= sa.literal(value))

    def resolve_lookup(self, column: Column) -> Lookup | None:
        plain, own = make_column(column.name), natural_type(column.origin_type)
        if pa.types.is_string(column.type):
            return Lookup(plain, _list_forms)
        if column.type != own:
            return None
        if pa.types.is_temporal(column.type):  # one moment has several texts: see `bound`
            length = 5 if pa.types.is_time(column.type) else 10
            return Lookup(sa.func.substr(plain, 1, length), lambda value: [value.isoformat()[:length]])
        if pa.types.is_decimal(column.type):
            return Lookup(plain, lambda value: [_to_stored(value)])
        return Lookup(plain, lambda value: [value])

    def read_greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        reading = self.resolve_reading(column)
        if not pa.types.is_temporal(column.type):
            return read_maximum(connection, reading, column, name)
        plain, table = make_column(column.name), make_table(name)
        other = sa.select(plain).select_from(table).where(~plain.op("GLOB")(_ISO_DATE)).limit(1)
        day = sa.select(sa.func.substr(sa.func.max(plain), 1, 10)).select_from(table).scalar_subquery()
        last_day = sa.select(plain).select_from(table).where(plain >= day)
        values = [*connection.execute(other).scalars(), *connection.execute(last_day).scalars()]
        return pc.max(decode_column(values, reading.decode, column, name)).as_py()

    def interrupt(self, connection: sa.Connection) -> None:
        """Nothing to do: SQLite computes a row when it is asked for the row."""


def _to_stored(value: Decimal) -> int | float:
    """A decimal as SQLite stores it: an integer of 64 bits, or a double."""
    whole = value == value.to_integral_value() and abs(value) < 2**63
    return int(value) if whole else float(value)


def _list_forms(text: str) -> list[Any]:
    """The stored values that may have this text: the text itself, its bytes, or a number."""
    forms: list[Any] = [text, text.encode()]
    with contextlib.suppress(ValueError):
        forms.append(float(text))
    with contextlib.suppress(ValueError):
        if abs(number := int(text)) < 2**63:
            forms.append(number)
    return forms


def _estimate_rows(connection: sa.Connection, name: TableName) -> int | None:
    """The greatest rowid: exact where rows were never deleted, and found without reading the table."""
    newest = sa.select(sa.func.max(sa.text("_rowid_"))).select_from(make_table(name))
    found = connection.execute(newest).scalar()
    return max(int(found), 0) if isinstance(found, int) else 0
