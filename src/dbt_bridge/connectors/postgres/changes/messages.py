"""What pgoutput sends, as values: a run of messages, and where the values of their tuples lie.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

Nothing here is a Python object per row: a run of messages is one buffer with vectors of positions, and a column of the
tuples in it is a vector of positions, one of lengths and one of kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dbt_bridge.connectors.postgres.wire.relation import Relation

_BEGIN = ord("B")
NULL, UNCHANGED, TEXT, BINARY = b"nutb"  # how TupleData says what a value is

SLACK = 8  # bytes; see `Messages.buffer`


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages one after another, as protocol version 1 has them (streamed transactions are put in their place).

    Attributes:
        buffer: uint8: the bytes of all of them; there may be gaps between messages. With SLACK bytes after the last
            message, 64-bit reads stay inside; without them the decoder has to copy the buffer.
        kind: uint8[n]: the letter of each: B, C, O, R, Y, I, U, D, T, M.
        body: int64[n]: where in the buffer each one's fields begin: after its letter (and after the transaction id
            that streamed messages carry).
        end: int64[n]: where each one ends.
        sent: the server has sent, up to here, all that its log holds for this slot; with this run included.
    """

    buffer: np.ndarray
    kind: np.ndarray
    body: np.ndarray
    end: np.ndarray
    sent: int = 0

    def __len__(self) -> int:
        return len(self.kind)

    def slice(self, first: int, last: int) -> Messages:
        """The messages from `first` to before `last`; shares the buffer."""
        return Messages(self.buffer, self.kind[first:last], self.body[first:last], self.end[first:last], self.sent)


@dataclass(frozen=True, slots=True)
class Cells:
    """One column of n tuples.

    Attributes:
        buffer: uint8: of the messages.
        tag: uint8[n]: NULL, UNCHANGED, TEXT or BINARY.
        start: int64[n]: where each value begins.
        length: int64[n]: in bytes; 0 without a value.
    """

    buffer: np.ndarray
    tag: np.ndarray
    start: np.ndarray
    length: np.ndarray


@dataclass(frozen=True, slots=True)
class Rows:
    """Changes of one relation in one shape, in commit order, not yet decoded to values.

    Attributes:
        kind: uint8[n]: I, U or D.
        lsn: int64[n]: where the commit record starts (Begin's final LSN).
        committed_at: int64[n]: microseconds since 1970 in UTC.
        cells: per column of the relation: the new tuple, or the old one of a delete. A value that is
            unchanged is taken from the old tuple where that has it: under REPLICA IDENTITY FULL always, so that no
            cell is UNCHANGED, except of a partition under a root that says FULL while the partition does not.
        before: per column: the old tuples that updates sent (one entry per True in `has_before`).
        has_before: bool[n].
    """

    relation: Relation
    kind: np.ndarray
    lsn: np.ndarray
    committed_at: np.ndarray
    cells: tuple[Cells, ...]
    before: tuple[Cells, ...]
    has_before: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, slots=True)
class Truncation:
    """A Truncate message: the relations that it emptied together."""

    oids: tuple[int, ...]
    lsn: int
    committed_at: int


@dataclass(frozen=True, slots=True)
class Announcement:
    """A relation that was described right after another one.

    So pgoutput tells of a partition whose changes come as those of its root, before the first of them (pgoutput.c,
    maybe_send_schema). Tables that one TRUNCATE names are described so, too.

    Attributes:
        root: the oid of the table that was described before: of a partition, the one that is published.
        oid, name: of the other.
        lsn: of the transaction in which it comes.
    """

    root: int
    oid: int
    name: str
    lsn: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a run of messages says.

    Attributes:
        items: in order, as far as order matters: of one relation, its Relation message, rows and truncations follow
            each other as they happened. Rows of different relations between two such marks may be reordered.
        upto: where the last Commit message's transaction ends: a table that holds everything before it stands
            there. 0 when no transaction ended.
        committed_at: of that transaction, microseconds since 1970; 0 without.
        transactions: how many ended.
        is_open: whether the run ends inside a transaction.
        announced: what may be partitions.
    """

    items: tuple[Relation | Rows | Truncation, ...]
    upto: int
    committed_at: int
    transactions: int
    is_open: bool
    announced: tuple[Announcement, ...] = ()


def count_below(run: Messages, barrier: int | None) -> tuple[int, bool]:
    """How many messages are below the barrier, and whether one that begins at or behind it follows."""
    if barrier is not None:
        begins = np.flatnonzero(run.kind == _BEGIN)
        beyond = begins[_commit_lsn(run, begins) >= barrier]
        if len(beyond):
            return int(beyond[0]), True
    return len(run), False


def _commit_lsn(run: Messages, places: np.ndarray) -> np.ndarray:
    """The commit LSN of Begin messages: int64[n]."""
    at = run.body[places][:, None] + np.arange(8)
    lsns: np.ndarray = run.buffer[at].view(">i8").reshape(-1).astype(np.int64)
    return lsns
