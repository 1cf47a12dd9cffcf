"""A cursor's value that lies in the future does not carry the checkpoint there.

One row with a slip in its year (2999) would hide all rows that are written until then. So a checkpoint is never after
the present: where the greatest value is, it stays a little before now, and what is newer is read again by each run.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dbt_bridge.arrow.calendar import parse_moment

_SLACK = 1_000_000  # microseconds: a row that was written a moment ago is not of the future
_MARGIN = timedelta(days=1)
"""More than the zones of the world are apart, and the clocks of its machines: a timestamp without a zone may be the
local time of anywhere."""


def hold_back(newest: str | None, now: datetime | None = None) -> str | None:
    """The checkpoint that a cursor's greatest value gives: itself, unless it is a date or moment after tomorrow.

    Args:
        newest: as the origin writes it: a number, a date, a timestamp, with a zone or without.
        now: for tests; by default this machine's clock.
    """
    now = now or datetime.now(UTC)
    if newest is None:
        return None
    try:
        moment = parse_moment(newest)
    except ValueError:  # a number
        return newest
    if moment <= (now + _MARGIN).timestamp() * 1_000_000:
        return newest
    return _write_like(newest, now - _MARGIN)


def hold_back_to_clock(newest: str | None, clock: int) -> str | None:
    """The same for a timestamp with a time zone, by the clock of the origin, which may have gone back: what it writes
    until it has caught up lies below the greatest value.

    Args:
        clock: microseconds since 1970; 0 where it is not known.
    """
    if newest is None or not clock or not has_zone(newest) or parse_moment(newest) <= clock + _SLACK:
        return newest
    return _write_like(newest, datetime.fromtimestamp(clock // 1_000_000, UTC))


def _write_like(text: str, moment: datetime) -> str:
    """A moment in the form of another one's text."""
    if ":" not in text:
        return moment.date().isoformat()
    return moment.strftime("%Y-%m-%d %H:%M:%S") + ("+00:00" if has_zone(text) else "")


def has_zone(text: str) -> bool:
    """Whether a cursor's value is a timestamp with a time zone."""
    return ":" in text and (text.rstrip().endswith("Z") or "+" in text or text.rfind("-") > text.index(":"))
