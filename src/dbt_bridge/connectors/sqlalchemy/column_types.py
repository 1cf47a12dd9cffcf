"""Where the types of a SQLAlchemy database are decided: a column's natural Arrow type, and how it is read as any type.

    any database    here: SQLAlchemy's reflection names the type, the driver's Python values are cast exactly
    MySQL, MariaDB  mysql_types.py: the SELECT chooses the form in which the server sends a value without loss
    SQLite          sqlite_types.py: the declared type decides, and a value of another kind is refused

Each of the three has the same functions:

    natural_type     the Arrow type that keeps every value of a column's type
    resolve_reading  the expression that is selected for a column as it travels, and how the driver's values become an
                     Arrow array, by the casts of casts.py: exact, or refused
    describe_query   the columns that a query gives, whose types no catalog knows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from dbt_bridge.connectors.sqlalchemy.casts import Decode, Values, cast_exactly
from dbt_bridge.connectors.sqlalchemy.expressions import make_column, make_text
from dbt_bridge.nouns.reconciliation import ROWS
from dbt_bridge.nouns.table import Column

_SAMPLE = 1_000
_DECIMAL_SCALE = 9  # of an expression whose scale nobody tells


@dataclass(frozen=True, slots=True)
class Reading:
    """How one column is read: what is selected, and how the driver's values become an Arrow array."""

    expression: ColumnElement[Any]
    decode: Decode


def natural_type(kind: Any) -> pa.DataType:
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
        return _decimal_type(kind)
    if isinstance(kind, sa.DateTime):
        return pa.timestamp("us", "UTC" if kind.timezone else None)
    if isinstance(kind, sa.Date):
        return pa.date32()
    if isinstance(kind, sa.Time) and not kind.timezone:
        return pa.time64("us")
    if isinstance(kind, sa.LargeBinary):
        return pa.binary()
    return pa.string()


def _decimal_type(kind: Any) -> pa.DataType:
    """decimal(p,s) as declared; without digits there is no bound on them, so text."""
    if not kind.precision or kind.precision > 76:
        return pa.string()
    make = pa.decimal128 if kind.precision <= 38 else pa.decimal256
    return make(kind.precision, kind.scale or 0)


def resolve_reading(column: Column) -> Reading:
    """How a column is read in its type: as the driver's values, or cast to text by the database."""
    plain = make_column(column.name)
    if pa.types.is_string(column.type):
        return Reading(sa.cast(plain, sa.Text()), lambda values: pa.array(values, pa.string()))
    return Reading(plain, lambda values: _decode_inferred(values, column.type))


def _decode_inferred(values: Values, wanted: pa.DataType) -> pa.Array:
    """Arrow's own type of the driver's values, and from there exactly the wanted one."""
    found = pa.array(values)
    return pa.nulls(len(values), wanted) if pa.types.is_null(found.type) else cast_exactly(found, wanted)


def describe_query(connection: sa.Connection, query: str, names: Sequence[str]) -> list[Column]:
    """The columns of a query, judged by its first thousand rows; a later value that does not fit is refused."""
    plain = [make_column(name) for name in names]
    statement = sa.select(*plain).select_from(make_text(query).columns(*plain).subquery(ROWS)).limit(_SAMPLE)
    rows = connection.execute(statement).all()
    return [Column(name, _infer_type([row[place] for row in rows])) for place, name in enumerate(names)]


def _infer_type(values: Sequence[Any]) -> pa.DataType:
    found = pa.array(values).type
    if pa.types.is_null(found):
        return pa.string()
    if pa.types.is_decimal(found):
        return pa.decimal128(38, max(found.scale, _DECIMAL_SCALE))
    return found
