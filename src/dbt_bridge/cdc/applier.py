"""Chunks of changes become visible: applied, committed with their checkpoints and receipts, then acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dbt_bridge.cdc.census import Tracked
from dbt_bridge.cdc.followed_source import FollowedSource
from dbt_bridge.cdc.snapshot_copy import Copy
from dbt_bridge.contracts.capabilities import Tells
from dbt_bridge.contracts.change_feed import Chunk
from dbt_bridge.contracts.destination import Application, BeginAgain, CannotReshape, Loaded, NotApplied, TooManyTables
from dbt_bridge.errors import BridgeError, KeyRefused, TypeRefused
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.changes import Event, Reshaped
from dbt_bridge.nouns.checkpoint import BEGINNING, Checkpoint, HistoryClock
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Table
from dbt_bridge.replicate.history_time import keep_ascending, keep_moment_ascending

_NOTHING = Loaded(0, 0, 0, 0, 0)


class GivenUp(Exception):
    """Tables cannot go on; what was not committed is undone, and the others go on from there without them.

    Attributes:
        failed: table -> the error for which it is set aside.
        lost: table -> why it is copied anew.

        tables: how many may have changes in one commit from now on; None for any number.

    With neither, all of them go on: the destination had not room enough, and has now.
    """

    def __init__(
        self, failed: Mapping[str, BridgeError], lost: Mapping[str, str], *, tables: int | None = None
    ) -> None:
        super().__init__(", ".join([*failed, *lost]))
        self.failed = failed
        self.lost = lost
        self.tables = tables


@dataclass(frozen=True, slots=True)
class Committed:
    """What became visible at once.

    Attributes:
        upto: where every followed table stands now.
        since: and where before.
        changes: per table that changed.
        behind: bytes of log that the origin has sent beyond `upto`.
    """

    upto: Position
    committed_at: int
    changes: Mapping[str, int]
    receipts: tuple[Receipt, ...]
    transactions: int
    since: Position
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the tables of a source stand: changes as a whole, with each commit.

    Attributes:
        tracked: table -> how it is followed; those that were given up are not there.
        copies: to be joined at the first commit that reaches their position.
        position: that all of `tracked` have come to.
    """

    tracked: Mapping[str, Tracked]
    copies: Sequence[Copy]
    position: Position

    @classmethod
    def of(cls, tracked: Mapping[str, Tracked], copies: Sequence[Copy], beginning: Position) -> Standing:
        """As read from the checkpoints: the log is read from the least position on."""
        positions = [table.position for table in tracked.values()] + [copy.tracked.position for copy in copies]
        return cls(dict(tracked), tuple(copies), min(positions, default=beginning))

    def without(self, nodes: Collection[str]) -> Standing:
        return replace(
            self,
            tracked={node: tracked for node, tracked in self.tracked.items() if node not in nodes},
            copies=tuple(copy for copy in self.copies if copy.tracked.node not in nodes),
        )

    @property
    def every_table(self) -> Mapping[str, Tracked]:
        """Those that are followed, and those that wait to be joined."""
        return dict(self.tracked) | {copy.tracked.node: copy.tracked for copy in self.copies}


