"""A cursor's value that lies in the future does not carry the checkpoint there.

One row with a slip in its year (2999) would hide all rows that are written until then. So a checkpoint is never after
the present: where the greatest value is, it stays a little before now, and what is newer is read again by each run.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dbt_bridge.arrow.calendar import parse_moment

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


def _write_like(text: str, moment: datetime) -> str:
    """A moment in the form of another one's text."""
    if ":" not in text:
        return moment.date().isoformat()
    has_zone = text.rstrip().endswith("Z") or "+" in text or text.rfind("-") > text.index(":")
    return moment.strftime("%Y-%m-%d %H:%M:%S") + ("+00:00" if has_zone else "")
