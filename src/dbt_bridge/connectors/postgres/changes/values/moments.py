"""Dates, times, timestamps and intervals from Postgres's text, under DateStyle ISO, UTC and IntervalStyle postgres.

Arrow's parser takes the years 1 to 9999. Rows with infinities, years BC and later years are parsed apart.
https://www.postgresql.org/docs/current/datatype-datetime.html
"""

from __future__ import annotations

import re
from calendar import monthrange

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.postgres.changes.values.cells import (
    Unfit,
    Values,
    apply_decode,
    gather,
    load_numbers,
    make_primitive,
    to_numpy,
)

INFINITE_US, INFINITE_DAYS = 2**63 - 1, 2**31 - 1  # as column_types.py has infinity
DAY_US = 86_400_000_000
MOST_HOURS = 2_562_046  # that fit 64 bits of nanoseconds
INTERVAL = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])

_FIRST_DAY = -2_440_588  # 4714-11-24 BC
_YEAR_0, _IN_UTC = int.from_bytes(b"0000"), int.from_bytes(b"+00")  # Arrow has a year 0, and all zones
_ODD_DAY = re.compile(r"(\d{4,7})-(\d\d)-(\d\d)( BC)?")
_ODD_MOMENT = re.compile(r"(\d{4,6})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(\+00)?( BC)?")
_INTERVAL = (
    r"^(?:\+?(?P<years>-?\d+) years?)?(?:(?:^| )\+?(?P<months>-?\d+) mons?)?(?:(?:^| )\+?(?P<days>-?\d+) days?)?"
    r"(?:(?:^| )(?P<sign>[+-]?)(?P<hours>\d+):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)(?:\.(?P<fraction>\d{1,6}))?)?$"
)


def decode_dates(values: Values) -> pa.Array:
    odd = values.where_valid((values.length != 10) | (load_numbers(values, ">u4") == _YEAR_0))
    if not odd.any():
        return _parse_plain(values, pa.date32())
    days = np.frombuffer(_parse_plain(values.where(~odd), pa.date32()).buffers()[1], np.int32).copy()
    rows = np.flatnonzero(odd)
    days[rows] = _parse_odd(values, rows, _parse_odd_day, INFINITE_DAYS)
    return make_primitive(pa.date32(), days, values.valid)


def decode_timestamps(values: Values, type_: pa.DataType) -> pa.Array:
    """`type_` is timestamp[us], with UTC for timestamptz."""
    zoned = type_.tz is not None
    head, tail = load_numbers(values, ">u8"), load_numbers(_shift(values, -4), ">u4")
    plain = (values.length >= (22 if zoned else 19)) & (head >> np.uint64(32) != _YEAR_0)
    plain &= head >> np.uint64(24) & np.uint64(0xFF) == ord("-")  # after four digits
    plain &= (tail & 0xFFFFFF == _IN_UTC) if zoned else (tail & 0xFF != ord("C"))  # of BC
    odd = values.where_valid(~plain)
    if not odd.any():
        return _parse_plain(values, type_)
    moments = np.frombuffer(_parse_plain(values.where(~odd), type_).buffers()[1], np.int64).copy()
    rows = np.flatnonzero(odd)
    moments[rows] = _parse_odd(values, rows, lambda text: _parse_odd_moment(text, zoned), INFINITE_US)
    return make_primitive(type_, moments, values.valid)


def decode_times(values: Values) -> pa.Array:
    """HH:MM:SS[.f], 24:00:00 included."""
    values.refuse_where(~_is_clock(values))
    micros = _decode_clock(values)
    values.refuse_where(micros > DAY_US)
    return make_primitive(pa.time64("us"), micros, values.valid)


def _is_clock(values: Values) -> np.ndarray:
    """Which values can be HH:MM:SS[.f], by their length and first colon."""
    length = values.length
    fits: np.ndarray = (length == 8) | ((length >= 10) & (length <= 15))
    fits &= load_numbers(values, "u1", 2) == ord(":")
    return fits


def _decode_clock(values: Values) -> np.ndarray:
    """Microseconds of HH:MM:SS[.f]."""
    length = values.length
    raw = np.ascontiguousarray(load_numbers(values, "V15")).view(np.uint8).reshape(-1, 15)
    digits = raw - np.uint8(ord("0"))  # wraps around for what comes before it
    digits[:, 9:][np.arange(9, 15) >= length[:, None]] = 0
    right = (raw[:, 5] == ord(":")) & ((length == 8) | (raw[:, 8] == ord(".")))
    right &= (digits[:, 3] < 6) & (digits[:, 6] < 6) & (digits[:, _DIGITS] <= 9).all(axis=1)
    values.refuse_where(~right)
    micros: np.ndarray = digits[:, _DIGITS] @ _WEIGHTS
    return micros


_DIGITS = np.array([0, 1, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14])
_WEIGHTS = np.array(
    [36_000_000_000, 3_600_000_000, 600_000_000, 60_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1],
    np.int64,
)