@dataclass(slots=True)
class Applier:
    """Applies the chunks of one source, in order, to one destination.

    Args:
        identity: of the origin's log, for checkpoints.
        standing: as it was committed last.
        clock: that histories have come to, if no table that is followed has come further.
        acknowledge: tells the origin that everything below a position is durable here.
        most_tables: that may have changes in one commit; the others stay where they stand, for another one.
    """

    source: FollowedSource
    identity: str
    standing: Standing
    clock: HistoryClock = BEGINNING
    acknowledge: Callable[[Position], None] = lambda _: None
    most_tables: int | None = None
    _left: set[str] = field(default_factory=set)
    _tracked: dict[str, Tracked] = field(default_factory=dict)  # as far as was applied
    _stack: ExitStack = field(default_factory=ExitStack)
    _application: Application | None = None
    _counts: dict[str, Loaded] = field(default_factory=dict)
    _began: datetime = field(default_factory=record.now)
    _transactions: int = 0
    _clocks: dict[str, HistoryClock] = field(default_factory=dict)  # of the histories that this chunk changes

    def __post_init__(self) -> None:
        self._begin_anew()

    @property
    def is_inside(self) -> bool:
        """A transaction of the origin has begun here and not ended."""
        return self._application is not None

    @property
    def has_left(self) -> bool:
        """Changes of some tables were left for another commit: from here on they come first."""
        return bool(self._left)

    def take(self, chunk: Chunk) -> Committed | None:
        """Apply a chunk; commits where it ends outside of a transaction.

        Raises:
            GivenUp: tables cannot go on; begin again from where the others stand, without them.
            BridgeError: the destination refused for all of them; nothing of the chunk is visible.
        """
        content = chunk.content
        if content.failed or content.lost:
            raise GivenUp(content.failed, content.lost)
        try:
            for node, event in content.events:
                if node in self._tracked and not self._leaves(node):
                    self._apply(node, event)
            for node, followed in content.tables.items():
                if (tracked := self._tracked.get(node)) is not None and node not in self._left:
                    self._tracked[node] = replace(tracked, followed=replace(followed, position=tracked.position))
            self._transactions += chunk.transactions
            self._settle_clock()
            if chunk.upto is None:
                return None
            return replace(self.commit(chunk.upto, chunk.committed_at), behind=chunk.behind)
        except BaseException:
            self.undo()
            raise

    def commit(self, upto: Position, committed_at: int = 0) -> Committed:
        """Join the copies that stand at `upto`, save every table's checkpoint, append the receipts, acknowledge."""
        application, ends = self._open(), self.source.ends
        due = [copy for copy in self.standing.copies if copy.tracked.position <= upto]
        joined = [self._join(application, copy) for copy in due]
        changed = {node: counts.rows_loaded for node, counts in self._counts.items()}
        receipts = [*joined, *self._receipts(upto, committed_at)]
        self._tracked = {
            node: tracked if node in self._left else self._come_to(upto, tracked)
            for node, tracked in self._tracked.items()
        }
        checkpoints = [tracked.checkpoint(self.identity) for tracked in self._tracked.values()]
        try:
            if ends.destination is ends.ledger:
                application.commit(upto.ordinal, checkpoints, receipts)
            else:
                application.commit(upto.ordinal)
        except BeginAgain as error:
            raise GivenUp({}, {}) from error
        except TooManyTables as error:
            raise self._with_fewer_tables() from error
        except NotApplied as refused:
            raise _give_up(refused) from refused
        if ends.destination is not ends.ledger:
            ends.ledger.save(checkpoints, receipts)
        self._close()
        self._pass_on()
        before = self.standing
        stands = min((self._tracked[node].position for node in self._left), default=upto)
        self.standing = Standing(dict(self._tracked), tuple(copy for copy in before.copies if copy not in due), stands)
        self.acknowledge(stands)
        for receipt in receipts:
            self.source.progress.finished(receipt)
        done = Committed(stands, committed_at, changed, tuple(receipts), self._transactions, before.position)
        self._transactions = 0
        return done

    def undo(self) -> None:
        """Nothing since the last commit stays."""
        self._pass_on()
        self._close()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._tracked = dict(self.standing.tracked)
        self._left = set()
        self._transactions = 0
        self._clocks = {}
        self.clock = HistoryClock.latest_of([self.clock, *(tracked.clock for tracked in self._tracked.values())])

    def give_up(self, nodes: Collection[str]) -> list[Checkpoint]:
        """Follow these tables no more; their landing tables stay as they last were.

        Returns:
            The checkpoints at which they stand, of those that were followed.
        """
        known = self.standing.every_table
        self.standing = self.standing.without(nodes)
        self._tracked = dict(self.standing.tracked)
        return [known[node].checkpoint(self.identity) for node in nodes if node in known]

    def _apply(self, node: str, event: Event) -> None:
        tracked = self._tracked[node]
        if tracked.replica.history:
            before = self._clocks.get(node) or (tracked.clock if tracked.clock.latest else self.clock)
            self._clocks[node], event = keep_ascending(before, event)
        try:
            loaded = self._open().apply(tracked.replica, event)
        except CannotReshape as error:
            raise GivenUp({}, {node: error.what}) from error
        except BeginAgain as error:
            raise GivenUp({}, {}) from error
        except TooManyTables as error:
            raise self._with_fewer_tables() from error
        except NotApplied as refused:
            raise _give_up(refused) from refused
        except (TypeRefused, KeyRefused) as error:
            raise GivenUp({node: error}, {}) from error
        self._counts[node] = self._counts.get(node, _NOTHING) + loaded
        self.source.progress.advanced(node, loaded.rows_loaded, loaded.bytes)
        if isinstance(event, Reshaped):
            self._tracked[node] = _reshape(tracked, event)

    def _leaves(self, node: str) -> bool:
        """Whether a table's changes are left for another commit: they are all of them, or none."""
        if self.most_tables is not None and node not in self._counts and len(self._counts) >= self.most_tables:
            self._left.add(node)
        return node in self._left

    def _with_fewer_tables(self) -> GivenUp:
        return GivenUp({}, {}, tables=max(1, len(self._counts) // 2))

    def _come_to(self, upto: Position, tracked: Tracked) -> Tracked:
        """A table that stands there now."""
        return replace(tracked.at(upto), clock=self.clock if tracked.replica.history else tracked.clock)

    def _settle_clock(self) -> None:
        """The tables of a chunk begin at one time: their commits came side by side."""
        for clock in self._clocks.values():
            self.clock = self.clock.joined_with(clock)
        self._clocks = {}

    def _find_time(self, copy: Copy) -> int:
        """When a copy was made: the time at which versions in its history end and begin."""
        if not copy.tracked.replica.history:
            return copy.copied_at
        self.clock, at = keep_moment_ascending(self.clock, copy.copied_at)
        return at

    def _pass_on(self) -> None:
        destination = self.source.ends.destination
        for line in destination.take_told() if isinstance(destination, Tells) else ():
            self.source.progress.message(line)

    def _join(self, application: Application, copy: Copy) -> Receipt:
        try:
            loaded = application.join(copy.tracked.replica, copy.rows, self._find_time(copy))
        except BeginAgain as error:
            raise GivenUp({}, {}) from error
        except TooManyTables as error:
            raise self._with_fewer_tables() from error
        except (TypeRefused, KeyRefused) as error:
            raise GivenUp({copy.tracked.node: error}, {}) from error
        self._tracked[copy.tracked.node] = copy.tracked
        return record.finish_receipt(copy.receipt, loaded)

    def _open(self) -> Application:
        if self._application is None:
            follower = self.source.follower
            self._began = record.now()
            self._application = self._stack.enter_context(follower.open_application(self.source.load_id))
        return self._application

    def _close(self) -> None:
        self._application = None
        self._counts = {}
        self._stack.close()

    def _receipts(self, upto: Position, committed_at: int) -> list[Receipt]:
        receipts = []
        for node, counts in self._counts.items():
            tracked = self._tracked[node]
            receipt = record.start_receipt(
                self.source.load_id,
                "cdc",
                node,
                origin=tracked.wanted.source.origin,
                destination=self.source.ends.destination.name,
                table_name=str(tracked.replica.table.name),
                write_disposition="append" if tracked.replica.change_log else "merge",
                checkpoint_from=str(max(self.standing.position, tracked.position)),
                checkpoint_to=str(upto),
                without=tracked.without or None,
            )
            receipts.append(
                _with_lag(record.finish_receipt(replace(receipt, started_at=self._began), counts), committed_at)
            )
        return receipts


def _give_up(refused: NotApplied) -> GivenUp:
    lost = isinstance(refused.error, CannotReshape)
    failed = {} if lost else {refused.node: refused.error}
    return GivenUp(failed, {refused.node: refused.error.what} if lost else {})


def _with_lag(receipt: Receipt, committed_at: int) -> Receipt:
    if not committed_at:
        return receipt
    last = datetime.fromtimestamp(committed_at / 1e6, UTC)
    return replace(receipt, last_commit_at=last, lag_seconds=(receipt.finished_at - last).total_seconds())


def _reshape(tracked: Tracked, event: Reshaped) -> Tracked:
    table = tracked.replica.table
    key = tuple(event.renamed.get(column, column) for column in table.key)
    landing = Table(table.name, tuple(event.columns), key)
    return replace(tracked, replica=replace(tracked.replica, table=landing))
