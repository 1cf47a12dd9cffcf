"""The Gregorian calendar for all days that Arrow can count: Python's own ends at the years 1 and 9999."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CivilDate:
    """A day of the proleptic Gregorian calendar. The year before 1 is 0, which people call 1 BC."""

    year: int
    month: int
    day: int

    @property
    def text(self) -> str:
        """`2026-11-21`; the year of people, without its era."""
        return f"{self.year if self.year > 0 else 1 - self.year:04d}-{self.month:02d}-{self.day:02d}"

    @property
    def era(self) -> str:
        """What ends the text of a day before Christ in PostgreSQL: ` BC`; empty for all others."""
        return "" if self.year > 0 else " BC"


def to_civil(days: int) -> CivilDate:
    """The date of a number of days since 1970-01-01.

    The calendar repeats every 400 years of 146,097 days (H. Hinnant's civil_from_days,
    https://howardhinnant.github.io/date_algorithms.html).
    """
    era, day = divmod(days + 719_468, 146_097)  # days since 0000-03-01
    of_era = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * of_era + of_era // 4 - of_era // 100
    part = (5 * day + 2) // 153
    month = part + 3 if part < 10 else part - 9
    return CivilDate(of_era + era * 400 + (month <= 2), month, day - (153 * part + 2) // 5 + 1)


def to_days(date: CivilDate) -> int:
    """The number of days since 1970-01-01 (days_from_civil of the same page)."""
    year = date.year - (date.month <= 2)
    era, of_era = divmod(year, 400)
    day = (153 * (date.month + (-3 if date.month > 2 else 9)) + 2) // 5 + date.day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + day - 719_468


_MOMENT = re.compile(
    r"(?P<year>\d{4,6})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[ T](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?)?"
    r" ?(?P<zone>Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?"
    r"(?P<era> BC| \(BC\))?",
    re.IGNORECASE,
)


def parse_moment(text: str) -> int:
    """The microseconds since 1970 of a date or timestamp as databases write it, of any year; without a zone it is UTC.

    Digits beyond microseconds are cut off.

    Raises:
        ValueError: it is none.
    """
    found = _MOMENT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no date and no timestamp")
    year = int(found["year"])
    day = CivilDate(1 - year if found["era"] else year, int(found["month"]), int(found["day"]))
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    if to_civil(to_days(day)) != day or hour > 24 or minute > 59 or second > 60:
        raise ValueError(f"{text!r} is no date and no timestamp")
    whole = ((to_days(day) * 24 + hour) * 60 + minute) * 60 + second - _parse_zone(found["zone"] or "")
    return whole * 1_000_000 + int((found["fraction"] or "").ljust(6, "0")[:6])


def _parse_zone(text: str) -> int:
    """Seconds east of UTC."""
    digits = re.sub(r"\D", "", text).ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:6])
    return -seconds if text.startswith("-") else seconds
