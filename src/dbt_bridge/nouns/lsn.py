"""Log sequence numbers: a position in Postgres's write-ahead log, as an integer and as Postgres writes it."""

from __future__ import annotations

import re

from dbt_bridge.errors import UsageError

_TEXT = re.compile(r"(?P<high>[0-9A-Fa-f]{1,8})/(?P<low>[0-9A-Fa-f]{1,8})")


def parsed(text: str) -> int:
    """The integer of `16/B374D848`.

    Raises:
        UsageError: it is no LSN.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not an LSN", mend="write it as Postgres does: 16/B374D848")
    return (int(found["high"], 16) << 32) | int(found["low"], 16)


def spelled(lsn: int) -> str:
    """`16/B374D848`, as `pg_lsn` is written."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
