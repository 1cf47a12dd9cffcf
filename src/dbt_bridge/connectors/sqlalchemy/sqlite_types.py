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
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from dbt_bridge.connectors.sqlalchemy.casts import Decode, Values, cast_exactly, cast_text
from dbt_bridge.connectors.sqlalchemy.column_types import Reading
from dbt_bridge.connectors.sqlalchemy.expressions import make_column, make_text
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.reconciliation import in_parentheses
from dbt_bridge.nouns.table import Column, quote_identifier


def natural_type(declared: str) -> pa.DataType:
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


def _affinity(declared: str) -> str:
    """The first word of a declared type, which decides what it means."""
    return re.split(r"[ (]", declared.upper().strip(), maxsplit=1)[0]


def resolve_reading(column: Column) -> Reading:
    """How a column is read in the type that it travels in."""
    declared, plain = natural_type(column.origin_type), make_column(column.name)
    if column.type.equals(declared):
        return Reading(plain, _decoder(declared, _affinity(column.origin_type)))
    if pa.types.is_binary(column.type):
        expression = sa.cast(plain, sa.LargeBinary())
        return Reading(expression, lambda values: _decode_class(values, (bytes,), column.type))
    return Reading(plain, lambda values: _decode_override(values, column.type))


def _decoder(kind: pa.DataType, word: str) -> Decode:
    """Values of the declared kind only."""
    if pa.types.is_string(kind):
        # SQLite stores digits as numbers in a type that it does not know (JSON, UUID, STRING, none): their text lands.
        known = any(part in word for part in ("CHAR", "CLOB", "TEXT"))
        return lambda values: _decode_class(values, (str,), kind) if known else _decode_texts(values, (str, int, float))
    if pa.types.is_integer(kind):
        return lambda values: _decode_class(values, (int,), kind)
    if pa.types.is_boolean(kind):
        return lambda values: cast_exactly(_decode_class(values, (int,), pa.int64()), kind)
    if pa.types.is_floating(kind):
        return lambda values: _decode_class(values, (int, float), kind)
    if pa.types.is_decimal(kind):
        return lambda values: cast_text(_decode_texts(values, (int, float)), kind)
    if pa.types.is_binary(kind):
        return lambda values: _decode_class(values, (bytes,), kind)
    return lambda values: cast_text(_decode_texts(values, (str,)), kind)


def _decode_override(values: Values, wanted: pa.DataType) -> pa.Array:
    """Values of any kind, cast exactly."""
    if pa.types.is_integer(wanted) or pa.types.is_floating(wanted) or pa.types.is_boolean(wanted):
        if _classes_of(values) <= {int}:
            return cast_exactly(pa.array(values, pa.int64()), wanted)
        if _classes_of(values) <= {int, float}:
            return cast_exactly(pa.array(values, pa.float64()), wanted)
    return cast_text(_decode_texts(values, (str, int, float, bytes)), wanted)


def _classes_of(values: Values) -> set[type]:
    return set(map(type, values)) - {type(None)}


def _decode_class(values: Values, classes: tuple[type, ...], kind: pa.DataType) -> pa.Array:
    _check_classes(values, classes)
    return pa.array(values, kind)


def _check_classes(values: Values, classes: tuple[type, ...]) -> None:
    if strangers := _classes_of(values) - set(classes):
        raise TypeError(f"holds {', '.join(sorted(c.__name__ for c in strangers))}")


def _decode_texts(values: Values, classes: tuple[type, ...]) -> pa.Array:
    """Text forms: numbers in all their digits (SQLite's own CAST keeps 15 of a double), bytes as UTF-8."""
    _check_classes(values, classes)
    return pa.array([_to_text(value) for value in values], pa.string())


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode() if isinstance(value, bytes) else repr(value)


_DECLARED = {"integer": "INTEGER", "real": "REAL", "text": "TEXT", "blob": "BLOB"}


def describe_query(connection: sa.Connection, query: str, names: Sequence[str], origin: str) -> list[Column]:
    """The columns of a query, judged by all its values, for each has a type of its own.

    Args:
        origin: its name, for messages.

    Raises:
        TypeRefused: a column gives values of several kinds.
    """
    return [_describe_column(connection, query, name, origin) for name in names]


def _describe_column(connection: sa.Connection, query: str, name: str, origin: str) -> Column:
    kind = f"typeof({quote_identifier(name)})"
    statement = make_text(f"SELECT DISTINCT {kind} FROM {in_parentheses(query)}")  # noqa: S608
    kinds: set[str] = set(connection.execute(statement).scalars().all())
    kinds.discard("null")
    if kinds == {"integer", "real"}:
        kinds = {"real"}
    if len(kinds) > 1:
        raise TypeRefused(
            f"the origin {origin!r}: {name!r} gives {' and '.join(sorted(kinds))} values",
            mend=f"give {name!r} a CAST in its expression or in the query",
        )
    declared = _DECLARED[kinds.pop()] if kinds else "TEXT"
    return Column(name, natural_type(declared), declared)
