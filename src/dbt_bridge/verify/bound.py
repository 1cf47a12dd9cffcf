"""Rows in flight: those whose cursor is above the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.errors import UsageError
from dbt_bridge.verify.asked import Bound
from dbt_bridge.verify.elements import canonical, microseconds, storage
from dbt_bridge.verify.engine import held
from dbt_bridge.verify.paired import Pair, Paired

_SQL = {
    "int": "CAST(? AS BIGINT)",
    "float": "CAST(? AS DOUBLE)",
    "decimal": "CAST(? AS DECIMAL(38,{scale}))",
    "date": "date_diff('day', DATE '1970-01-01', CAST(? AS DATE))",
    "timestamp": "epoch_us(CAST(? AS TIMESTAMP))",
    "text": "CAST(? AS VARCHAR)",
}


@dataclass(frozen=True, slots=True)
class Late:
    """Tells which rows are above a bound.

    Attributes:
        at_most: of the cursor, as `_ordered` gives its values.
    """

    cursor: Pair
    at_most: pa.Scalar

    def of(self, arrays: Mapping[Pair, pa.Array]) -> pa.Array:
        """int8: 1 where the row is above the bound. A row whose cursor is NULL is not."""
        array = next(array for pair, array in arrays.items() if pair.name == self.cursor.name)
        values = _ordered(array, self.cursor)
        return pc.fill_null(pc.greater(values, self.at_most), False).cast(pa.int8())


def late(paired: Paired, bound: Bound | None, engine: Any) -> Late | None:
    """What tells the rows in flight.

    Raises:
        UsageError: the bound is no value of the cursor, or the cursor cannot be ordered.
    """
    if bound is None:
        return None
    cursor = next(pair for pair in paired if pair.name == bound.cursor)
    kind = cursor.canon.kind
    if kind not in _SQL or cursor.masked:
        raise UsageError(
            f"column {bound.cursor} cannot bound a comparison: its values have no order that both sides keep"
        )
    sql = _SQL[kind].format(scale=cursor.canon.scale)
    import duckdb

    try:
        (value,) = engine.execute(f"SELECT {sql}", [bound.at_most]).fetchone()
    except duckdb.Error as error:
        raise UsageError(
            f"{bound.at_most!r} is no value of the cursor {bound.cursor}", mend="give it as the origin spells it"
        ) from error
    return Late(cursor, pa.scalar(value, _ordered_type(cursor)))


def _ordered(array: pa.Array, cursor: Pair) -> pa.Array:
    """Values in a type whose order is theirs; moments in whole microseconds."""
    if cursor.canon.fine:
        whole, _ = microseconds(storage(array))
        return pa.array(whole, mask=np.asarray(array.is_null()))
    return held(canonical(array, cursor.canon)).cast(_ordered_type(cursor))


def _ordered_type(cursor: Pair) -> pa.DataType:
    if cursor.canon.kind == "decimal":
        return pa.decimal128(38, cursor.canon.scale)
    return {"float": pa.float64(), "text": pa.string()}.get(cursor.canon.kind, pa.int64())
