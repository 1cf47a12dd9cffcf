"""Values as PostgreSQL writes them: ISO dates, UTC, IntervalStyle postgres, the fewest digits, arrays in braces, uuids.

Moments are numbers as Arrow has them (microseconds or days since 1970), with infinity as `buffers` has it.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dbt_bridge.arrow.calendar import to_civil
from dbt_bridge.verify.canonical.buffers import INFINITE_DATE, INFINITY

ZERO_UUID = "00000000-0000-0000-0000-000000000000"
_UUID_PARTS = ((0, 8), (9, 13), (14, 18), (19, 23), (24, 36))  # between its dashes
_ONES = np.uint64(0x0101010101010101)
_DAY_US = 86_400_000_000
_QUOTED = re.compile(r'[{}",\\\s]')


def format_double(value: float) -> str:
    return _write_decimal(_shortest_inside(repr(value), value, 53), 15)


def format_single(value: float, shortest: str) -> str:
    """A float of 32 bits.

    Args:
        shortest: its shortest decimal, as numpy writes it.
    """
    return _write_decimal(_shortest_inside(shortest, value, 24), 6)


def _shortest_inside(shortest: str, value: float, bits: int) -> str:
    """The shortest decimal that is nearer to this float than to any other.

    Python also takes one that is half way between two, and reads back as this one as it is even; PostgreSQL does not
    (`acceptBounds` in d2s.c). Only integers of more bits than the float has are ever half way with so few digits.
    """
    if not 2 ** (bits - 1) <= abs(value) < math.inf:
        return shortest
    exact, spacing = int(value), 2 ** (math.frexp(value)[1] - bits)
    digits = len(Decimal(shortest).as_tuple().digits)
    while 2 * abs(int(Decimal(shortest)) - exact) == spacing:
        shortest = f"{value:.{digits}e}"
        digits += 1
    return shortest


def _write_decimal(shortest: str, digits: int) -> str:
    """The decimal as PostgreSQL writes a float.

    Args:
        digits: the power of ten from which on it has an exponent.
    """
    if shortest.lstrip("-") in ("nan", "inf"):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(shortest, "NaN")
    sign, unsigned = ("-", shortest[1:]) if shortest.startswith("-") else ("", shortest)
    mantissa, _, exponent = unsigned.partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    all_digits = whole + fraction
    significant = all_digits.lstrip("0")
    point -= len(all_digits) - len(significant)
    significant = significant.rstrip("0")
    if not significant:
        return sign + "0"
    power = point - 1
    if power < -4 or power >= digits:
        tail = f".{significant[1:]}" if significant[1:] else ""
        return f"{sign}{significant[0]}{tail}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{significant}"
    if len(significant) <= point:
        return sign + significant.ljust(point, "0")
    return f"{sign}{significant[:point]}.{significant[point:]}"


def format_date(days: int) -> str:
    if days >= INFINITE_DATE:
        return "infinity"
    if days <= -INFINITE_DATE:
        return "-infinity"
    date = to_civil(days)
    return f"{date.text}{date.era}"


def format_timestamp(microseconds: int, zoned: bool, nanoseconds: int = 0) -> str:
    if microseconds >= INFINITY:
        return "infinity"
    if microseconds <= -INFINITY:
        return "-infinity"
    days, rest = divmod(microseconds, _DAY_US)
    date = to_civil(days)
    return f"{date.text} {format_time(rest, nanoseconds)}{'+00' if zoned else ''}{date.era}"


def format_time(microseconds: int, nanoseconds: int = 0) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    tail = f".{fraction * 1000 + nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{tail}"


def format_interval(months: int, days: int, nanoseconds: int) -> str:
    """As EncodeInterval of datetime.c does; nanoseconds, which PostgreSQL does not have, are three more digits."""
    parts: list[str] = []
    before = False
    years = abs(months) // 12 * (1 if months >= 0 else -1)
    for value, unit in ((years, "year"), (months - 12 * years, "mon"), (days, "day")):
        if value:
            plus = "+" if before and value > 0 else ""
            parts.append(f"{plus}{value} {unit}{'' if value == 1 else 's'}")
            before = value < 0
    if nanoseconds or not parts:
        sign = "-" if nanoseconds < 0 else "+" if before else ""
        microseconds, rest = divmod(abs(nanoseconds), 1000)
        parts.append(sign + format_time(microseconds, rest))
    return " ".join(parts)


def format_array(texts: Sequence[str | None]) -> str:
    """As array_out of arrayfuncs.c does, for one dimension that starts at 1."""
    return "{" + ",".join(map(_element, texts)) + "}"


def _element(text: str | None) -> str:
    if text is None:
        return "NULL"
    if text == "" or text.upper() == "NULL" or _QUOTED.search(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def parse_uuid(text: str) -> bytes:
    """The bytes of one uuid in any spelling. Raises ValueError."""
    if re.search("[^-{}0-9a-fA-F]", text):  # int() in uuid.UUID also reads spaces and underscores
        raise ValueError(f"{text!r} is no uuid")
    return uuid.UUID(text).bytes


def parse_uuids(array: pa.Array) -> NDArray[np.uint32] | None:
    """The 16 bytes of each, eight digits at a time; None where one is not written as PostgreSQL does."""
    if not len(array):
        return np.zeros(0, np.uint32)
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    if (offsets[1:] - offsets[:-1] != 36).any():
        return None
    written = np.frombuffer(array.buffers()[2], np.uint8, 36 * len(array), int(offsets[0])).reshape(-1, 36)
    if any((written[:, dash] != ord("-")).any() for dash in (8, 13, 18, 23)):
        return None
    characters = np.empty((len(array), 32), np.uint8)
    place = 0
    for begin, end in _UUID_PARTS:
        characters[:, place : place + end - begin] = written[:, begin:end]
        place += end - begin
    eight = characters.view(np.uint64)
    is_letter = (eight >> np.uint64(6)) & _ONES
    digits = (eight & (_ONES * np.uint64(15))) + is_letter * np.uint64(9)
    is_letter = ((digits + _ONES * np.uint64(6)) >> np.uint64(4)) & _ONES
    lower_case = digits + _ONES * np.uint64(ord("0")) + is_letter * np.uint64(ord("a") - ord("9") - 1)
    if (lower_case != eight).any() or (digits & (_ONES * np.uint64(0xF0))).any():
        return None  # upper case, or no hexadecimal digit
    pairs = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    pairs = (pairs | (pairs >> np.uint64(8))) & np.uint64(0x0000FFFF0000FFFF)
    return (pairs | (pairs >> np.uint64(16))).astype(np.uint32)
