"""SQLite, where a column's type is an intention and each value has a type of its own.

A column lands in the type that its declaration means (sqlite.org/datatype3.html, section 3.1), and a value of
another kind is refused: a text in an INTEGER column never becomes NULL or 0. An override in `types:` casts instead.

    INT...                          bigint
    BOOLEAN                         boolean: 0 and 1 only
    REAL, FLOAT, DOUBLE, NUMERIC    double; integers beyond 2^53 are refused
    DECIMAL(p,s), NUMERIC(p,s)      decimal(p,s): of the double that SQLite stores, its shortest exact decimal form
    DATE, TIME, DATETIME, TIMESTAMP from ISO 8601 text; numbers (epochs, Julian days) need an override
    BLOB                            bytes
    CHAR, TEXT, CLOB, JSON, others  text

The file is opened read-only. One read transaction is the snapshot: in WAL mode writers go on meanwhile, in the
older journal modes they wait until the copy is done.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from dbt_bridge.connectors.sqlalchemy.casts import (
    Values,
    converted,
    exactly,
    from_text,
)
from dbt_bridge.connectors.sqlalchemy.cursor import parsed
from dbt_bridge.connectors.sqlalchemy.dialect import (
    Bound,
    Reading,
    column_of,
    greatest,
    table_of,
)
from dbt_bridge.connectors.sqlalchemy.key_search import Lookup
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

    def engine(self, url: sa.URL) -> sa.Engine:
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

    def begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()  # the first read takes the snapshot

    def default_schema(self, connection: sa.Connection) -> str:
        return "main"

    def tables(self, connection: sa.Connection, schema: str) -> list[str]:
        return [str(name) for (name,) in connection.execute(_TABLES, {"schema": schema})]

    def describe(self, connection: sa.Connection, name: TableName) -> Described | None:
        wanted = {"schema": name.schema, "name": name.name}
        kinds = connection.execute(_KIND, wanted).all()
        if not kinds:
            return None
        true_name, kind, without_rowid = kinds[0]
        rows: list[tuple[str, str, int, int]] = [tuple(row) for row in connection.execute(_COLUMNS, wanted)]  # type: ignore[misc]
        columns = tuple(
            Column(column, natural(declared), declared, not required) for column, declared, required, _ in rows
        )
        key = tuple(column for column, _, _, position in sorted(rows, key=lambda row: row[3]) if position)
        table = Table(TableName(name.schema, str(true_name)), columns, key)
        counted = kind == "table" and not without_rowid
        return Described(table, _estimate(connection, table.name) if counted else None)

    def reading(self, column: Column) -> Reading:
        plain = column_of(column.name)
        declared = natural(column.origin_type)
        if column.type.equals(declared):
            return Reading(plain, _declared(declared, _affinity(column.origin_type)))
        if pa.types.is_binary(column.type):
            return Reading(sa.cast(plain, sa.LargeBinary()), lambda values: _of_class(values, (bytes,), column.type))
        return Reading(plain, lambda values: _overridden(values, column.type))

    def bound(self, column: Column, text: str) -> Bound:
        value, plain = parsed(column, text), column_of(column.name)
        if pa.types.is_temporal(column.type):
            # The stored texts may be written with T or a space, with and without fractions: only dates compare.
            return Bound(plain >= sa.literal(text[:10]), exact=False)
        if isinstance(value, Decimal):
            value = _stored(value)
        return Bound(plain >= sa.literal(value))

    def lookup(self, column: Column) -> Lookup | None:
        plain, natural_type = column_of(column.name), natural(column.origin_type)
        if pa.types.is_string(column.type):
            return Lookup(plain, _forms)
        if column.type != natural_type:
            return None
        if pa.types.is_temporal(column.type):  # one moment has several texts: see `bound`
            length = 5 if pa.types.is_time(column.type) else 10
            return Lookup(sa.func.substr(plain, 1, length), lambda value: [value.isoformat()[:length]])
        if pa.types.is_decimal(column.type):
            return Lookup(plain, lambda value: [_stored(value)])
        return Lookup(plain, lambda value: [value])

    def greatest(self, connection: sa.Connection, column: Column, name: TableName) -> Any:
        reading = self.reading(column)
        if not pa.types.is_temporal(column.type):
            return greatest(connection, reading, column, name)
        plain, table = column_of(column.name), table_of(name)
        other = sa.select(plain).select_from(table).where(~plain.op("GLOB")(_ISO_DATE)).limit(1)
        day = sa.select(sa.func.substr(sa.func.max(plain), 1, 10)).select_from(table).scalar_subquery()
        last_day = sa.select(plain).select_from(table).where(plain >= day)
        values = [*connection.execute(other).scalars(), *connection.execute(last_day).scalars()]
        return pc.max(converted(values, reading.convert, column, name)).as_py()

    def interrupt(self, connection: sa.Connection) -> None:
        """Nothing to do: SQLite computes a row when it is asked for the row."""


def _stored(value: Decimal) -> int | float:
    """A decimal as SQLite stores it."""
    whole = value == value.to_integral_value() and abs(value) < 2**63
    return int(value) if whole else float(value)


def _forms(text: str) -> list[Any]:
    """What a stored value may be whose text this is: the text, its bytes, or a number."""
    forms: list[Any] = [text, text.encode()]
    with contextlib.suppress(ValueError):
        forms.append(float(text))
    with contextlib.suppress(ValueError):
        if abs(number := int(text)) < 2**63:
            forms.append(number)
    return forms


def _estimate(connection: sa.Connection, name: TableName) -> int | None:
    """The greatest rowid: exact where rows were never deleted, and found without reading the table."""
    newest = sa.select(sa.func.max(sa.text("_rowid_"))).select_from(table_of(name))
    found = connection.execute(newest).scalar()
    return max(int(found), 0) if isinstance(found, int) else 0


def _affinity(declared: str) -> str:
    """The word of the declared type that decides."""
    return re.split(r"[ (]", declared.upper().strip(), maxsplit=1)[0]


def natural(declared: str) -> pa.DataType:
    """The Arrow type that a declared type means."""
    upper, word = declared.upper(), _affinity(declared)
    fixed = {
        "BOOLEAN": pa.bool_(), "BOOL": pa.bool_(), "DATE": pa.date32(), "TIME": pa.time64("us"),
        "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us"), "NUMERIC": pa.float64(),
        "DECIMAL": pa.float64(),
    }  # fmt: skip
    digits = [int(n) for n in re.findall(r"\d+", declared)]
    if word in ("DECIMAL", "NUMERIC") and digits and 0 < digits[0] <= 38:
        return pa.decimal128(digits[0], digits[1] if len(digits) > 1 else 0)
    if word in fixed:
        return fixed[word]
    if "INT" in upper:
        return pa.int64()
    if any(part in upper for part in ("CHAR", "CLOB", "TEXT")):
        return pa.string()
    if "BLOB" in upper:
        return pa.binary()
    if any(part in upper for part in ("REAL", "FLOA", "DOUB")):
        return pa.float64()
    return pa.string()


def _declared(kind: pa.DataType, word: str) -> Callable[[Values], pa.Array]:
    """Values of the declared kind only."""
    if pa.types.is_string(kind):
        # A type that SQLite does not know (JSON, UUID, STRING, none) turns digits into numbers: their text is meant.
        known = any(part in word for part in ("CHAR", "CLOB", "TEXT"))
        return lambda values: _of_class(values, (str,), kind) if known else _texts(values, (str, int, float))
    if pa.types.is_integer(kind):
        return lambda values: _of_class(values, (int,), kind)
    if pa.types.is_boolean(kind):
        return lambda values: exactly(_of_class(values, (int,), pa.int64()), kind)
    if pa.types.is_floating(kind):
        return lambda values: _of_class(values, (int, float), kind)
    if pa.types.is_decimal(kind):
        return lambda values: from_text(_texts(values, (int, float)), kind)
    if pa.types.is_binary(kind):
        return lambda values: _of_class(values, (bytes,), kind)
    return lambda values: from_text(_texts(values, (str,)), kind)


def _overridden(values: Values, wanted: pa.DataType) -> pa.Array:
    """Values of any kind, cast exactly."""
    if pa.types.is_integer(wanted) or pa.types.is_floating(wanted) or pa.types.is_boolean(wanted):
        if _classes(values) <= {int}:
            return exactly(pa.array(values, pa.int64()), wanted)
        if _classes(values) <= {int, float}:
            return exactly(pa.array(values, pa.float64()), wanted)
    return from_text(_texts(values, (str, int, float, bytes)), wanted)


def _classes(values: Values) -> set[type]:
    return set(map(type, values)) - {type(None)}


def _of_class(values: Values, classes: tuple[type, ...], kind: pa.DataType) -> pa.Array:
    _check(values, classes)
    return pa.array(values, kind)


def _check(values: Values, classes: tuple[type, ...]) -> None:
    if strangers := _classes(values) - set(classes):
        raise TypeError(f"holds {', '.join(sorted(c.__name__ for c in strangers))}")


def _texts(values: Values, classes: tuple[type, ...]) -> pa.Array:
    """Text forms: numbers in all their digits (SQLite's own CAST keeps 15 of a double), bytes as UTF-8."""
    _check(values, classes)
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode() if isinstance(value, bytes) else repr(value)