def decode_intervals(values: Values) -> pa.Array:
    """Raises Unfit for more than 2,562,046 hours, and for infinity."""
    is_clock = values.where_valid(_is_clock(values))  # most durations; the regular expression takes ten times as long
    parts = np.zeros((3, len(values)), np.int64)  # months, days, nanoseconds
    if is_clock.any():
        parts[2] = np.where(is_clock, _decode_clock(values.where(is_clock)) * 1000, 0)
    rows = np.flatnonzero(values.where_valid(~is_clock))
    if len(rows):
        parts[:, rows] = _decode_long_intervals(values.take(rows))
    return make_intervals(values, *parts)


def _decode_long_intervals(values: Values) -> np.ndarray:
    """Months, days and nanoseconds (int64[3, n]) of any interval's text."""
    found = pc.extract_regex(gather(values, pa.string()), _INTERVAL)
    values.refuse_where(to_numpy(pc.is_null(found)) | (values.length == 0))

    def number(name: str) -> np.ndarray:
        part = pc.struct_field(found, name)
        part = pc.utf8_lpad(part, 1, "0")  # a group that was not there is empty
        return to_numpy(apply_decode(part, lambda a: pc.cast(a, pa.int32()), values.format_value)).astype(np.int64)

    micros = to_numpy(pc.cast(pc.utf8_rpad(pc.struct_field(found, "fraction"), 6, "0"), pa.int64()))
    hours, months, days = number("hours"), number("years") * 12 + number("months"), number("days")
    values.refuse_where(hours > MOST_HOURS)
    nanos = (((hours * 60 + number("minutes")) * 60 + number("seconds")) * 1_000_000 + micros) * 1000
    negative = to_numpy(pc.starts_with(pc.struct_field(found, "sign"), "-"))
    return np.stack([months, days, np.where(negative, -nanos, nanos)])


def make_intervals(values: Values, months: np.ndarray, days: np.ndarray, nanoseconds: np.ndarray) -> pa.Array:
    for part in (months, days):
        values.refuse_where((part > 2**31 - 1) | (part < -(2**31)))
    out = np.zeros(len(values), INTERVAL)
    out["months"], out["days"], out["nanoseconds"] = months, days, nanoseconds
    return make_primitive(pa.month_day_nano_interval(), out, values.valid)


def _parse_plain(values: Values, type_: pa.DataType) -> pa.Array:
    text = gather(values, pa.string())
    return apply_decode(text, lambda array: pc.cast(array, type_, safe=True), values.format_value)


def _shift(values: Values, by: int) -> Values:
    """The values from so many bytes after their end on (before it, where negative)."""
    return Values(values.buffer, np.maximum(values.start + values.length + by, 0), values.length, values.valid)


def _parse_odd(values: Values, rows: np.ndarray, parse, infinite: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The numbers of the rows that Arrow cannot parse: infinities, of which there may be many, and a few others."""
    found = values.take(rows)
    plus, minus = found.equal(b"infinity"), found.equal(b"-infinity")
    numbers = np.where(plus, infinite, np.where(minus, -infinite, 0))
    for i in np.flatnonzero(~(plus | minus)):
        number = parse(found.bytes(int(i)))
        if number is None:
            raise Unfit(found.format_value(int(i)))
        numbers[i] = number
    return numbers


def _parse_odd_day(text: bytes) -> int | None:
    match = _ODD_DAY.fullmatch(text.decode("ascii", "replace"))
    return _to_days(match[1], match[2], match[3], match[4] is not None) if match else None


def _parse_odd_moment(text: bytes, zoned: bool) -> int | None:
    match = _ODD_MOMENT.fullmatch(text.decode("ascii", "replace"))
    if match is None or (match[8] is not None) != zoned:
        return None
    days = _to_days(match[1], match[2], match[3], match[9] is not None)
    hours, minutes, seconds = int(match[4]), int(match[5]), int(match[6])
    if days is None or hours > 23 or minutes > 59 or seconds > 59:
        return None
    clock = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + int((match[7] or "").ljust(6, "0"))
    moment = days * DAY_US + clock
    return moment if moment < INFINITE_US else None  # after the year 294246


def _to_days(year_text: str, month_text: str, day_text: str, before_christ: bool) -> int | None:
    """Days since 1970 in the proleptic Gregorian calendar.

    A cycle of 400 years has 146,097 days (https://howardhinnant.github.io/date_algorithms.html, days_from_civil).
    """
    year, month, day = int(year_text), int(month_text), int(day_text)
    if not year or not 1 <= month <= 12:
        return None
    year = 1 - year if before_christ else year
    if not 1 <= day <= monthrange(year % 400 + 400, month)[1]:
        return None
    cycle, of_cycle = divmod(year - (month <= 2), 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = cycle * 146_097 + of_cycle * 365 + of_cycle // 4 - of_cycle // 100 + of_year - 719_468
    return days if _FIRST_DAY <= days < INFINITE_DAYS else None
