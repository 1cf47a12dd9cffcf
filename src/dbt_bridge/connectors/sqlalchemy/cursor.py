"""Cursor values: parsed from a checkpoint's text, moved back by a lag, and written as text again.

The text is what both ends read: integers and decimals in digits, doubles as their shortest exact form, dates as
`2026-11-21`, timestamps as `2026-11-21 02:30:00.123456`, with `+00:00` behind those that are moments in time.
"""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any

import pyarrow as pa

from dbt_bridge.connectors.sqlalchemy.casts import from_text
from dbt_bridge.nouns.table import Column


def is_cursor(kind: pa.DataType) -> bool:
    """Whether values of this type have an order that both ends agree on, and distances."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
    )


def parsed(column: Column, text: str) -> Any:
    """The Python value of a checkpoint's text; raises ArrowInvalid when it is none of the column's type."""
    return from_text(pa.array([text], pa.string()), column.type)[0].as_py()


def written(value: Any) -> str:
    """A Python value as a checkpoint's text."""
    if isinstance(value, datetime):
        zone = "" if value.tzinfo is None else "+00:00"
        return f"{value.replace(tzinfo=None).isoformat(sep=' ')}{zone}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return repr(value)


def earlier(column: Column, text: str, lag: float) -> str:
    """The text of `value - lag`, rounded down to a value of the column's type, and never below its least one.

    Args:
        lag: seconds for dates and timestamps, units for numbers.
    """
    if not lag:
        return text
    value = parsed(column, text)
    if isinstance(value, datetime):
        return written(_moment_before(value, lag))
    if isinstance(value, date):
        return written(_moment_before(datetime.combine(value, datetime.min.time()), lag).date())
    if isinstance(value, float):
        return written(value - lag)
    return written(_number_before(value, lag, column.type))


def _moment_before(value: datetime, lag: float) -> datetime:
    try:
        return value - timedelta(seconds=lag)
    except OverflowError:  # before the year 1
        return datetime.min.replace(tzinfo=value.tzinfo)


def _number_before(value: int | Decimal, lag: float, kind: pa.DataType) -> int | Decimal:
    with localcontext() as context:
        context.prec = 100
        if isinstance(value, int):
            least = 0 if pa.types.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
            return max(math.floor(value - Decimal(repr(lag))), least)
        step = Decimal(1).scaleb(-kind.scale)
        least = -(Decimal(1).scaleb(kind.precision - kind.scale) - step)
        return max((value - Decimal(repr(lag))).quantize(step, ROUND_FLOOR), least)
