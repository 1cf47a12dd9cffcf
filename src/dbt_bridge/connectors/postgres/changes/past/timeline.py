"""Timelines: how the log of a server forked, by a failover or a restore to a point in time, and where.

https://www.postgresql.org/docs/current/continuous-archiving.html (Timelines), protocol-replication.html
(TIMELINE_HISTORY)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dbt_bridge.connectors.postgres.changes.lsn import format_lsn, parse_lsn
from dbt_bridge.errors import OriginError

_OLDEST = 1  # has no history


@dataclass(frozen=True, slots=True)
class Branch:
    """A stretch of log.

    Attributes:
        timeline: its number.
        end: where the next one forked off; None for the one that is written now.
    """

    timeline: int
    end: int | None = None


Branches = tuple[Branch, ...]
"""From the oldest known to the present one."""


def read_branches(timeline: int, read_history: Callable[[int], str]) -> Branches:
    """How a server came to its timeline.

    Args:
        read_history: the content of a timeline's history file; OriginError where the server has none any more.
    """
    if timeline == _OLDEST:
        return (Branch(timeline),)
    try:
        content = read_history(timeline)
    except OriginError as error:
        if "could not open file" not in error.what:
            raise
        return (Branch(timeline),)
    return (*parse_history(content), Branch(timeline))


def parse_history(content: str) -> Branches:
    """The lines of a history file: parent, where it forked, why."""
    fields = [line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return tuple(Branch(int(parent), parse_lsn(end)) for parent, end, *_ in fields)


def find_fork(before: Branches, now: Branches) -> int | None:
    """Up to where two paths are one: None where one goes on from the other's end, 0 where they have nothing in common.

    A path that nothing is known of (a standby's, which may follow its primary to the next timeline) is anybody's.
    """
    if not before or not now:
        return None
    before, now = _from(before, now[0].timeline), _from(now, before[0].timeline)
    common = 0
    for was, is_now in zip(before, now, strict=False):
        if was.timeline != is_now.timeline:
            return common
        if was.end != is_now.end:
            return min(end for end in (was.end, is_now.end) if end is not None)
        common = was.end or common
    return None


def _from(path: Branches, timeline: int) -> Branches:
    """A path without what lies before a timeline, where the other's history does not go back further."""
    known = [branch.timeline for branch in path]
    return path[known.index(timeline) :] if timeline in known else path


def as_json(path: Branches) -> list[list[int | str]]:
    return [[b.timeline] if b.end is None else [b.timeline, format_lsn(b.end)] for b in path]


def of_json(path: Sequence[Sequence[int | str]]) -> Branches:
    return tuple(Branch(int(timeline), *(parse_lsn(str(end)) for end in ends)) for timeline, *ends in path)
