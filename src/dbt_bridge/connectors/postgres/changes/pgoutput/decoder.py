"""pgoutput's messages, decoded to their structure: relations, rows and truncations, by vectors and without I/O.

Message formats: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

Work is done per relation and per Relation or Truncate message, never per row or per transaction. Whatever a message
claims (letter, sizes, counts, lengths, order) is checked, because a wrong row is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from dbt_bridge.connectors.postgres.changes.messages import Announcement, Decoded, Messages, Rows, Truncation
from dbt_bridge.connectors.postgres.changes.pgoutput.tuples import Commits, read_rows
from dbt_bridge.connectors.postgres.changes.pgoutput.wire_bytes import (
    Bytes,
    Fields,
    check,
    refuse,
)
from dbt_bridge.connectors.postgres.wire.relation import Relation, RelationColumn
from dbt_bridge.nouns.table import TableName

_BEGIN, _COMMIT, _ORIGIN, _RELATION, _TYPE, _INSERT, _UPDATE, _DELETE, _TRUNCATE, _MESSAGE = b"BCORYIUDTM"

_TO_1970 = 946_684_800_000_000  # Postgres counts microseconds from 2000
_TIMES = 1 << 62  # far beyond the times that Postgres has

# A body's least and greatest size. Postgres sends no message over 1 GB (MaxAllocSize).
_AT_LEAST, _AT_MOST = np.full(256, 1 << 62, np.int64), np.full(256, 1 << 30, np.int64)
for _kind, _size in zip(b"BCORYIUDTM", (20, 25, 9, 9, 6, 7, 7, 7, 9, 14), strict=True):
    _AT_LEAST[_kind] = _size
_AT_MOST[[_BEGIN, _COMMIT]] = _AT_LEAST[[_BEGIN, _COMMIT]]


@dataclass(frozen=True, slots=True)
class _State:
    """What the decoder knows between two runs.

    Attributes:
        lsn, committed_at: of the open transaction.
        upto: where the last transaction ended.
        described: the oid of the relation that the last message described, if it did that.
    """

    relations: Mapping[int, Relation] = field(default_factory=dict)
    is_open: bool = False
    lsn: int = 0
    committed_at: int = 0
    upto: int = 0
    described: int | None = None


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a run says, of each relation in its order; and the relations as they are afterwards."""

    items: tuple[Relation | Rows | Truncation, ...]
    relations: Mapping[int, Relation]
    announced: tuple[Announcement, ...] = ()
    described: int | None = None


class Decoder:
    """Decodes the runs of one connection, one after the other.

    A server describes its relations anew on each connection and starts again at the slot's confirmed LSN, so each
    connection has a decoder of its own.
    """

    def __init__(self) -> None:
        self._state = _State()

    @property
    def relations(self) -> Mapping[int, Relation]:
        """The relations that were described, by their oid, as they are now."""
        return MappingProxyType(self._state.relations)

    def decode(self, messages: Messages) -> Decoded:
        """The relations, rows and truncations of a run, which may begin and end inside a transaction.

        Raises:
            OriginError: a message is not what the protocol says, or not where it says; the decoder is as it was before.
        """
        _check_sizes(messages)
        source = Bytes(messages.buffer, int(messages.end.max(initial=0)))
        transactions = _Transactions(source, messages, self._state)
        contents = _read_items(source, messages, transactions, self._state)
        ended = transactions.ended
        self._state = _State(
            contents.relations,
            is_open=transactions.is_open,
            lsn=int(transactions.lsn[-1]),
            committed_at=int(transactions.committed_at[-1]),
            upto=int(ended[-1]) if len(ended) else self._state.upto,
            described=contents.described,
        )
        return Decoded(
            contents.items,
            upto=int(ended[-1]) if len(ended) else 0,
            committed_at=transactions.last_committed_at,
            transactions=len(ended),
            is_open=transactions.is_open,
            announced=contents.announced,
        )


def _check_sizes(messages: Messages) -> None:
    """Each message lies in the buffer, has a known letter, and a size that a message of its letter can have."""
    size = messages.end - messages.body
    right = (_AT_LEAST[messages.kind] <= size) & (size <= _AT_MOST[messages.kind])
    right &= (messages.body >= 0) & (messages.end <= len(messages.buffer))
    check(right, np.arange(len(messages)), "has an unknown letter or a size that its letter cannot have")
    names = np.flatnonzero(messages.kind == _ORIGIN)
    check(messages.buffer[messages.end[names] - 1] == 0, names, "is cut off (the name of an origin)")
    for number in np.flatnonzero((messages.kind == _TYPE) | (messages.kind == _MESSAGE)).tolist():
        fields = Fields(messages, number)
        _read_type(fields) if messages.kind[number] == _TYPE else _read_message(fields)


