"""Arrow values as texts that Postgres reads back as exactly these values.

The largest microsecond (day) that Arrow has, and its negative, stand for +-infinity, as in DuckDB.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow.calendar import to_civil

_MAX64, _MAX32 = 2**63 - 1, 2**31 - 1
_DAY_US = 86_400_000_000
_FIRST, _LAST = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 as days since 1970, between which Arrow writes years


def to_texts(values: pa.Array) -> pa.Array:
    """Strings; NULL stays NULL. Zeros lose their sign, for Postgres takes both for one."""
    type_ = values.type
    if isinstance(type_, pa.UuidType):
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())
    if isinstance(type_, pa.BaseExtensionType):
        return to_texts(values.storage)
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_):
        return pa.array([None if v is None else "\\x" + v.hex() for v in values.to_pylist()], pa.string())
    if pa.types.is_timestamp(type_):
        return _format_moments(values.cast(pa.timestamp("us", type_.tz)).view(pa.int64()), "+00" if type_.tz else "")
    if pa.types.is_date(type_):
        return _format_days(values.cast(pa.date32()).view(pa.int32()))
    if pa.types.is_time(type_):
        return pa.array(
            [_format_clock(v) for v in values.cast(pa.time64("us")).view(pa.int64()).to_pylist()], pa.string()
        )
    if pa.types.is_interval(type_):
        return pa.array([_format_interval(v) for v in values.to_pylist()], pa.string())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _format_arrays(values)
    if pa.types.is_floating(type_):
        return pc.cast(pc.if_else(pc.equal(values, pa.scalar(0.0, type_)), pa.scalar(0.0, type_), values), pa.string())
    return pc.cast(values, pa.string())


def _format_moments(numbers: pa.Array, zone: str) -> pa.Array:
    """Microseconds since 1970."""
    bounds = pc.min_max(numbers).as_py()
    if bounds["min"] is None or (bounds["min"] >= _FIRST * _DAY_US and bounds["max"] < (_LAST + 1) * _DAY_US):
        return pc.binary_join_element_wise(pc.cast(numbers.view(pa.timestamp("us")), pa.string()), zone, "")
    return pa.array([_format_moment(v, zone) for v in numbers.to_pylist()], pa.string())


def _format_moment(number: int | None, zone: str) -> str | None:
    if number is None:
        return None
    if abs(number) >= _MAX64:
        return "infinity" if number > 0 else "-infinity"
    days, rest = divmod(number, _DAY_US)
    date = to_civil(days)
    return f"{date.text} {_format_clock(rest)}{zone}{date.era}"


def _format_days(numbers: pa.Array) -> pa.Array:
    return pa.array([_format_day(v) for v in numbers.to_pylist()], pa.string())


def _format_day(number: int | None) -> str | None:
    if number is None:
        return None
    if abs(number) >= _MAX32:
        return "infinity" if number > 0 else "-infinity"
    date = to_civil(number)
    return f"{date.text}{date.era}"


def _format_clock(micros: int | None) -> str | None:
    if micros is None:
        return None
    seconds, rest = divmod(micros, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:06}"


def _format_interval(value: pa.MonthDayNano | None) -> str | None:
    if value is None:
        return None
    micros = value.nanoseconds // 1000
    return f"{value.months} mons {value.days} days {'-' if micros < 0 else ''}{_format_clock(abs(micros))}"


def _format_arrays(values: pa.Array) -> pa.Array:
    elements = to_texts(values.flatten()).to_pylist()
    written: list[str | None] = []
    at = 0
    for size in pc.list_value_length(values).to_pylist():
        if size is None:
            written.append(None)
            continue
        written.append("{" + ",".join(_quote_element(text) for text in elements[at : at + size]) + "}")
        at += size
    return pa.array(written, pa.string())


def _quote_element(text: str | None) -> str:
    return "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
