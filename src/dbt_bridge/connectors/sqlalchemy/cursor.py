"""Values of the cursor (the ordering column of incremental loading): parsed from text, moved back by a lag, formatted.

The text stands in a checkpoint, and both ends read it: integers and decimals in digits, doubles in their shortest exact
form, dates as `2026-11-21`, timestamps as `2026-11-21 02:30:00.123456`, with `+00:00` behind timestamps with a zone.
"""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any

import pyarrow as pa

from dbt_bridge.connectors.sqlalchemy.casts import cast_text
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


def parse_value(column: Column, text: str) -> Any:
    """The Python value of a checkpoint's text; raises ArrowInvalid for a text that is no value of the column's type."""
    return cast_text(pa.array([text], pa.string()), column.type)[0].as_py()


def format_value(value: Any) -> str:
    """A Python value as a checkpoint's text."""
    if isinstance(value, datetime):
        zone = "" if value.tzinfo is None else "+00:00"
        return f"{value.replace(tzinfo=None).isoformat(sep=' ')}{zone}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return repr(value)


def subtract_lag(column: Column, text: str, lag: float) -> str:
    """The text of `value - lag`, rounded down to a value of the column's type, and never below its least one.

    Args:
        lag: seconds for dates and timestamps, units for numbers.
    """
    if not lag:
        return text
    value = parse_value(column, text)
    if isinstance(value, datetime):
        return format_value(_subtract_seconds(value, lag))
    if isinstance(value, date):
        return format_value(_subtract_seconds(datetime.combine(value, datetime.min.time()), lag).date())
    if isinstance(value, float):
        return format_value(value - lag)
    return format_value(_subtract_number(value, lag, column.type))


def _subtract_seconds(value: datetime, lag: float) -> datetime:
    try:
        return value - timedelta(seconds=lag)
    except OverflowError:  # before the year 1
        return datetime.min.replace(tzinfo=value.tzinfo)


def _subtract_number(value: int | Decimal, lag: float, kind: pa.DataType) -> int | Decimal:
    with localcontext() as context:
        context.prec = 100
        if isinstance(value, int):
            least = 0 if pa.types.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
            return max(math.floor(value - Decimal(repr(lag))), least)
        step = Decimal(1).scaleb(-kind.scale)
        least = -(Decimal(1).scaleb(kind.precision - kind.scale) - step)
        return max((value - Decimal(repr(lag))).quantize(step, ROUND_FLOOR), least)
