"""Pages that never end: a cursor that repeats is told, instead of being followed for ever.

the same request again   of a page that knows its request (dlt's `RESTClient.paginate()`): what follows has come before
the same page again      of several rows: also a server that takes no notice of the cursor
the same rows again      of rows without pages (a dlt resource): three times round, and 100,000 rows at least
pages without rows       1,000 one after the other
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from dbt_bridge.errors import UsageError, scrubbed

_EMPTY_PAGES = 1_000
_ROWS = 100_000
_MEND = (
    "correct the paginator (which field has the next cursor, and how the last page says that it is the last); rows that"
    " are rightly alike can be passed one by one: itertools.chain.from_iterable(pages)"
)


def end_repetitions(data: Iterable[Any], where: str) -> Iterator[Any]:
    """The same pages and rows, until they begin again.

    Args:
        data: what an API client or a generator yields: rows, pages of rows, frames.

    Raises:
        UsageError (while it is read): see above.
    """
    pages, rows = _Pages(where), _Rows(where)
    for item in data:
        if isinstance(item, list | tuple):
            pages.check(item)
        else:
            rows.check(item)
        yield item


class _Pages:
    """Requests and pages that came before, by their digests."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen: dict[bytes, int] = {}
        self._number = 0
        self._empty = 0

    def check(self, page: Any) -> None:
        self._number += 1
        sent = getattr(getattr(page, "response", None), "request", None)
        if sent is not None:
            self._check_seen(_digest((sent.method, sent.url, sent.body)), "asks the same again as", name_request(sent))
        self._empty = 0 if page else self._empty + 1
        if self._empty >= _EMPTY_PAGES:
            raise UsageError(f"{self._where}: {self._empty} pages without a row came one after the other", mend=_MEND)
        if len(page) > 1 and all(isinstance(row, dict) for row in page):
            self._check_seen(_digest(page), "has the same rows as", f"{len(page)} rows")

    def _check_seen(self, digest: bytes, what: str, told: str) -> None:
        first = self._seen.setdefault(digest, self._number)
        if first != self._number:
            raise UsageError(
                f"{self._where}: page {self._number} {what} page {first} ({told}), so the pages would never end",
                mend=_MEND,
            )


class _Rows:
    """Rows that come in circles."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._last: dict[bytes, int] = {}
        self._number = self._distance = self._run = 0

    def check(self, row: Any) -> None:
        if not isinstance(row, dict):
            return
        self._number += 1
        if self._number < _ROWS:  # few rows need not be looked at
            return
        digest = _digest(row)
        distance = self._number - self._last[digest] if digest in self._last else 0
        self._last[digest] = self._number
        if len(self._last) > 2 * _ROWS:
            self._last = {kept: at for kept, at in self._last.items() if at > self._number - _ROWS}
        self._run = self._run + 1 if distance and distance == self._distance else 0
        self._distance = distance
        if self._run >= max(_ROWS, 2 * distance):
            raise UsageError(
                f"{self._where}: the same {distance} rows come again and again, since row {self._number - self._run}",
                mend=_MEND,
            )


def _digest(value: Any) -> bytes:
    text = json.dumps(value, default=repr, skipkeys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def name_request(sent: Any) -> str:
    """The method and address, whose query may hold secrets, without their values."""
    address, _, query = str(sent.url).partition("?")
    names = "&".join(part.partition("=")[0] for part in query.split("&") if part)
    return scrubbed(f"{sent.method} {address}" + (f"?{names}=..." if names else ""))
