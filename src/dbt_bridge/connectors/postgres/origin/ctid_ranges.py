"""A big table is read in ranges of its blocks, by several threads: conditions on ctid that together cover the table.

PostgreSQL 14 and later scan only the blocks of such a range (release notes of 14: heap scanning of a range of TIDs).
"""

from __future__ import annotations

from collections.abc import Sequence

RANGE_PAGES = 4096  # 32 MB of a table's file: small enough to end together, large enough to start seldom
EVERYTHING = ("",)


def split_by_size(pages: int, workers: int) -> tuple[str, ...]:
    """Ranges of `RANGE_PAGES` each, which workers take one after another; one range where a table is small."""
    if workers < 2 or pages < 2 * RANGE_PAGES:
        return EVERYTHING
    return _conditions(range(0, pages, RANGE_PAGES))


def split_evenly(pages: int, count: int) -> tuple[str, ...]:
    """So many ranges of equal size."""
    if count < 2:
        return EVERYTHING
    return _conditions([pages * i // count for i in range(count)])


def _conditions(starts: Sequence[int]) -> tuple[str, ...]:
    """A range from each start to the next one; the last is open, for blocks that were added since."""
    conditions = [f"ctid >= '({start},0)'::tid" for start in starts]
    for i, end in enumerate(starts[1:]):
        conditions[i] += f" AND ctid < '({end},0)'::tid"
    return tuple(conditions)
