"""repair: the keys of a table that verify found to differ are copied again, in the state in which they were compared.

While a comparison's two sides still stand, the rows of these keys are read from the origin and applied to the landing
table as changes, in one transaction with the receipt where the destination has one. Then the same keys are compared
again. Nothing else of the table is touched, and nothing at all where more differs than a repair may touch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pyarrow as pa

from dbt_bridge.contracts.capabilities import HasClock
from dbt_bridge.contracts.destination import (
    Follows,
    Ledger,
    Load,
    Loaded,
    NotApplied,
    Readable,
    Warehouse,
)
from dbt_bridge.contracts.side import Side
from dbt_bridge.deliver.gate import refusal
from dbt_bridge.errors import BridgeError, DestinationError, KeyRefused
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.parity import Interrupted, Parity
from dbt_bridge.nouns.project import Delivery, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.destinations import open_destination
from dbt_bridge.prove import repair_changes
from dbt_bridge.prove.recorder import Question, VerifyOptions, fail_parity
from dbt_bridge.prove.repair_changes import RepairPlan
from dbt_bridge.prove.sides import landed_side
from dbt_bridge.prove.verify import verify
from dbt_bridge.sync.landing import Ends
from dbt_bridge.verify.compare import compare

MOST_SHARE = 0.01
_FEW = 100  # rows that may be touched in any table, however small


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How a repair goes.

    Attributes:
        max_share: of a table's rows that may be touched; None for one in a hundred, or a hundred rows.
        dry_run: tell what would be done, and touch nothing.
        threads: as for `sync`; None for the dbt profile's number.
    """

    max_share: float | None = None
    dry_run: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was compared, with what differed before in `before`, and what was done.

    Attributes:
        parities: of every table that was selected: as it is now.
        before: node -> as it was, where it differed.
    """

    parities: tuple[Parity, ...]
    before: dict[str, Parity]
    receipts: tuple[Receipt, ...]
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Everything is equal now; or could be made so, in a dry run."""
        done = {receipt.node for receipt in self.receipts if receipt.status == "success"}
        return all(p.is_equal or (self.dry_run and p.node in done) for p in self.parities)

    @property
    def errors(self) -> list[tuple[str, str]]:
        """(table, why it could not be compared or repaired)."""
        told: list[tuple[str, str | None]] = [(parity.destination, parity.error) for parity in self.parities]
        told += [(receipt.table_name, receipt.error) for receipt in self.receipts if receipt.status == "failed"]
        return [(table, error) for table, error in told if error]


def repair(
    project: Project,
    options: RepairOptions,
    progress: Progress,
    statuses: Mapping[str, str] = MappingProxyType({}),
) -> Repaired:
    """Compare what the selection needs, and set right what differs.

    Args:
        statuses: dbt's status per unique_id of the last run: nothing is delivered on what did not pass, not even again.

    Raises:
        UsageError: an origin or a destination is not configured.
    """
    work = _Work(project, options, progress, statuses)
    try:
        parities = verify(project, VerifyOptions(level="rows", threads=options.threads), progress, work.mend)
    except Interrupted as interrupted:
        raise Interrupted(interrupted.parities, work.receipts) from interrupted
    return Repaired(tuple(parities), work.before, tuple(work.receipts), options.dry_run)


