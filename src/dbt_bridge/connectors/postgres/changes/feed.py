"""From pgoutput's messages to the changes of landing tables, in chunks that end where a destination may commit.

A thread of its own receives and decodes ahead of the destination; what waits between them is bounded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol

import numpy as np

from dbt_bridge.connectors.postgres.changes.following import Following
from dbt_bridge.connectors.postgres.changes.lsn import position_of
from dbt_bridge.connectors.postgres.changes.messages import Messages, Rows, count_below
from dbt_bridge.connectors.postgres.changes.past.witness import CommitWatch, Past
from dbt_bridge.connectors.postgres.changes.pgoutput.decoder import Decoder
from dbt_bridge.connectors.postgres.wire.relation import Relation
from dbt_bridge.contracts.change_feed import Chunk, Pace, Unreadable
from dbt_bridge.nouns.position import Position

_COMMIT, _RELATION = ord("C"), ord("R")
_CHANGES = np.frombuffer(b"IUDT", np.uint8)
_WAIT = 0.2  # seconds between looks at the clock while nothing comes
_AHEAD = 2  # chunks that wait for the destination
_HUGE = 32_768  # messages without a Commit from which on a transaction is decoded in pieces


class Stream(Protocol):
    """Where messages come from (`ReplicationStream`)."""

    def next(self, wait: float) -> Messages | None: ...

    def acknowledge(self, lsn: int) -> None: ...


class Feed:
    """The `ChangeFeed` of a slot: chunks of changes up to each barrier; a context manager, whose thread ends with it.

    Args:
        stream: positioned at or before the first followed table's LSN; closed by its owner.
        following: the tables.
        barriers: ascending: a chunk ends exactly at each, and the feed ends with the last one. None at the end goes on
            for ever.
        past: of where the stream is positioned.
        is_whole: the stream gives each transaction only as a whole, so that what came last tells of which table a
            change is that is `Unreadable`.
    """

    def __init__(
        self,
        stream: Stream,
        following: Following,
        barriers: Sequence[Position | None],
        pace: Pace,
        past: Past = Past(),  # noqa: B008 (a frozen value)
        *,
        is_whole: bool = False,
    ) -> None:
        self._stream = stream
        self._following = following
        self._barriers = [None if barrier is None else barrier.ordinal for barrier in barriers]
        self._pace = pace
        self._gathering = _Gathering(following, past)
        self._suspects = _Suspects() if is_whole else None
        self._ready: queue.Queue[Chunk | BaseException] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dbt-bridge-feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def next(self, wait: float) -> Chunk | None:
        """The next chunk; None when none came within `wait` seconds, or the feed has ended (see `is_ended`).

        Raises:
            ConnectionFailed, OriginError: the stream broke off.
        """
        try:
            item = self._ready.get(timeout=wait)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    @property
    def is_ended(self) -> bool:
        """Nothing more comes."""
        return not self._thread.is_alive() and self._ready.empty()

    def chunks(self, go_on: Callable[[], bool] = lambda: True) -> Iterator[Chunk]:
        """See `ChangeFeed.chunks`."""
        while go_on():
            chunk = self.next(_WAIT)
            if chunk is not None:
                yield chunk
            elif self.is_ended:
                return

    def acknowledge(self, position: Position) -> None:
        """See `ChangeFeed.acknowledge`."""
        self._stream.acknowledge(position.ordinal)

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for barrier in self._barriers:
                if not self._until(barrier):
                    return
        except Unreadable as error:
            rest = self._gathering.take_whole()
            if rest is None and self._suspects is not None and not self._gathering.has_given:
                error.suspects = self._following.list_nodes(self._suspects.oids)
            if rest is None or self._put(rest):
                self._put(error)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Chunk | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_WAIT)
            except queue.Full:
                continue
            return True
        return False

    def _until(self, barrier: int | None) -> bool:
        """Everything below the barrier; False when the feed was stopped."""
        gathering = self._gathering
        gathering.barrier = barrier
        while not self._stop.is_set():
            if gathering.has_reached_barrier():
                return self._put(gathering.chunk(is_last=True))
            received = self._stream.next(_WAIT)
            if received is not None and self._suspects is not None:
                self._suspects.look(received)
            gathering.receive(received)
            for run in gathering.runs():
                gathering.add(run)
                if gathering.is_full(self._pace, is_starved=self._ready.empty()) and not self._put(gathering.chunk()):
                    return False
            if gathering.is_full(self._pace, is_starved=self._ready.empty()) and not self._put(gathering.chunk()):
                return False
        return False


class _Suspects:
    """The tables of which a transaction had changes when it broke off.

    Attributes:
        oids: the last one alone where it had just been announced: the change that cannot be sent is its first.
    """

    def __init__(self) -> None:
        self.oids: set[int] = set()
        self._seen: set[int] = set()

    def look(self, run: Messages) -> None:
        """Take note of a run, all of whose tables are announced in it or before."""
        places = np.flatnonzero(run.kind == _RELATION)
        if not len(places):
            self.oids = self._seen or self.oids
            return
        at = run.body[places][:, None] + np.arange(4)
        announced = run.buffer[at].view(">u4").reshape(-1).tolist()
        self._seen |= set(announced)
        is_last = not np.isin(run.kind[places[-1] + 1 :], _CHANGES).any()
        self.oids = {announced[-1]} if is_last else set(self._seen)


class _Gathering:
    """The chunk that grows, and what waits: an unfinished transaction, or what lies behind a barrier.

    Attributes:
        barrier: nothing at or behind it is decoded, and no chunk stands beyond it; None for none.
        has_given: transactions were in earlier chunks.
    """

    def __init__(self, following: Following, past: Past) -> None:
        self.barrier: int | None = None
        self.has_given = False
        self._past = past
        self._commits = CommitWatch()
        self._following = following
        self._decoder = Decoder()
        self._waiting: list[Messages] = []
        self._behind = False  # the first waiting message is a Begin at or behind the barrier
        self._sent = self._upto = self._reported = 0
        self._is_open = False
        self._begun = time.monotonic()
        self._rows = self._transactions = self._committed_at = 0

    def receive(self, run: Messages | None) -> None:
        if run is None:
            return
        self._sent = max(self._sent, run.sent)
        if len(run):
            self._waiting.append(run)

    def runs(self) -> Iterator[Messages]:
        """What may be decoded now: whole transactions below the barrier; of a huge one, its pieces."""
        self._behind = False
        while self._waiting:
            first = self._waiting[0]
            end, self._behind = count_below(first, self.barrier)
            if not self._behind:
                commits = np.flatnonzero(first.kind == _COMMIT)
                if len(commits):
                    end = int(commits[-1]) + 1
                elif len(self._waiting) == 1 and len(first) < _HUGE:
                    return
            self._waiting[:1] = [first.slice(end, len(first))] if end < len(first) else []
            if end:
                yield first.slice(0, end)
            if self._behind:
                return

    def add(self, run: Messages) -> None:
        decoded = self._decoder.decode(run)
        self._commits.read(run)
        for announced in decoded.announced:
            self._following.partition(announced)
        for item in decoded.items:
            if isinstance(item, Relation):
                self._following.relation(item)
            elif isinstance(item, Rows):
                self._rows += self._following.rows(item)
            else:
                self._rows += self._following.truncation(item)
        self._is_open = decoded.is_open
        self._transactions += decoded.transactions
        if decoded.transactions:
            self._upto, self._committed_at = decoded.upto, decoded.committed_at

    def has_reached_barrier(self) -> bool:
        """Whether nothing below the barrier is still to come."""
        if self.barrier is None or self._is_open:
            return False
        return self._behind or (not self._waiting and self._sent >= self.barrier)

    def is_full(self, pace: Pace, *, is_starved: bool) -> bool:
        age = time.monotonic() - self._begun
        full = self._rows >= (pace.least if is_starved else pace.rows) or self._following.bytes >= pace.bytes
        if self._is_open:
            return full
        if self._rows or self._following.has_trouble:
            return full or age >= pace.seconds or self._following.has_trouble
        return age >= pace.idle and self._position() > self._reported

    def chunk(self, *, is_last: bool = False) -> Chunk:
        """What was gathered; begins anew.

        Args:
            is_last: nothing below the barrier is still to come.
        """
        upto = self.barrier if is_last else None if self._is_open else self._position()
        chunk = Chunk(
            self._following.take_events(),
            self._rows,
            None if upto is None else position_of(upto, self._past.at(self._commits.last).as_text()),
            self._committed_at,
            self._transactions,
            behind=max(0, self._sent - (upto or 0)),
        )
        self._reported = max(self._reported, upto or 0)
        self._behind = False
        self._begun = time.monotonic()
        self.has_given |= self._transactions > 0
        self._rows = self._transactions = self._committed_at = 0
        return chunk

    def take_whole(self) -> Chunk | None:
        """The transactions that came whole; None where there are none, or one was given in part."""
        return self.chunk() if self._transactions and not self._is_open else None

    def _position(self) -> int:
        """Below this LSN everything is here: all that was sent, unless a part of it waits; at most the barrier."""
        here = self._upto if self._waiting else max(self._upto, self._sent)
        return here if self.barrier is None else min(here, self.barrier)
