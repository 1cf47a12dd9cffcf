"""Rows in flight: those whose cursor is above the bound of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.calendar import parse_moment
from dbt_bridge.errors import UsageError
from dbt_bridge.verify.canonical.buffers import to_microseconds, to_storage
from dbt_bridge.verify.canonical.elements import to_canonical
from dbt_bridge.verify.request import Bound
from dbt_bridge.verify.rows.column_pairs import ColumnPair, ColumnPairs
from dbt_bridge.verify.rows.engine_values import as_engine_values
from dbt_bridge.verify.rows.workspace import engine_errors

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SQL = {
    "float": "CAST(? AS DOUBLE)",
    "text": "CAST(? AS VARCHAR)",
}
_INFINITY = 2**63 - 1
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class CursorLimit:
    """A bound in the type of its cursor.

    Attributes:
        at_most: in the type of `_as_sortable`; the number itself for a decimal.
    """

    cursor: ColumnPair
    at_most: pa.Scalar | Decimal

    def mark_above(self, arrays: Mapping[ColumnPair, pa.Array]) -> pa.Array:
        """int8: 1 where the row is above the bound. A row whose cursor is NULL is not."""
        array = next(array for pair, array in arrays.items() if pair.name == self.cursor.name)
        if isinstance(self.at_most, Decimal):
            numbers = to_canonical(array, self.cursor.canon).to_pylist()
            above = [v is not None and _is_above(v, self.at_most) for v in numbers]
            return pa.array(above, pa.bool_()).cast(pa.int8())
        values = _as_sortable(array, self.cursor)
        return pc.fill_null(pc.greater(values, self.at_most), False).cast(pa.int8())


def resolve_bound(pairs: ColumnPairs, bound: Bound | None, engine: DuckDBPyConnection) -> CursorLimit | None:
    """The bound in the type of its cursor; None without one.

    Raises:
        UsageError: the bound is no value of the cursor, or the cursor cannot be ordered.
    """
    if bound is None:
        return None
    cursor = next(pair for pair in pairs if pair.name == bound.cursor)
    kind = cursor.canon.kind
    if (kind not in _SQL and kind not in ("int", "decimal", "timestamp", "date")) or cursor.masked:
        raise UsageError(
            f"column {bound.cursor} cannot bound a comparison: its values have no order that both sides keep"
        )
    try:
        if kind == "decimal":
            return CursorLimit(cursor, _parse_number(bound.at_most))
        moment = kind == "timestamp"
        value = _parse_microseconds(bound.at_most) if moment else _parse_value(bound.at_most, cursor, engine)
    except (ValueError, ArithmeticError, engine_errors()) as error:
        raise UsageError(
            f"{bound.at_most!r} is no value of the cursor {bound.cursor}", mend="give it as the origin spells it"
        ) from error
    return CursorLimit(cursor, pa.scalar(value, _sortable_type(cursor)))


def _parse_number(text: str) -> Decimal:
    """Exactly: a cast to the cursor's type would round, and 200.5 lets no 201 pass."""
    number = Decimal(text.strip())
    if number.is_nan():
        raise ValueError("NaN bounds nothing")
    return number


def _is_above(text: str, at_most: Decimal) -> bool:
    """Whether a number in its canonical text is above the bound; NaN is above all, as in PostgreSQL."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise pa.ArrowInvalid(f"{text[:80]!r} is no number, and the cursor holds numbers") from None
    return number.is_nan() or number > at_most


def _parse_value(text: str, cursor: ColumnPair, engine: DuckDBPyConnection) -> Any:
    if cursor.canon.kind == "date":
        moment = _parse_microseconds(text)
        return moment if abs(moment) == _INFINITY else moment // _DAY
    if cursor.canon.kind == "int":
        return math.floor(max(min(_parse_number(text), Decimal(_INFINITY)), Decimal(-_INFINITY)))
    sql = _SQL[cursor.canon.kind]
    [(value,)] = engine.execute(f"SELECT {sql}", [text]).fetchall()  # DuckDB 2 goes on when all has been fetched
    return value


def _parse_microseconds(text: str) -> int:
    """Since 1970; without a zone it is UTC. (DuckDB's cast to TIMESTAMP drops an offset, and its TIMESTAMPTZ takes the
    session's zone where there is none.)"""
    if text.strip().lower() in ("infinity", "-infinity"):
        return _INFINITY if text.strip()[0] != "-" else -_INFINITY
    return parse_moment(text)


def _as_sortable(array: pa.Array, cursor: ColumnPair) -> pa.Array:
    """The cursor's values in a type that Arrow orders as the database does; moments in whole microseconds."""
    if cursor.canon.fine:
        whole = to_microseconds(to_storage(array)).microseconds
        return pa.array(whole, mask=np.asarray(array.is_null()))
    return as_engine_values(to_canonical(array, cursor.canon)).cast(_sortable_type(cursor))


def _sortable_type(cursor: ColumnPair) -> pa.DataType:
    return {"float": pa.float64(), "text": pa.string()}.get(cursor.canon.kind, pa.int64())
