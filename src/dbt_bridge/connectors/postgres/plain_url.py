"""A destination's URL as libpq's parameters, where that is certain without dlt, which takes a second to import."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

_TIMEOUT = 15  # dlt's own default; it would be written into its query

# One of these letters, or an escape of one byte of ASCII: there is one way only to read it.
_TEXT = r"(?:[A-Za-z0-9_.~-]|%[2-7][0-9A-F])+"
_URL = re.compile(
    rf"postgresql://(?P<user>{_TEXT})(?::(?P<password>{_TEXT}))?@(?P<host>[A-Za-z0-9_.-]+)(?::(?P<port>[1-9][0-9]*))?"
    r"/(?P<dbname>[A-Za-z0-9_.-]+)(?:\?(?P<query>[a-z_]+=[A-Za-z0-9_./-]+(?:&[a-z_]+=[A-Za-z0-9_./-]+)*))?"
)


def split_url(url: str) -> dict[str, Any] | None:
    """libpq's parameters, as dlt's PostgresCredentials would have them; None for a URL that only dlt should read."""
    found = _URL.fullmatch(url)
    if found is None:
        return None
    pairs = [tuple(pair.split("=")) for pair in (found["query"] or "").split("&") if pair]
    query: dict[str, Any] = dict(pairs)
    if len(query) < len(pairs) or "connect_timeout" in query:
        return None
    return {
        **query,
        "connect_timeout": _TIMEOUT,
        "host": found["host"],
        "port": int(found["port"] or 5432),
        "user": unquote(found["user"]),
        "password": unquote(found["password"]) if found["password"] else None,
        "dbname": found["dbname"],
    }
