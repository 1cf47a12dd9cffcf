"""What a checkpoint remembers of its log's past: the branches up to it, and the last commit before it.

The last commit is a witness: a slot that stands before it sends it again, and in another past it is another one, or
none. A commit counts where it changed something that is published; whether the server tells of others depends on its
version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from dbt_bridge.connectors.postgres.changes.lsn import format_lsn, parse_lsn
from dbt_bridge.connectors.postgres.changes.messages import Messages
from dbt_bridge.connectors.postgres.changes.past import timeline
from dbt_bridge.connectors.postgres.changes.past.timeline import Branches

_BEGIN, _COMMIT = b"BC"
_IS_CHANGE = np.zeros(256, np.int64)
_IS_CHANGE[list(b"IUDT")] = 1


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, as the log has it.

    Attributes:
        lsn: where its record starts.
        xid: of its transaction.
        at: microseconds since 2000, by the server's clock.
    """

    lsn: int
    xid: int
    at: int


@dataclass(frozen=True, slots=True)
class Past:
    """Of a position.

    Attributes:
        branches: of the server's timelines; empty where they are not known.
        commit: the last one before the position; None where there was none since `since`.
        since: from here on the log was read.
        slot: where the slot stood then.
    """

    branches: Branches = ()
    commit: Commit | None = None
    since: int = 0
    slot: int = 0

    def as_text(self) -> str:
        known: dict[str, object] = {"timelines": timeline.as_json(self.branches)}
        if self.commit is not None:
            known["commit"] = [format_lsn(self.commit.lsn), self.commit.xid, self.commit.at]
        else:
            known |= {"since": format_lsn(self.since), "slot": format_lsn(self.slot)}
        return json.dumps(known, separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> Past | None:
        """None where an earlier version remembered nothing."""
        if not text:
            return None
        known = json.loads(text)
        branches = timeline.of_json(known["timelines"])
        if "commit" in known:
            lsn, xid, at = known["commit"]
            return cls(branches, Commit(parse_lsn(lsn), xid, at))
        return cls(branches, None, parse_lsn(known["since"]), parse_lsn(known["slot"]))

    def at(self, commit: Commit | None) -> Past:
        """The same, further on."""
        return self if commit is None else replace(self, commit=commit)


class CommitWatch:
    """The last commit of the runs of one connection, in order.

    Attributes:
        last: None before there was any.
    """

    def __init__(self) -> None:
        self.last: Commit | None = None
        self._begun: Commit | None = None  # the open transaction
        self._is_changed = False  # by the open transaction

    def read(self, run: Messages) -> None:
        """Take note of a run, which may begin and end inside a transaction."""
        if not len(run):
            return
        changes = np.cumsum(_IS_CHANGE[run.kind])
        begins, commits = np.flatnonzero(run.kind == _BEGIN), np.flatnonzero(run.kind == _COMMIT)
        begun = np.searchsorted(begins, commits) - 1  # which Begin each Commit ends: -1 for one of an earlier run
        before = np.where(begun >= 0, changes[begins[begun]], 0) if len(begins) else np.zeros(len(commits), np.int64)
        changed = np.flatnonzero((changes[commits] > before) | ((begun < 0) & self._is_changed))
        if len(changed):
            last = int(begun[changed[-1]])
            self.last = self._begun if last < 0 else read_begin(run, int(begins[last]))
        self._leave(run, changes, begins, commits)

    def _leave(self, run: Messages, changes: np.ndarray, begins: np.ndarray, commits: np.ndarray) -> None:
        """Keep what the next run has to know of the transaction that is open now."""
        begin = int(begins[-1]) if len(begins) else -1
        if len(commits) and int(commits[-1]) > begin:
            self._begun, self._is_changed = None, False
        elif begin >= 0:
            self._begun = read_begin(run, begin)
            self._is_changed = bool(changes[-1] > changes[begin])
        else:
            self._is_changed = self._is_changed or bool(changes[-1])


def read_begin(run: Messages, index: int) -> Commit:
    """Begin: where the commit record starts, its time, the transaction's id."""
    at = int(run.body[index])
    raw = run.buffer[at : at + 20].tobytes()
    return Commit(
        int.from_bytes(raw[:8], "big"),
        int.from_bytes(raw[16:20], "big"),
        int.from_bytes(raw[8:16], "big", signed=True),
    )
