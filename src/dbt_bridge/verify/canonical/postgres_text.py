"""Values as PostgreSQL writes them: ISO dates, UTC, IntervalStyle postgres, the fewest digits, arrays in braces.

Moments are numbers as Arrow has them (microseconds or days since 1970), with infinity as `canonical` has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal

_MOST64, _MOST32 = 2**63 - 1, 2**31 - 1
_DAY_US = 86_400_000_000
_QUOTED = re.compile(r'[{}",\\\s]')


def double(value: float) -> str:
    return _spelled(_inside(repr(value), value, 53), 15)


def single(value: float, shortest: str) -> str:
    """A float of 32 bits, and its shortest decimal as numpy writes it."""
    return _spelled(_inside(shortest, value, 24), 6)


def _inside(shortest: str, value: float, bits: int) -> str:
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


def _spelled(shortest: str, digits: int) -> str:
    """The decimal, with an exponent from this power of ten on."""
    if shortest.lstrip("-") in ("nan", "inf"):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(shortest, "NaN")
    sign, unsigned = ("-", shortest[1:]) if shortest.startswith("-") else ("", shortest)
    mantissa, _, exponent = unsigned.partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    all_digits = whole + fraction
    kept = all_digits.lstrip("0")
    point -= len(all_digits) - len(kept)
    kept = kept.rstrip("0")
    if not kept:
        return sign + "0"
    power = point - 1
    if power < -4 or power >= digits:
        tail = f".{kept[1:]}" if kept[1:] else ""
        return f"{sign}{kept[0]}{tail}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{kept}"
    if len(kept) <= point:
        return sign + kept.ljust(point, "0")
    return f"{sign}{kept[:point]}.{kept[point:]}"


def date(days: int) -> str:
    if days >= _MOST32:
        return "infinity"
    if days <= -_MOST32:
        return "-infinity"
    year, month, day = _civil(days)
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}{era}"


def timestamp(microseconds: int, zoned: bool, nanoseconds: int = 0) -> str:
    if microseconds >= _MOST64:
        return "infinity"
    if microseconds <= -_MOST64:
        return "-infinity"
    days, rest = divmod(microseconds, _DAY_US)
    text = date(days)
    era = " BC" if text.endswith(" BC") else ""
    return f"{text.removesuffix(' BC')} {time(rest, nanoseconds)}{'+00' if zoned else ''}{era}"


def time(microseconds: int, nanoseconds: int = 0) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    tail = f".{fraction * 1000 + nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{tail}"


def interval(months: int, days: int, nanoseconds: int) -> str:
    """EncodeInterval of datetime.c; nanoseconds that PostgreSQL does not have are three more digits."""
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
        parts.append(sign + time(microseconds, rest))
    return " ".join(parts)


def array(texts: Sequence[str | None]) -> str:
    """array_out of arrayfuncs.c, for one dimension that starts at 1."""
    return "{" + ",".join(map(_element, texts)) + "}"


def _element(text: str | None) -> str:
    if text is None:
        return "NULL"
    if text == "" or text.upper() == "NULL" or _QUOTED.search(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def _civil(days: int) -> tuple[int, int, int]:
    """(year, month, day), the year before 1 being 0; H. Hinnant's civil_from_days."""
    era, day = divmod(days + 719_468, 146_097)
    of_era = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * of_era + of_era // 4 - of_era // 100
    part = (5 * day + 2) // 153
    month = part + 3 if part < 10 else part - 9
    return of_era + era * 400 + (month <= 2), month, day - (153 * part + 2) // 5 + 1
