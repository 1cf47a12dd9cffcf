"""Where the values of pgoutput's tuples lie: all tuples of one relation at once, column after column.

A column's place in a tuple is known only when the columns before it have been walked, so a walk takes one step per
column, and each step is a handful of numpy calls over all rows. TupleData in
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html#PROTOCOL-LOGICALREP-MESSAGE-FORMATS-TUPLEDATA
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dbt_bridge.connectors.postgres.changes.messages import BINARY, NULL, TEXT, UNCHANGED, Cells, Messages, Rows
from dbt_bridge.connectors.postgres.changes.pgoutput.wire_bytes import Bytes, check
from dbt_bridge.connectors.postgres.wire.relation import Relation

_INSERT, _UPDATE, _DELETE = b"IUD"
_KEY, _OLD, _NEW = b"KON"

_BLOCK = 8192  # rows: what a step reads and writes stays in the second-level cache (measured: 4096 to 16384 are alike)
_NEVER = 1 << 40  # an unknown tag leads so far that the tuple cannot end where its message ends

_WIDTH = np.full(256, _NEVER, np.int64)  # of a tag, with the length that follows it
_WIDTH[[NULL, UNCHANGED]] = 1
_WIDTH[[TEXT, BINARY]] = 5
_LENGTH_BITS = np.zeros(256, np.int64)
_LENGTH_BITS[[TEXT, BINARY]] = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Commits:
    """Where and when the transactions of n messages were committed.

    Attributes:
        lsn, at: int64[n]; `at` in microseconds since 1970.
    """

    lsn: np.ndarray
    at: np.ndarray


class Tuples:
    """The columns of n tuples, and where each tuple ends.

    Nothing is refused while walking. Positions only grow, each tag by at least one byte, negative lengths count as
    huge ones and unknown tags as `_NEVER`: so a tuple that ends exactly where its message ends was right in all of its
    columns, and one comparison at the end checks all.

    Attributes:
        tag, start, length: [columns, n]; see `Cells`.
        end: int64[n].
        unchanged: the columns that have UNCHANGED values.
    """

    def __init__(self, source: Bytes, at: np.ndarray, columns: int) -> None:
        """`at`: where the first tag of each tuple is."""
        n = len(at)
        self._buffer = source.buffer
        self.tag = np.empty((columns, n), np.uint8)
        self.start = np.empty((columns, n), np.int64)
        self.length = np.empty((columns, n), np.int64)
        self.end = np.empty(n, np.int64)
        unchanged = set()
        for first in range(0, n, _BLOCK):
            rows = slice(first, first + _BLOCK)
            position = at[rows]
            for c in range(columns):
                words = source.words[np.minimum(position, source.last)]
                tag, start, length = self.tag[c, rows], self.start[c, rows], self.length[c, rows]
                np.copyto(tag, words, casting="unsafe")  # the lowest byte
                words.byteswap(inplace=True)
                np.right_shift(words, 24, out=words)
                kinds = tag[0] if (tag == tag[0]).all() else tag  # mostly one: then no lookups
                np.bitwise_and(words.view("<i8"), _LENGTH_BITS[kinds], out=length)
                np.add(position, _WIDTH[kinds], out=start)
                if (kinds == UNCHANGED).any():
                    unchanged.add(c)
                position = start + length
            self.end[rows] = position
        self.unchanged = sorted(unchanged)

    def cells(self) -> tuple[Cells, ...]:
        return tuple(Cells(self._buffer, *columns) for columns in zip(self.tag, self.start, self.length, strict=True))


def read_rows(
    source: Bytes,
    messages: Messages,
    relation: Relation,
    numbers: np.ndarray,
    commits: Commits,
) -> Rows:
    """The changes of one relation.

    Args:
        messages: whose buffer `source` reads.
        numbers: which of the messages: each has at least a relation's oid, a tag and a count of columns.
        commits: of the same messages.

    Raises:
        OriginError: a message is not what the relation says.
    """
    kind, at, end = messages.kind[numbers], messages.body[numbers] + 4, messages.end[numbers]
    which = source.uint8(at)
    is_old = (which == _KEY) | (which == _OLD)
    allowed = np.where(is_old, kind != _INSERT, (which == _NEW) & (kind != _DELETE))
    _check(allowed, relation, numbers, "names no tuple that belongs to such a change")
    has_before = is_old & (kind == _UPDATE)
    updates = np.flatnonzero(has_before)
    before = _walk_old_tuples(source, relation, numbers[updates], at[updates], end[updates])
    at[updates] = before.end
    after = _walk_tuples(source, relation, numbers, at, end)
    _check(after.end == end, relation, numbers, "holds a tuple that does not end where the message ends")
    _fill_unchanged(after, before, updates)
    for c in after.unchanged:
        sent = (after.tag[c] != UNCHANGED) | (kind == _UPDATE)
        _check(sent, relation, numbers, f"does not send column {relation.columns[c].name!r}, and is no update")
    return Rows(relation, kind, commits.lsn, commits.at, after.cells(), before.cells(), has_before)


def _walk_old_tuples(source: Bytes, relation: Relation, numbers: np.ndarray, at: np.ndarray, end: np.ndarray) -> Tuples:
    """The old tuples of updates; another tuple with its count of columns follows each."""
    before = _walk_tuples(source, relation, numbers, at, end)
    _check(before.end + 3 <= end, relation, numbers, "ends within an old tuple")
    _check(source.uint8(before.end) == _NEW, relation, numbers, "has no new tuple after the old one")
    for c in before.unchanged:
        sent = before.tag[c] != UNCHANGED
        _check(sent, relation, numbers, f"does not send the old value of column {relation.columns[c].name!r}")
    return before


def _walk_tuples(source: Bytes, relation: Relation, numbers: np.ndarray, at: np.ndarray, end: np.ndarray) -> Tuples:
    """The tuples whose letter (K, O or N) is at `at`."""
    columns = len(relation.columns)
    _check(source.uint16(at + 1) == columns, relation, numbers, f"holds a tuple that has not {columns} columns")
    _check(at + 3 + columns <= end, relation, numbers, "is cut off")  # before memory is taken for so many columns
    return Tuples(source, at + 3, columns)


def _fill_unchanged(after: Tuples, before: Tuples, updates: np.ndarray) -> None:
    """Take unchanged values from the old tuple, where it has them.

    A NULL of the old tuple is no such value: it means that this column is not part of what was logged. That happens
    under `publish_via_partition_root` when the root says FULL and the partition does not.
    """
    for c in after.unchanged if len(updates) else ():
        known = np.flatnonzero((after.tag[c, updates] == UNCHANGED) & (before.tag[c] != NULL))
        rows = updates[known]
        for new, old in ((after.tag, before.tag), (after.start, before.start), (after.length, before.length)):
            new[c, rows] = old[c, known]


def _check(right: np.ndarray, relation: Relation, numbers: np.ndarray, what: str) -> None:
    check(right, numbers, f"(a change of {relation.name}) {what}")
