"""Before anything moves: the origin's log is still the one that the checkpoints were read from.

An origin that was set back to an earlier state, or a standby that takes over and had not received everything, goes on
from there. As soon as its log has grown past the checkpoints, a position alone shows nothing of it: rows that were
undone would stay, and what was written instead would be passed over.

- Where the log forked (a failover, a restore to a point in time), its timelines show it.
- A disk that was set back has no new timeline, but its slot stands before the checkpoints again, and sends what follows
  once more. That happens without a restore, too: after a crash of the origin, or of a sync before it could confirm. So
  the last commit that the checkpoint knows must come again, and none must follow it up to there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from dbt_bridge.connectors.postgres.changes.lsn import format_lsn
from dbt_bridge.connectors.postgres.changes.messages import Messages, count_below
from dbt_bridge.connectors.postgres.changes.past.timeline import Branches, find_fork
from dbt_bridge.connectors.postgres.changes.past.witness import Commit, CommitWatch, Past
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.selector import format_shell_selector

_WAIT = 0.2  # seconds between looks at the stream while nothing comes


class Commits(Protocol):
    """What a slot sends (`ReplicationStream`)."""

    def next(self, wait: float) -> Messages | None: ...


OpenCommits = Callable[[int], AbstractContextManager[Commits]]
"""The commits of the slot from an LSN on; nothing of them is confirmed."""


@dataclass(frozen=True, slots=True)
class Log:
    """The log of now.

    Attributes:
        origin, slot: names, for messages.
        branches: see `Past`.
        confirmed: where the slot stands.
        open_commits: reads it.
    """

    origin: str
    slot: str
    branches: Branches
    confirmed: int
    open_commits: OpenCommits


def require_same_past(log: Log, positions: Mapping[str, Position]) -> None:
    """Refuse to go on from positions of another past.

    Args:
        positions: node -> where the table stands; none of them is behind the slot.

    Raises:
        OriginError: they are, or nobody can know.
    """
    for node, position in positions.items():
        past = Past.of_text(position.past)
        fork = None if past is None else find_fork(past.branches, log.branches)
        if fork is not None and position.ordinal > fork:
            why = f"its timeline {log.branches[-1].timeline} forked at {format_lsn(fork)}"
            raise _make_other_past_error(log, {node: position}, why, positions)
    last = max(positions.values(), default=None)
    if last is not None and last.ordinal > log.confirmed and (why := _find_difference(log, last)):
        furthest = {node: position for node, position in positions.items() if position == last}
        raise _make_other_past_error(log, furthest, why, positions)


def _find_difference(log: Log, position: Position) -> str:
    """Why the log up to a position, before which the slot stands, is not the one that was read; empty where it is."""
    past = Past.of_text(position.past)
    stands = f"slot {log.slot!r} stands before it, at {format_lsn(log.confirmed)}"
    if past is None:
        return f"{stands}, and an earlier version of dbt-bridge did not keep what tells whether the log is the same"
    expected, start = past.commit, max(log.confirmed, past.since)
    if expected is not None:
        start = max(log.confirmed, expected.lsn)
        expected = expected if expected.lsn >= log.confirmed else None
    elif log.confirmed < past.since and log.confirmed != past.slot:
        return f"{stands}, where it never stood"
    found = find_last_commit(log.open_commits, start, position.ordinal)
    if found == expected:
        return ""
    if expected is None:
        assert found is not None, "it differs from nothing"
        return f"{stands}, and the log has a commit at {format_lsn(found.lsn)} that never came"
    return f"{stands}, and the log does not have the commit of transaction {expected.xid} at {format_lsn(expected.lsn)}"


def find_last_commit(open_commits: OpenCommits, start: int, upto: int) -> Commit | None:
    """The last commit from `start` to before `upto`; None where there is none."""
    if start >= upto:
        return None
    watch = CommitWatch()
    with open_commits(start) as commits:
        sent = start
        while sent < upto:
            run = commits.next(_WAIT)
            if run is not None:
                below, _ = count_below(run, upto)
                watch.read(run.slice(0, below))
                sent = upto if below < len(run) else run.sent
    return watch.last


def _make_other_past_error(
    log: Log, at: Mapping[str, Position], why: str, positions: Mapping[str, Position]
) -> OriginError:
    tables = " ".join(format_shell_selector(node) for node in positions)
    node, position = next(iter(at.items()))
    return OriginError(
        f"origin {log.origin!r} is in another past than the checkpoint of {node} at {position}: {why}. It was set back"
        " to an earlier state, or a standby took over that had not received everything: rows that landed may be undone"
        " there, and others written",
        mend=f"dbt-bridge sync --full-refresh --select {tables}",
    )