class _Transactions:
    """The transactions of a run, and which of them each message is part of.

    Attributes:
        lsn, committed_at: int64: of the transaction that was open before (0 if none), then of each Begin message.
        ended: int64: the end LSN of each Commit message.
        last_committed_at: of the last transaction that ended, 0 if none did.
        is_open: whether the run ends inside a transaction.
    """

    def __init__(self, source: Bytes, messages: Messages, before: _State) -> None:
        is_begin, is_commit = messages.kind == _BEGIN, messages.kind == _COMMIT
        self._was_open = int(before.is_open)
        self._edges = np.cumsum(is_begin | is_commit)  # Begin and Commit messages up to each message, itself included
        begins, commits = np.flatnonzero(is_begin), np.flatnonzero(is_commit)
        check(self._inside(begins), begins, "begins a transaction inside another one")
        check(~self._inside(commits), commits, "ends a transaction that did not begin")
        body = messages.body[begins]
        self.lsn = np.concatenate(([before.lsn], source.int64(body)))
        self.committed_at = np.concatenate(([before.committed_at], _to_unix_times(source.int64(body + 8), begins)))
        body = messages.body[commits]
        of = self._transaction(commits)
        same = (source.int64(body + 1) == self.lsn[of]) & (source.uint8(body) == 0)
        same &= _to_unix_times(source.int64(body + 17), commits) == self.committed_at[of]
        check(same, commits, "ends another transaction than the one that began")
        self.ended = source.int64(body + 9)
        check(self.ended > self.lsn[of], commits, "ends a transaction before it was committed")
        ended_before = np.concatenate(([before.upto], self.ended))[self._edges[begins] - self._transaction(begins)]
        check(self.lsn[1:] >= ended_before, begins, "begins a transaction that lies before the one that ended last")
        self.is_open = bool((self._was_open + len(begins) + len(commits)) & 1)
        self.last_committed_at = int(self.committed_at[of[-1]]) if len(of) else 0

    def of(self, numbers: np.ndarray) -> Commits:
        """The commits of these messages' transactions.

        Raises:
            OriginError: one of them is in no transaction.
        """
        check(self._inside(numbers), numbers, "is a change outside of any transaction")
        transaction = self._transaction(numbers)
        return Commits(self.lsn[transaction], self.committed_at[transaction])

    def find_lsn(self, number: int) -> int:
        """Of the transaction that is open at a message, or was open last."""
        return int(self.lsn[self._transaction(np.array([number]))[0]])

    def _inside(self, numbers: np.ndarray) -> np.ndarray:
        """Whether a transaction is open after these messages, if Begin and Commit alternate up to them."""
        inside: np.ndarray = ((self._edges[numbers] + self._was_open) & 1).astype(bool)
        return inside

    def _transaction(self, numbers: np.ndarray) -> np.ndarray:
        """Which of `lsn`: how many Begin messages there are up to these."""
        begins: np.ndarray = (self._edges[numbers] + (1 - self._was_open)) >> 1
        return begins


def _read_items(source: Bytes, messages: Messages, transactions: _Transactions, state: _State) -> _Contents:
    relations = dict(state.relations)
    announcements = _Announcements(messages, transactions, state)
    items: list[Relation | Rows | Truncation] = []
    changes = _group_by_relation(source, messages)

    def add_rows(oid: int, before: int) -> None:
        """Add the relation's rows that stand before the message of this number and were not added yet."""
        numbers = changes.get(oid, _NONE)
        count = int(np.searchsorted(numbers, before))
        if not count:
            return
        if oid not in relations:
            refuse(int(numbers[0]), f"changes a row of relation {oid}, which the origin has not described")
        now, changes[oid] = numbers[:count], numbers[count:]
        items.append(read_rows(source, messages, relations[oid], now, transactions.of(now)))

    for number in np.flatnonzero((messages.kind == _RELATION) | (messages.kind == _TRUNCATE)).tolist():
        fields = Fields(messages, number)
        if messages.kind[number] == _TRUNCATE:
            truncation = _read_truncation(fields, transactions.of(np.array([number])), relations)
            for oid in truncation.oids:
                add_rows(oid, number)
            items.append(truncation)
        else:
            relation = _read_relation(fields)
            if relations.get(relation.oid) != relation:
                add_rows(relation.oid, number)
            relations[relation.oid] = relation
            items.append(relation)
            announcements.add(number, relation)
    for oid in changes:
        add_rows(oid, len(messages))
    return _Contents(tuple(items), relations, tuple(announcements.found), announcements.last())


