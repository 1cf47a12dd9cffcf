"""Where DuckDB's equality is not the origin's: keys that are one to the origin, and values that are two to everybody.

INTERVAL         DuckDB takes `30 days` for `1 mon`, as PostgreSQL does, but not `29 days` for `1 mon -1 day`
FLOAT, DOUBLE    0.0 is -0.0 to both, and yet two values
TIMETZ           one time of day in two zones is one to DuckDB

A window hands on the columns that it is partitioned or ordered by as its sort key holds them, -0.0 as 0.0, at any depth
(DuckDB 1.5.5). So no expression here is a bare column where floats are in it: rows leave a window as they came.
"""

from __future__ import annotations

_FLOATS = ("FLOAT", "DOUBLE")


def as_key(expression: str, type_: str) -> str:
    """A key column as its origin compares it: an interval by its length, a month of 30 days of 24 hours."""
    if is_float(type_):
        return f"CASE WHEN {expression} = 0 THEN 0 ELSE {expression} END"
    if holds_floats(type_):
        return f"[{expression}]"
    if type_ != "INTERVAL":
        return expression
    part = {name: f"datepart('{name}', {expression})" for name in ("year", "month", "day", "hour", "minute")}
    days = f"(({part['year']}::HUGEINT * 12 + {part['month']}) * 30 + {part['day']})"
    minutes = f"({part['hour']} * 60 + {part['minute']})"
    return f"({days} * 86400000000 + {minutes} * 60000000 + datepart('microsecond', {expression}))"


def as_written(expression: str, type_: str) -> list[str]:
    """Expressions that are the same for values that are written the same, and for these alone."""
    if "INTERVAL" in type_ or "TIME WITH TIME ZONE" in type_:
        return [f"CAST({expression} AS VARCHAR)"]
    if is_float(type_):
        return [as_key(expression, type_), f"({expression} = 0 AND signbit({expression}))"]
    if holds_floats(type_):  # NaN is one value, whatever its sign
        return [as_key(expression, type_), f"replace(CAST({expression} AS VARCHAR), '-nan', 'nan')"]
    return [expression]


def is_float(type_: str) -> bool:
    return type_ in _FLOATS


def holds_floats(type_: str) -> bool:
    """Whether there are floats in a value of this type, at any depth."""
    return any(floats in type_ for floats in _FLOATS)
