"""A cdc source catches up: new tables are copied, all followed tables move together to one LSN."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from dbt_bridge.cdc.applier import Applier, Committed, GivenUp
from dbt_bridge.cdc.census import ANEW, Tracked
from dbt_bridge.cdc.checkpoints import any_stands
from dbt_bridge.cdc.followed_source import Source, following, opened
from dbt_bridge.cdc.preparation import Chosen, Preparation
from dbt_bridge.cdc.snapshot_copy import Copied, discard
from dbt_bridge.cdc.unmoved import unchanged, unjoined
from dbt_bridge.connectors.postgres.changes.feed import Chunk, Pace
from dbt_bridge.connectors.postgres.changes.slot import ExportedSlot, Replication
from dbt_bridge.connectors.postgres.changes.slot_health import WalGuard, let_log_go
from dbt_bridge.connectors.postgres.changes.slot_reader import remember_reader, wait_until_free
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.contracts.destination import Checkpoint, Staged
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.sync.landing import Wanted
from dbt_bridge.system.malloc import give_back_large_blocks

_ROUNDS = 4  # a table that changes its columns again and again while it is copied is not copied for ever


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a catch-up goes.

    Attributes:
        until: an LSN; None for where the log ends when it starts.
        seconds: after which it stops at the next commit; None for no bound.
    """

    until: int | None = None
    seconds: float | None = None


