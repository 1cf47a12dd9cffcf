"""The Gregorian calendar for all days that Arrow can count: Python's own ends at the years 1 and 9999."""

from __future__ import annotations

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
