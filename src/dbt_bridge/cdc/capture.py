"""A cdc source catches up: new tables are copied, all followed tables move together to one position of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from dbt_bridge.cdc.applier import Applier, Committed, GivenUp, Standing
from dbt_bridge.cdc.census import Chosen, Tracked
from dbt_bridge.cdc.checkpoints import any_stands
from dbt_bridge.cdc.followed_source import FollowedSource
from dbt_bridge.cdc.preparation import Preparation, Prepared
from dbt_bridge.cdc.run_receipts import RunReceipts
from dbt_bridge.cdc.snapshot_copy import discard_staged
from dbt_bridge.cdc.time_bound import TimeBound
from dbt_bridge.contracts.change_feed import Chunk, Pace, TableEvents, Unreadable
from dbt_bridge.contracts.change_source import Snapshot
from dbt_bridge.contracts.destination import Staged
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.origins import open_change_source
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.unfit import leave_out_empty, may_be_text
from dbt_bridge.sync.wanted import Wanted, list_wanted_tables
from dbt_bridge.system.malloc import return_large_blocks

_ROUNDS = 4  # a table that changes its columns again and again while it is copied is not copied for ever


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a catch-up goes.

    Attributes:
        until: a position, as the origin writes it; None for where the log ends when it starts.
        seconds: after which it stops at the next commit, from the first read of the log on; None for no bound. One
            batch comes, however long it takes.
    """

    until: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Course:
    """How changes are followed.

    Attributes:
        target: everything below it is applied; None for ever.
        go_on: asked between chunks; False ends it at the next commit.
        on_commit: called with everything that became visible.
        first: the position of a commit that left some tables behind: they come there before any goes beyond it.
    """

    target: Position | None
    pace: Pace
    go_on: Callable[[], bool]
    on_commit: Callable[[Committed], None]
    first: Position | None = None

    def list_barriers(self, standing: Standing) -> list[Position | None]:
        """Where commits are wanted: at the next copy, at `first`, and at the target. None for no end."""
        wanted = [copy.tracked.position for copy in standing.copies[:1]]
        if self.first is not None and self.first > standing.position:
            wanted.append(self.first)
        barriers: list[Position | None] = [*sorted(set(wanted))]
        if self.target is None or self.target > max(wanted, default=standing.position):
            barriers.append(self.target)
        return barriers

    def catches_up(self, standing: Standing) -> bool:
        """Whether tables are behind the others."""
        return self.first is not None and standing.position < self.first


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How a capture goes.

    Attributes:
        load_id: of its receipts.
        full_refresh: tables that the selection needs are copied whatever their checkpoints say.
        threads: tables that are copied at once.
    """

    load_id: str
    full_refresh: bool
    threads: int


def open_capture(
    project: Project,
    source: LandingSource,
    ends: Ends,
    options: CaptureOptions,
    progress: Progress,
    tell_left_out: Callable[[str], None] = lambda _: None,
) -> Capture | None:
    """The capture of a source's cdc tables; None when the selection needs none of them.

    Args:
        tell_left_out: takes a line for each table without columns that `unfit: text` leaves out.

    Raises:
        UsageError: the origin has no log that can be followed.
    """
    every = list_wanted_tables(source, ends.origin, lambda _: True, options.load_id)
    tables = [wanted for wanted in every if wanted.table.replication == "cdc"]
    tables = leave_out_empty(tables, ends.origin, tell_left_out)
    needed = frozenset(wanted.table.node for wanted in tables if project.needs(wanted.table.node))
    if not needed:
        return None
    changes = open_change_source(source, project_root=project.root, tell=progress.message)
    anew = needed if options.full_refresh else frozenset()
    followed = FollowedSource(changes, ends, tables, needed, anew, options.threads, progress, options.load_id)
    return Capture(followed)


class Capture:
    """Follows one source; a context manager. One process at a time can: the log has one reader.

    Attributes:
        changes: the origin's log.
    """

    def __init__(self, source: FollowedSource) -> None:
        self.changes = source.changes
        self._source = source
        self._receipts = RunReceipts(source)
        self._chosen = Chosen(source.needed, source.anew)
        self._prepared = Prepared("", {}, (), {})
        self._standing = Standing({}, (), source.changes.beginning)
        self._most_tables: int | None = None  # that may have changes in one commit

    def __enter__(self) -> Capture:
        return_large_blocks()
        return self

    def __exit__(self, *exc: object) -> None:
        self.changes.close()

    @property
    def receipts(self) -> list[Receipt]:
        """Of everything that ended, in order."""
        return self._receipts.all

    @property
    def position(self) -> Position:
        """That every followed table stands at."""
        return self._standing.position

    @property
    def tracked(self) -> Mapping[str, Tracked]:
        """The tables that are followed, by node, and where each stands."""
        return self._standing.tracked

    @property
    def is_following(self) -> bool:
        """Whether any table is left that was not set aside."""
        return bool(self._standing.tracked)

    @property
    def wanted(self) -> Mapping[str, Wanted]:
        """The tables that the selection needs, by node."""
        return {w.table.node: w for w in self._source.tables if w.table.node in self._source.needed}

    def catch_up(
        self,
        bounds: Bounds,
        go_on: Callable[[], bool] = lambda: True,
        on_commit: Callable[[Committed], None] = lambda _: None,
        *,
        tell_unchanged: bool = True,
    ) -> list[Receipt]:
        """Bring every followed table to one position: copies what is to be copied, applies everything below it.

        Args:
            go_on: called between chunks; False ends it at the next commit.
            on_commit: called with everything that became visible.
            tell_unchanged: whether tables without changes have a receipt too.

        Raises:
            UsageError: the bound is no position of this origin.
            OriginError: the log is gone or lost, the checkpoints are of another server or ahead of this one, or the
                origin broke off; or it keeps more log than `max_wal`, although everything has arrived. What was
                committed stays, and the same command goes on from there.
        """
        bound = TimeBound(bounds.seconds)
        until = None if bounds.until is None else self.changes.parse_position(bounds.until)

        def in_time() -> bool:
            return go_on() and not bound.is_over()

        def committed(what: Committed) -> None:
            bound.brought()
            on_commit(what)

        for _ in range(_ROUNDS):
            self._prepare()
            target = self.changes.find_end() if until is None else until
            again = self._leave_stale()
            again |= self.follow(target, self.pace(), in_time, committed)
            settles = until is None and in_time()  # else the log may not have come to those columns
            if not in_time() or not ((settles and self._settle()) or again):
                break
        if until is None and in_time() and not (self.is_following or self._any_stands()):
            self.changes.release_log(target)
        self._receipts.fail_unjoined(self.tracked.keys())
        if tell_unchanged:
            self._receipts.add_unchanged(self.tracked.values(), self.position)
        self.changes.check_backlog(is_caught_up=True)
        return self.receipts

    def pace(self, seconds: float | None = None) -> Pace:
        """See `FollowedSource.pace`."""
        return self._source.pace(seconds)

    def open_point(self, label: str) -> AbstractContextManager[Snapshot]:
        """The origin at a position of its log.

        Every table that `catch_up(Bounds(until=str(snapshot.position)))` brings there holds what the snapshot shows.
        """
        return self.changes.open_snapshot(label)

    def fail(self, error: BridgeError) -> list[Receipt]:
        """What ended before an error of `catch_up`, and a failed receipt for each table that was asked for."""
        self._receipts.fail_all(error)
        return self.receipts

    def has_news(self) -> bool:
        """Whether the origin says something else of the followed tables than at the last look, so that it is time to
        catch up: of some changes of columns the log says nothing, or not yet."""
        return self.changes.has_news(list(self._list_shapes().values()))

    def follow(
        self,
        target: Position | None,
        pace: Pace,
        go_on: Callable[[], bool],
        on_commit: Callable[[Committed], None],
    ) -> bool:
        """Apply everything below the target (for ever without one); True when tables must be looked at anew.

        Args:
            go_on: called between chunks; False ends it at the next commit.
            on_commit: called with everything that became visible.
        """
        course = _Course(target, pace, go_on, on_commit)
        broken_at: list[Position] = []
        try:
            while True:
                applier = self._applier(self._most_tables)
                try:
                    self._join_first(applier)
                    left_behind = self._run(applier, course)
                    if left_behind is None:
                        return False
                    course = replace(course, first=max(left_behind, course.first or left_behind))
                except GivenUp as given_up:
                    # What was not committed is undone; the log is read again from there, without these tables.
                    if self._give_up(applier, given_up):
                        return True
                except Unreadable as unreadable:
                    # Without suspects it is read again from the last commit, until that is the one before it.
                    broken_at.append(applier.standing.position)
                    is_known = unreadable.suspects or broken_at.count(broken_at[-1]) > _ROUNDS
                    if is_known and self._give_up(applier, _pass_over(applier.standing, unreadable)):
                        return True
                finally:
                    applier.undo()
                    self._standing = applier.standing
        finally:
            self._discard_unjoined()

    # --- one round -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """See `Preparation.prepare`."""
        self._prepared = Preparation(self._source, self._chosen, self._receipts).prepare()
        self._standing = Standing.of(self._prepared.tracked, self._prepared.copies, self.changes.beginning)
        self._chosen = replace(self._chosen, anew=frozenset())

    def _settle(self) -> bool:
        """Take up columns that changed without a row after them: the log says nothing of those.

        They were seen before the target was read, so everything stands behind them; what the log said of them since
        is newer. True when tables must be copied anew.
        """
        findings = self._prepared.findings
        late = [(t.followed, findings[node]) for node, t in self.tracked.items() if findings[node].is_late]
        content = self.changes.settle(late) if late else TableEvents()
        if content.is_empty:
            return False
        applier = self._applier()
        try:
            committed = applier.take(Chunk(content, upto=applier.standing.position))
            self._receipts.add(committed.receipts if committed else ())
        except GivenUp as given_up:
            has_room_now = not (given_up.failed or given_up.lost)
            return self._give_up(applier, given_up) or has_room_now
        finally:
            applier.undo()
            self._standing = applier.standing
        return False

    def _list_shapes(self) -> dict[str, str]:
        """As the origin was when it was looked at: at the census, or in the snapshot of a copy."""
        return {node: self._prepared.findings[node].shape for node in self._standing.every_table}

    def _leave_stale(self) -> bool:
        """Tables that are not any more as they were looked at are not brought up; True when there are any."""
        stale = self.changes.find_stale(self._list_shapes())
        if not stale:
            return False
        applier = self._applier()
        try:
            return self._give_up(applier, GivenUp({}, stale))
        finally:
            self._standing = applier.standing

    def _applier(self, most_tables: int | None = None) -> Applier:
        standing = Standing.of(self._standing.tracked, self._standing.copies, self.changes.beginning)
        return Applier(self._source, self._prepared.identity, standing, self._prepared.clock, most_tables=most_tables)

    def _any_stands(self) -> bool:
        return any_stands(self._source.ends.ledger, self._prepared.identity)

    def _join_first(self, applier: Applier) -> None:
        """Copies with nothing behind them are joined at once: their snapshot is where everything stands."""
        copies = applier.standing.copies
        if copies and not applier.standing.tracked:
            self._receipts.add(applier.commit(copies[0].tracked.position).receipts)

    def _run(self, applier: Applier, course: _Course) -> Position | None:
        """Apply what comes; answers the position of a commit that left tables for another one, which ends it."""
        standing = applier.standing
        if not standing.tracked:
            return None
        barriers = course.list_barriers(standing)
        if not barriers:
            return None

        def is_going() -> bool:
            # A transaction that has begun here is finished: it would take as long the next time. So are tables that
            # were left behind: no sync ends with them at another position than the others.
            if applier.is_inside or course.catches_up(applier.standing):
                return True
            if not course.go_on():
                return False
            self.changes.check_backlog(is_caught_up=False)
            return True

        tables = [table.followed for table in standing.every_table.values()]
        with self.changes.follow(tables, standing.position, barriers, course.pace) as feed:
            applier.acknowledge = feed.acknowledge
            for chunk in feed.chunks(is_going):
                committed = applier.take(chunk)
                if committed is not None:
                    self._receipts.add(committed.receipts)
                    course.on_commit(committed)
                    if applier.has_left:
                        return chunk.upto
        return None

    def _give_up(self, applier: Applier, given_up: GivenUp) -> bool:
        """Set tables aside; True when some of them are to be copied anew."""
        applier.undo()
        if given_up.tables is not None:
            self._most_tables = given_up.tables
            self._source.progress.message(
                f"{self._source.name}: changes of {given_up.tables} tables are committed at once from here on, as there"
                " is no memory for those of more; all of them stand at one position when this ends"
            )
        known = applier.standing.every_table
        given_up = _spare_unfit(given_up, known)
        for node, reason in given_up.lost.items():
            self._source.progress.message(f"{node} is copied anew: {reason}")
        receipts = [
            record.fail_receipt(replace(tracked.wanted.receipt, hop="cdc"), given_up.failed[node])
            for node, tracked in known.items()
            if node in given_up.failed
        ]
        points = [
            point.copy_anew(given_up.lost[point.node])
            if point.node in given_up.lost
            else point.put_aside(str(given_up.failed[point.node]))
            for point in applier.give_up(dict.fromkeys([*given_up.failed, *given_up.lost]))
        ]
        self._receipts.fail(receipts, points)
        if not receipts:
            self._source.ends.ledger.save(points, [])
        self._chosen = replace(self._chosen, needed=self._chosen.needed | given_up.lost.keys())
        return bool(given_up.lost)

    def _discard_unjoined(self) -> None:
        """Drop the copies of this run that nobody will join any more; those that were joined are not there."""
        staged = [copy.rows for copy in self._prepared.copies if isinstance(copy.rows, Staged)]
        discard_staged(self._source.ends, staged)
        self._prepared = replace(self._prepared, copies=())
        self._standing = replace(self._standing, copies=())


def _pass_over(standing: Standing, unreadable: Unreadable) -> GivenUp:
    """Nobody can read what else the commit changed: every table is copied anew, but for the one to blame, where that is
    known."""
    suspects = [node for node in unreadable.suspects if node in standing.every_table]
    failed = {suspects[0]: unreadable} if len(suspects) == 1 else {}
    of = f" of {' or '.join(unreadable.suspects)}" if unreadable.suspects else ""
    why = f"a commit with changes{of} cannot be read: {unreadable}"
    return GivenUp(failed, {node: why for node in standing.every_table if node not in failed})


def _spare_unfit(given_up: GivenUp, known: Mapping[str, Tracked]) -> GivenUp:
    """A table that may land as text what a value does not fit is copied anew with that, and not set aside."""
    spared = {
        node: error.what
        for node, error in given_up.failed.items()
        if node in known and may_be_text(known[node].wanted, error) is not None
    }
    failed = {node: error for node, error in given_up.failed.items() if node not in spared}
    return GivenUp(failed, {**given_up.lost, **spared})
