"""Values of the cursor, the ordering column of incremental loading, as text that stands in a checkpoint."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.nouns.table import Column
from dbt_bridge_jsonl.column_types import Number, decode, encode


def is_cursor(kind: pa.DataType) -> bool:
    """Whether values of this type have an order and distances."""
    is_number = is_.is_integer(kind) or is_.is_floating(kind) or is_.is_decimal(kind)
    return bool(is_number or is_.is_date(kind) or is_.is_timestamp(kind))


def parse_value(column: Column, text: str) -> pa.Scalar:
    """The value of a checkpoint's text; raises one of REFUSALS for a text of another type."""
    is_number = is_.is_integer(column.type) or is_.is_floating(column.type)
    return decode([Number(text) if is_number else text], column.type)[0]


def format_value(value: pa.Scalar) -> str:
    """A value as text that destinations cast to its type."""
    return str(encode(pa.array([value.as_py()], value.type))[0])


def subtract_lag(column: Column, text: str, lag: float) -> str:
    """The text of `value - lag`, rounded down.

    Args:
        lag: seconds for dates and timestamps, units for numbers.
    """
    value = parse_value(column, text).as_py()
    return format_value(pa.scalar(_subtract(value, lag), column.type)) if lag else text


def _subtract(value: Any, lag: float) -> Any:
    if isinstance(value, datetime):
        return value - timedelta(seconds=lag)
    if isinstance(value, date):
        return (datetime.combine(value, datetime.min.time()) - timedelta(seconds=lag)).date()
    if isinstance(value, float):
        return value - lag
    with localcontext() as context:
        context.prec = 100
        if isinstance(value, int):
            return math.floor(value - Decimal(repr(lag)))
        return (value - Decimal(repr(lag))).quantize(value, ROUND_FLOOR)
