"""Log sequence numbers: a place in Postgres's write-ahead log, as an integer, as Postgres writes it, as a position."""

from __future__ import annotations

import re

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.position import Position

_TEXT = re.compile(r"(?P<high>[0-9A-Fa-f]{1,8})/(?P<low>[0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> int:
    """The integer of `16/B374D848`.

    Raises:
        UsageError: it is no LSN.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not an LSN", mend="write it as Postgres does: 16/B374D848")
    return (int(found["high"], 16) << 32) | int(found["low"], 16)


def format_lsn(lsn: int) -> str:
    """`16/B374D848`, as `pg_lsn` is written."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def position_of(lsn: int, past: str = "") -> Position:
    """The LSN itself is the ordinal: it ascends along the log, and commit records begin at multiples of 8 bytes."""
    return Position(lsn, format_lsn(lsn), past)