class Capture:
    """Follows one source; a context manager. One process at a time can: the slot has one reader.

    Attributes:
        receipts: of everything that ended, in order.
        position: the LSN that every followed table stands at.
    """

    def __init__(self, source: Source) -> None:
        self.receipts: list[Receipt] = []
        self._source = source
        self._replication = Replication(source.name, source.url)
        self._wal = WalGuard(self._replication, source.slot, source.max_wal, source.progress.message)
        self._anew = source.anew
        self._asked = source.asked
        self._tracked: dict[str, Tracked] = {}
        self._copies: list[Copied] = []
        self._staged: list[Staged] = []  # rows of the copies
        self._publications: tuple[str, ...] = ()
        self._shapes: Mapping[str, Shape] = {}  # when the tables were looked at last
        self._late: Mapping[str, tuple[Shape, Shape]] = {}
        self._told: set[str] = set()  # tables that have a failed receipt of this run
        self._identity = ""
        self.position = 0

    def __enter__(self) -> Capture:
        give_back_large_blocks()
        self._replication.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._replication.close()

    def catch_up(
        self,
        bounds: Bounds,
        go_on: Callable[[], bool] = lambda: True,
        on_commit: Callable[[Committed], None] = lambda _: None,
        *,
        tell_unchanged: bool = True,
    ) -> list[Receipt]:
        """Bring every followed table to one LSN: copies what is to be copied, applies everything below it.

        Args:
            go_on: asked between chunks.
            on_commit: told of everything that became visible.
            tell_unchanged: whether tables without changes have a receipt too.

        Raises:
            OriginError: the slot is gone or lost, the checkpoints are of another server or ahead of this one, or the
                origin broke off; or the slot retains more log than `max_wal`, although everything has arrived. What
                was committed stays, and the same command goes on from there.
        """
        deadline = None if bounds.seconds is None else time.monotonic() + bounds.seconds

        def in_time() -> bool:
            return go_on() and (deadline is None or time.monotonic() < deadline)

        for _ in range(_ROUNDS):
            self.prepare()
            target = self._replication.current_lsn() if bounds.until is None else bounds.until
            again = self.follow(target, self.pace(), in_time, on_commit)
            settles = bounds.until is None and in_time()  # else the log may not have come to those columns
            if not in_time() or not ((settles and self._settle()) or again):
                break
        if (
            bounds.until is None
            and in_time()
            and not (self._tracked or any_stands(self._source.ends.ledger, self._identity))
        ):
            let_log_go(self._replication, self._source.slot, target)
        self._failed(unjoined(self._source, self._source.asked - self._told - self._tracked.keys()), [])
        if tell_unchanged:
            self._tell_unchanged()
        self._wal.check()
        return self.receipts

    def pace(self, seconds: float | None = None) -> Pace:
        """See `Source.pace`."""
        return self._source.pace(seconds)

    @property
    def tracked(self) -> Mapping[str, Tracked]:
        """The tables that are followed, by node, and where each stands."""
        return dict(self._tracked)

    @property
    def asked(self) -> Mapping[str, Wanted]:
        """The tables that the selection needs, by node."""
        return {w.table.node: w for w in self._source.tables if w.table.node in self._source.asked}

    @contextmanager
    def point(self, name: str) -> Iterator[ExportedSlot]:
        """A temporary slot: its consistent point, and the origin's state at that point in an exported snapshot.

        Every table that `catch_up(Bounds(until=point.consistent_point))` brings there holds what the snapshot shows.
        """
        with self._replication.create_slot(name, temporary=True, on_wait=self._source.progress.message) as exported:
            yield exported

    def broke_off(self, error: BridgeError) -> list[Receipt]:
        """What ended before an error of `catch_up`, and a failed receipt for each table that was asked for."""
        blank = [w.receipt for w in self._source.tables if w.table.node in self._source.asked]
        self._failed([record.failed(replace(receipt, hop="cdc"), error) for receipt in blank], [])
        return self.receipts

    # --- prepare -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """See `Preparation.prepared`."""
        chosen = Chosen(self._asked, self._anew, frozenset(self._told))
        found = Preparation(self._source, self._replication, chosen, self._failed).prepared()
        self._identity, self._publications = found.identity, found.publications
        self._shapes, self._late = found.shapes, found.late
        self._tracked, self._copies = dict(found.tracked), list(found.copies)
        self._staged = [copy.rows for copy in found.copies if isinstance(copy.rows, Staged)]
        self._anew = frozenset()

    def _failed(self, receipts: Sequence[Receipt], points: Sequence[Checkpoint]) -> None:
        if receipts:
            self._source.ends.ledger.save(points, receipts)
        self.receipts += receipts
        self._told |= {receipt.node for receipt in receipts}
        for receipt in receipts:
            self._source.progress.finished(receipt)

    # --- follow ----------------------------------------------------------------------------------------------------

    def follow(
        self,
        target: int | None,
        pace: Pace,
        go_on: Callable[[], bool],
        on_commit: Callable[[Committed], None],
    ) -> bool:
        """Apply everything below the target (for ever without one); True when tables must be looked at anew.

        Args:
            go_on: asked between chunks.
            on_commit: told of everything that became visible.
        """
        try:
            while True:
                applier = self._applier()
                try:
                    self._join_first(applier)
                    self._run(applier, target, pace, go_on, on_commit)
                    return False
                except GivenUp as given_up:
                    # What was not committed is undone; the log is read again from there, without these tables.
                    if self._give_up(applier, given_up):
                        return True
                finally:
                    applier.undo()
                    self._tracked, self._copies, self.position = applier.tracked, applier.copies, applier.position
        finally:
            self._discard_unjoined()

    @property
    def is_following(self) -> bool:
        """Whether any table is left that was not set aside."""
        return bool(self._tracked)

    def has_news(self) -> bool:
        """Whether the catalog says something else of the followed tables than at the last look, so that it is time to
        catch up: of a column with a default or of a dropped partition the log says nothing, or not yet."""
        seen = {node: self._shapes[node] for node in self._tracked}
        with closing(Connections(self._source.name, self._source.url)) as now:
            return any(shapes.describe_shape(now, shape.oid) != shape for shape in seen.values())

    def _settle(self) -> bool:
        """Take up columns that changed without a row after them, of which the log says nothing.

        They were seen before the target was read, so everything stands behind them; what the log said of them since
        is newer. True when tables must be copied anew.
        """
        late = {
            node: (self._tracked[node], now)
            for node, (before, now) in self._late.items()
            if node in self._tracked and self._tracked[node].followed.shape.relation == before.relation
        }
        if not late:
            return False
        with following(self._source, [tracked for tracked, _ in late.values()], 0, binary=False) as late_ones:
            for tracked, now in late.values():
                late_ones.relation(now.relation)
                late_ones.take_up(tracked.followed.shape.oid)
            gathered = late_ones.gathered()
        applier = self._applier()
        try:
            if gathered.failed or gathered.lost:
                raise GivenUp(gathered.failed, gathered.lost)
            committed = applier.take(Chunk(gathered, upto=applier.position))
            self.receipts += committed.receipts if committed else ()
        except GivenUp as given_up:
            return self._give_up(applier, given_up)
        finally:
            applier.undo()
            self._tracked = applier.tracked
        return False

    def _applier(self) -> Applier:
        source = self._source
        positions = [t.followed.position for t in self._tracked.values()]
        positions += [copy.tracked.followed.position for copy in self._copies]
        return Applier(
            source.ends, source.load_id, self._identity, self._tracked, source.progress, self._copies,
            position=min(positions, default=0),
        )  # fmt: skip

    def _join_first(self, applier: Applier) -> None:
        """Copies with nothing behind them are joined at once: their snapshot is where everything stands."""
        if applier.copies and not applier.tracked:
            self.receipts += applier.commit(applier.copies[0].tracked.followed.position).receipts

    def _run(
        self,
        applier: Applier,
        target: int | None,
        pace: Pace,
        go_on: Callable[[], bool],
        on_commit: Callable[[Committed], None],
    ) -> None:
        if not applier.tracked:
            return
        barriers: list[int | None] = [copy.tracked.followed.position for copy in applier.copies[:1]]
        if target is None or target > max((b for b in barriers if b is not None), default=applier.position):
            barriers.append(target)
        if not barriers:
            return
        tables = [*applier.tracked.values(), *(copy.tracked for copy in applier.copies)]
        wait_until_free(self._replication, self._source.slot, self._identity)
        with opened(self._source, self._publications, applier.position, tables, barriers, pace) as (feed, acknowledge):
            applier.acknowledge = acknowledge
            remember_reader(self._replication, self._source.slot, self._identity)
            # A transaction that has begun here is finished: it would take as long the next time.
            for chunk in feed.chunks(lambda: applier.is_inside or (go_on() and self._wal.is_bearable())):
                if chunk.gathered.failed or chunk.gathered.lost:
                    raise GivenUp(chunk.gathered.failed, chunk.gathered.lost)
                committed = applier.take(chunk)
                if committed is not None:
                    self.receipts += committed.receipts
                    on_commit(committed)

    def _give_up(self, applier: Applier, given_up: GivenUp) -> bool:
        """Set tables aside; True when some of them are to be copied anew."""
        applier.undo()
        why: dict[str, str] = {node: str(error) for node, error in given_up.failed.items()}
        why |= {node: f"{ANEW}: {reason}" for node, reason in given_up.lost.items()}
        for node, reason in given_up.lost.items():
            self._source.progress.message(f"{node} is copied anew: {reason}")
        receipts = [
            record.failed(replace(tracked.wanted.receipt, hop="cdc"), given_up.failed[tracked.node])
            for tracked in [*applier.tracked.values(), *(copy.tracked for copy in applier.copies)]
            if tracked.node in given_up.failed
        ]
        points = applier.set_aside(why)
        self._failed(receipts, points)
        if not receipts:
            self._source.ends.ledger.save(points, [])
        self._asked |= frozenset(given_up.lost)
        return bool(given_up.lost)

    def _discard_unjoined(self) -> None:
        """Drop the copies of this run that nobody will join any more; those that were joined are not there."""
        discard(self._source.ends, self._staged)
        self._copies, self._staged = [], []

    def _tell_unchanged(self) -> None:
        told = {receipt.node for receipt in self.receipts}
        asked = [t for node, t in self._tracked.items() if node in self._source.asked and node not in told]
        receipts = unchanged(self._source, asked, self.position)
        if receipts:
            self._source.ends.ledger.record(receipts)
        self.receipts += receipts
        for receipt in receipts:
            self._source.progress.finished(receipt)