@dataclass(slots=True)
class _Work:
    project: Project
    options: RepairOptions
    progress: Progress
    statuses: Mapping[str, str]
    receipts: list[Receipt] = field(default_factory=list)
    before: dict[str, Parity] = field(default_factory=dict)

    def mend(self, pair: Question, parity: Parity) -> Parity:
        """See `comparing.Then`: what was not repaired stays different, and its receipt says why."""
        if parity.status != "different":
            return parity
        self.before[parity.node] = parity
        receipt = _opened(pair, parity)
        try:
            if parity.keys is None or not len(parity.keys):
                raise KeyRefused(
                    f"{parity.destination} differs, but not in rows that could be named", mend="dbt-bridge verify"
                )
            assert pair.replica is not None, "whatever is verified has one"
            found = repair_changes.plan_repair(pair.replica, parity.keys, pair.request.key)
            self._refuse_unable(pair, parity, found)
            _refuse_much(parity, found, self.options.max_share)
            if self.options.dry_run:
                self._ended(_told_only(receipt, found))
                return parity
            return (self._landed if pair.wanted else self._delivered)(pair, parity, found, receipt)
        except BridgeError as error:
            self._ended(record.failed(receipt, error), None if self.options.dry_run else _ledger(pair))
            return parity

    def _refuse_unable(self, pair: Question, parity: Parity, found: RepairPlan) -> None:
        """Raises DestinationError, KeyRefused: rows of this table cannot be repaired one by one."""
        if pair.ends is not None:
            there = pair.ends.destination
            if not isinstance(there, Follows) or not isinstance(there, Readable):
                raise DestinationError(
                    f"the destination {there.name!r} takes no single rows away, so nothing was repaired",
                    mend=f"dbt-bridge sync --full-refresh --select {format_shell_selector(parity.node)}",
                )
            return
        item = self._delivery(parity)
        if item.write_disposition != "merge" or len(found.extra):
            raise KeyRefused(
                f"{parity.destination} is delivered whole ({item.write_disposition}), not by its keys",
                mend=f"dbt-bridge deliver --select exposure:{item.name}",
            )
        if why := refusal(item, self.statuses):
            mend = f"dbt-bridge build --select +exposure:{item.name}"
            raise DestinationError(f"{parity.destination} is not repaired from its model: {why}", mend=mend)
        if required := {r.node for r in self.project.reconciliations if r.required} & item.ancestors:
            raise DestinationError(
                f"{parity.destination} comes from {', '.join(sorted(required))}, which is required to reconcile first",
                mend=f"dbt-bridge deliver --select exposure:{item.name}",
            )

    def _delivery(self, parity: Parity) -> Delivery:
        return next(item for item in self.project.deliveries if item.node == parity.node)

    def _ended(self, receipt: Receipt, ledger: Ledger | None = None) -> None:
        """Tell it, and keep it where it is not kept yet."""
        if ledger is not None:
            ledger.record([receipt])
        self.receipts.append(receipt)
        self.progress.finished(receipt)

    def _landed(self, pair: Question, parity: Parity, found: RepairPlan, receipt: Receipt) -> Parity:
        ends, replica = pair.ends, pair.replica
        assert ends is not None and replica is not None, "of a landing table"
        assert isinstance(ends.destination, Follows) and isinstance(ends.destination, Readable), "asked before"
        written = replica
        if replica.change_log:  # which is folded by a key to be compared, and has none as it is written
            written = replace(replica, table=replace(replica.table, key=()))
        ledger: object = ends.ledger
        at_once = ends.destination is ledger
        with ends.destination.open_application(parity.load_id) as application:
            counts = Loaded(0, 0, 0, 0, 0)
            overwrites = isinstance(ends.destination, Warehouse)
            for change in repair_changes.stream_changes(
                replica, found, pair.origin, _moment(pair, ends), overwrites=overwrites
            ):
                counts += application.apply(written, change)
            _refuse_moved(pair, ends)  # the table is locked by now, where others could write to it
            done = record.closed(receipt, counts)
            try:
                application.commit(pair.position.ordinal if pair.position else 0, (), [done] if at_once else [])
            except NotApplied as refused:
                raise refused.error from refused
        try:
            with ends.destination.open_state() as state:
                again = _again(pair, parity, landed_side(state, replica, parity.destination))
                now = _healed(parity, again, state.count(replica))
        except BridgeError as error:  # what was committed has a receipt all the same
            again, now = fail_parity(pair.blank, error), fail_parity(parity, error)
        except BaseException:  # also when the user interrupts
            self._ended(done, None if at_once else ends.ledger)
            raise
        done = _with_proven(done, found) if again.is_equal else done
        self._ended(done, None if at_once else ends.ledger)
        self._tell_unhealed(receipt, again, ends.ledger)
        return now

    def _delivered(self, pair: Question, parity: Parity, found: RepairPlan, receipt: Receipt) -> Parity:
        """Deliver these keys again; a merge takes no rows away, and none that are too much were told."""
        assert pair.replica is not None, "of a delivered table"
        item = self._delivery(parity)
        names = [column.name for column in pair.replica.table.columns]
        with closing(open_destination(item.destination, project_root=self.project.root)) as destination:
            load = Load(pair.replica.table, "merge", parity.load_id)
            keys = pa.concat_tables([found.missing, found.wrong, found.doubled])
            done = record.closed(receipt, destination.load(load, pair.origin.rows(names, keys)))
            self._ended(done, _ledger(pair))
            assert isinstance(destination, Readable), "it was compared"
            with destination.open_state() as state:
                again = _again(pair, parity, landed_side(state, pair.replica, parity.destination))
                now = _healed(parity, again, state.count(pair.replica))
        self._tell_unhealed(receipt, again, _ledger(pair))
        return now

    def _tell_unhealed(self, receipt: Receipt, again: Parity, ledger: Ledger | None) -> None:
        if not again.is_equal:
            why = again.error or f"{again.differences} rows still differ after they were repaired"
            mend = f"dbt-bridge sync --full-refresh --select {format_shell_selector(receipt.node)}"
            self._ended(record.failed(receipt, DestinationError(f"{again.destination}: {why}", mend=mend)), ledger)


# --- what is done ----------------------------------------------------------------------------------------------------


