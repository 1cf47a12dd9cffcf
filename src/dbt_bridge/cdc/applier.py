"""Chunks of changes become visible: applied, committed with their checkpoints and receipts, then acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dbt_bridge.cdc.census import Tracked
from dbt_bridge.cdc.snapshot_copy import Copied
from dbt_bridge.connectors.postgres.changes.feed import Chunk
from dbt_bridge.contracts.destination import (
    Application,
    CannotReshape,
    Checkpoint,
    Follows,
    Loaded,
    NotApplied,
)
from dbt_bridge.errors import BridgeError, KeyRefused, TypeRefused
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.changes import Reshaped
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Table
from dbt_bridge.observe.progress import Progress
from dbt_bridge.sync.landing import Ends

_NOTHING = Loaded(0, 0, 0, 0, 0)


class GivenUp(Exception):
    """Tables cannot go on; what was not committed is undone, and the others go on from there without them.

    Attributes:
        failed: table -> the error for which it is set aside.
        lost: table -> why it is copied anew.
    """

    def __init__(self, failed: Mapping[str, BridgeError], lost: Mapping[str, str]) -> None:
        super().__init__(", ".join([*failed, *lost]))
        self.failed = failed
        self.lost = lost


@dataclass(frozen=True, slots=True)
class Committed:
    """What became visible at once.

    Attributes:
        upto: where every followed table stands now.
        since: and where before.
        changes: per table that changed.
        behind: bytes of log that the origin has sent beyond `upto`.
    """

    upto: int
    committed_at: int
    changes: Mapping[str, int]
    receipts: tuple[Receipt, ...]
    transactions: int
    behind: int = 0
    since: int = 0


@dataclass(slots=True)
class Applier:
    """Applies the chunks of one source, in order, to one destination.

    Args:
        slot: `system identifier/slot`, for checkpoints.
        tracked: table -> how it is followed; those that were given up are taken out.
        acknowledge: tells the origin that everything below an LSN is durable here.
        copies: to be joined at the first commit that reaches their position.
    """

    ends: Ends
    load_id: str
    slot: str
    tracked: dict[str, Tracked]
    progress: Progress
    copies: list[Copied] = field(default_factory=list)
    position: int = 0
    acknowledge: Callable[[int], None] = lambda _: None
    _stack: ExitStack = field(default_factory=ExitStack)
    _application: Application | None = None
    _counts: dict[str, Loaded] = field(default_factory=dict)
    _began: datetime = field(default_factory=record.now)
    _transactions: int = 0
    _committed: dict[str, Tracked] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._committed = dict(self.tracked)

    @property
    def is_inside(self) -> bool:
        """A transaction of the origin has begun here and not ended."""
        return self._application is not None

    def take(self, chunk: Chunk) -> Committed | None:
        """Apply a chunk; commits where it ends outside of a transaction.

        Raises:
            GivenUp: one table cannot go on; begin again from `position` without it.
            BridgeError: the destination refused for all of them; nothing of the chunk is visible.
        """
        try:
            for node, event in chunk.gathered.events:
                if node in self.tracked:
                    self._apply(node, event)
            for node, followed in chunk.gathered.tables.items():
                if (tracked := self.tracked.get(node)) is not None:
                    at = tracked.followed.position
                    self.tracked[node] = replace(tracked, followed=replace(followed, position=at))
            self._transactions += chunk.transactions
            if chunk.upto is None:
                return None
            done = self.commit(chunk.upto, chunk.committed_at)
            return replace(done, behind=max(0, chunk.sent - chunk.upto))
        except BaseException:
            self.undo()
            raise

    def commit(self, upto: int, committed_at: int = 0) -> Committed:
        """Join the copies that stand at `upto`, save every table's checkpoint, append the receipts, acknowledge."""
        application = self._open()
        due = [copy for copy in self.copies if copy.tracked.followed.position <= upto]
        joined = [self._join(application, copy) for copy in due]
        changed = {node: counts.rows_loaded for node, counts in self._counts.items()}
        receipts = [*joined, *self._receipts(upto, committed_at)]
        self.tracked = {node: tracked.at(upto) for node, tracked in self.tracked.items()}
        checkpoints = [tracked.checkpoint(self.slot) for tracked in self.tracked.values()]
        try:
            if self.ends.destination is self.ends.ledger:
                application.commit(upto, checkpoints, receipts)
            else:
                application.commit(upto)
        except NotApplied as refused:
            lost = isinstance(refused.error, CannotReshape)
            failed = {} if lost else {refused.node: refused.error}
            raise GivenUp(failed, {refused.node: refused.error.what} if lost else {}) from refused
        if self.ends.destination is not self.ends.ledger:
            self.ends.ledger.save(checkpoints, receipts)
        self._close()
        self._committed = dict(self.tracked)
        self.copies = [copy for copy in self.copies if copy not in due]
        before, self.position = self.position, upto
        self.acknowledge(upto)
        for receipt in receipts:
            self.progress.finished(receipt)
        done = Committed(upto, committed_at, changed, tuple(receipts), self._transactions, since=before)
        self._transactions = 0
        return done

    def undo(self) -> None:
        """Nothing since the last commit stays."""
        self._close()
        self.tracked = dict(self._committed)
        self._transactions = 0

    def set_aside(self, given_up: Mapping[str, str]) -> list[Checkpoint]:
        """Follow these tables no more; the checkpoints say why. Their landing tables stay as they last were."""
        points = []
        unjoined = {copy.tracked.node: copy.tracked for copy in self.copies}
        for node, why in given_up.items():
            tracked = self.tracked.pop(node, None) or unjoined.get(node)
            if tracked is not None:
                points.append(replace(tracked.checkpoint(self.slot), set_aside=why))
        self.copies = [copy for copy in self.copies if copy.tracked.node not in given_up]
        self._committed = dict(self.tracked)
        return points

    def _apply(self, node: str, event: object) -> None:
        tracked = self.tracked[node]
        try:
            loaded = self._open().apply(tracked.replica, event)  # type: ignore[arg-type]
        except CannotReshape as error:
            raise GivenUp({}, {node: error.what}) from error
        except (TypeRefused, KeyRefused) as error:
            raise GivenUp({node: error}, {}) from error
        self._counts[node] = self._counts.get(node, _NOTHING) + loaded
        self.progress.advanced(node, loaded.rows_loaded, loaded.bytes)
        if isinstance(event, Reshaped):
            self.tracked[node] = _reshaped(tracked, event)

    def _join(self, application: Application, copy: Copied) -> Receipt:
        try:
            loaded = application.join(copy.tracked.replica, copy.rows, copy.copied_at)
        except (TypeRefused, KeyRefused) as error:
            raise GivenUp({copy.tracked.node: error}, {}) from error
        self.tracked[copy.tracked.node] = copy.tracked
        return record.closed(copy.receipt, loaded)

    def _open(self) -> Application:
        if self._application is None:
            assert isinstance(self.ends.destination, Follows), "checked before anything moved"
            self._began = record.now()
            self._application = self._stack.enter_context(self.ends.destination.applying(self.load_id))
        return self._application

    def _close(self) -> None:
        self._application = None
        self._counts = {}
        self._stack.close()

    def _receipts(self, upto: int, committed_at: int) -> list[Receipt]:
        receipts = []
        for node, counts in self._counts.items():
            tracked = self.tracked[node]
            receipt = record.opened(
                self.load_id,
                "cdc",
                node,
                origin=tracked.wanted.source.origin,
                destination=self.ends.destination.name,
                table_name=str(tracked.replica.table.name),
                write_disposition="append" if tracked.replica.change_log else "merge",
                checkpoint_from=lsn.spelled(max(self.position, tracked.followed.position)),
                checkpoint_to=lsn.spelled(upto),
            )
            receipts.append(_with_lag(record.closed(replace(receipt, started_at=self._began), counts), committed_at))
        return receipts


def _with_lag(receipt: Receipt, committed_at: int) -> Receipt:
    if not committed_at:
        return receipt
    last = datetime.fromtimestamp(committed_at / 1e6, UTC)
    return replace(receipt, last_commit_at=last, lag_seconds=(receipt.finished_at - last).total_seconds())


def _reshaped(tracked: Tracked, event: Reshaped) -> Tracked:
    table = tracked.replica.table
    key = tuple(event.renamed.get(column, column) for column in table.key)
    landing = Table(table.name, tuple(event.columns), key)
    return replace(tracked, replica=replace(tracked.replica, table=landing))