class _Announcements:
    """Finds partitions: a Relation message right after that of another one, with nothing but types in between."""

    def __init__(self, messages: Messages, transactions: _Transactions, state: _State) -> None:
        self.found: list[Announcement] = []
        self._kinds = messages.kind
        self._transactions = transactions
        self._before = -1  # the number of the message that `_described` is of
        self._described = state.described

    def add(self, number: int, relation: Relation) -> None:
        root = self._described if self._is_all_types(number) else None
        if root is not None and root != relation.oid:
            lsn = self._transactions.find_lsn(number)
            self.found.append(Announcement(root, relation.oid, relation.name.name, lsn))
        self._before, self._described = number, relation.oid

    def last(self) -> int | None:
        return self._described if self._is_all_types(len(self._kinds)) else None

    def _is_all_types(self, number: int) -> bool:
        return bool((self._kinds[self._before + 1 : number] == _TYPE).all())


_NONE = np.empty(0, np.int64)


def _group_by_relation(source: Bytes, messages: Messages) -> dict[int, np.ndarray]:
    """The numbers of the messages that change a row, ascending, by the oid of their relation."""
    kind = messages.kind
    numbers = np.flatnonzero((kind == _INSERT) | (kind == _UPDATE) | (kind == _DELETE))
    oid = source.uint32(messages.body[numbers])
    if not len(oid) or (oid == oid[0]).all():
        return {int(oid[0]): numbers} if len(oid) else {}
    # A stable sort of 16 bits is a radix sort. Where two oids share them, a whole sort has to tell them apart.
    for key in (oid.astype(np.uint16), oid):
        order = np.argsort(key, kind="stable")
        ordered = oid[order]
        cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        oids = ordered[np.concatenate(([0], cuts))].tolist()
        if len(set(oids)) == len(oids):
            break
    return dict(zip(oids, np.split(numbers[order], cuts), strict=True))


def _read_relation(fields: Fields) -> Relation:
    oid = fields.integer(4)
    schema, name = fields.string() or "pg_catalog", fields.string()
    identity = fields.raw(1)
    if identity not in (b"d", b"n", b"f", b"i"):
        refuse(fields.number, f"describes {schema}.{name} with an unknown replica identity")
    columns = tuple(_read_column(fields) for _ in range(fields.integer(2)))
    fields.end()
    return Relation(oid, TableName(schema, name), identity.decode(), columns)


def _read_column(fields: Fields) -> RelationColumn:
    flags = fields.integer(1)
    if flags > 1:
        refuse(fields.number, "describes a column with unknown flags")
    return RelationColumn(fields.string(), fields.integer(4), fields.integer(4, signed=True), bool(flags))


def _read_truncation(fields: Fields, commits: Commits, relations: Mapping[int, Relation]) -> Truncation:
    count = fields.integer(4)
    if fields.integer(1) > 3:  # CASCADE and RESTART IDENTITY: the server names all relations itself
        refuse(fields.number, "truncates with unknown options")
    raw = fields.raw(4 * count)
    fields.end()
    oids = tuple(np.frombuffer(raw, ">u4").tolist())
    for oid in oids:
        if oid not in relations:
            refuse(fields.number, f"truncates relation {oid}, which the origin has not described")
    return Truncation(oids, int(commits.lsn[0]), int(commits.at[0]))


def _read_type(fields: Fields) -> None:
    fields.integer(4)
    fields.string()
    fields.string()
    fields.end()


def _read_message(fields: Fields) -> None:
    """A message of pg_logical_emit_message (flags, LSN, prefix and content), whose content is not used."""
    fields.raw(9)
    fields.string()
    fields.raw(fields.integer(4))
    fields.end()


def _to_unix_times(since_2000: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Microseconds since 1970."""
    check((since_2000 > -_TIMES) & (since_2000 < _TIMES), numbers, "has a time that Postgres does not have")
    return since_2000 + _TO_1970