def _opened(pair: Question, parity: Parity) -> Receipt:
    at = None if pair.position is None else str(pair.position)
    return record.opened(
        parity.load_id,
        "repair",
        parity.node,
        origin=parity.origin.partition(":")[0],
        destination=parity.destination.partition(":")[0],
        table_name=str(pair.replica.table.name) if pair.replica else parity.destination,
        write_disposition="append" if pair.replica is not None and pair.replica.change_log else "merge",
        checkpoint_from=at,
        checkpoint_to=at,
    )


def _moment(pair: Question, ends: Ends) -> tuple[int, int]:
    """The ordinal (see `Position`) and the time of what a repair does.

    Commits are at least two apart: one below the position is none of theirs, and before all that is to come.
    """
    at = ends.origin.read_clock() if isinstance(ends.origin, HasClock) else repair_changes.now()
    return (0 if pair.position is None else pair.position.ordinal - 1), at


def _ledger(pair: Question) -> Ledger | None:
    return pair.ends.ledger if pair.ends else pair.ledger


def _refuse_much(parity: Parity, found: RepairPlan, share: float | None) -> None:
    """Raises KeyRefused: more differs than may be touched."""
    rows = (parity.rows_origin or 0) + found.counts[2]  # of both sides together
    most = max(_FEW, MOST_SHARE * rows) if share is None else share * rows
    if len(found) > most:
        percent = 100 * len(found) / max(rows, 1)
        needed, chosen = math.ceil(10 * percent) / 10, format_shell_selector(parity.node)
        raise KeyRefused(
            f"{len(found):,} of {rows:,} rows of {parity.destination} differ ({percent:.2f}%), and a repair may touch"
            f" {most:,.0f}: nothing was touched",
            mend=f"find out why; then dbt-bridge repair --select {chosen} --max-share {needed:g}%, or copy it anew:"
            f" dbt-bridge sync --full-refresh --select {chosen}",
        )


def _refuse_moved(pair: Question, ends: Ends) -> None:
    """Raises DestinationError: the table does not stand any more where it was compared."""
    stood = (
        str(pair.position) if pair.position is not None else pair.request.bound.at_most if pair.request.bound else None
    )
    if stood is None:
        return
    point = ends.ledger.checkpoint(pair.blank.node)
    if point is None or not point.stands or point.value != stood:
        raise DestinationError(
            f"{pair.blank.destination} was moved meanwhile from {stood} to"
            f" {point.value if point and point.stands else 'nowhere'} by another process: nothing was committed",
            mend="run the same command again",
        )


def _told_only(receipt: Receipt, found: RepairPlan) -> Receipt:
    told = record.closed(receipt, Loaded(len(found), *found.counts, 0))
    return replace(told, error="dry run: nothing was written")


def _with_proven(receipt: Receipt, found: RepairPlan) -> Receipt:
    """Counts that the destination cannot tell are what the second comparison has proven."""
    inserted, updated, deleted = found.counts
    return replace(
        receipt,
        rows_inserted=inserted if receipt.rows_inserted is None else receipt.rows_inserted,
        rows_updated=updated if receipt.rows_updated is None else receipt.rows_updated,
        rows_deleted=deleted if receipt.rows_deleted is None else receipt.rows_deleted,
    )


# --- and compared again ----------------------------------------------------------------------------------------------


class _Only:
    """A `Side` of nothing but the rows with some keys."""

    def __init__(self, side: Side, keys: pa.Table) -> None:
        self.name = side.name
        self.table = side.table
        self._side = side
        known = {column.name: column.type for column in side.table.columns}
        self._keys = keys.cast(pa.schema([(name, known[name]) for name in keys.column_names]))

    def count(self) -> int:
        return sum(batch.num_rows for batch in self._side.rows(self._keys.column_names, self._keys))

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        return self._side.rows(columns, self._keys if keys is None else keys)


def _again(pair: Question, parity: Parity, destination: Side) -> Parity:
    """The same keys, value by value."""
    assert parity.keys is not None, "they were repaired"
    keys = parity.keys.drop_columns([repair_changes.KIND, repair_changes.AT_ORIGIN, repair_changes.AT_DESTINATION])
    theirs = keys.rename_columns([pair.request.columns.get(name, name) for name in keys.column_names])
    asked = replace(pair.request, method="values", bound=None, extra="different", progress=lambda _: None)
    try:
        return replace(compare(pair.blank, _Only(pair.origin, keys), _Only(destination, theirs), asked), error=None)
    except BridgeError as error:
        return fail_parity(pair.blank, error)


def _healed(parity: Parity, again: Parity, rows: int) -> Parity:
    """The table's parity after it: all other rows were found equal before."""
    ended = record.now()
    return replace(
        parity,
        status=again.status,
        rows_destination=rows,
        only_in_origin=again.only_in_origin,
        only_in_destination=again.only_in_destination,
        different=again.different,
        duplicates=again.duplicates,
        columns=again.columns,
        examples=again.examples,
        keys=again.keys,
        error=again.error,
        finished_at=ended,
        duration_seconds=(ended - parity.started_at).total_seconds(),
    )
