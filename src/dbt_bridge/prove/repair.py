"""repair: the keys of a table that verify found to differ are copied again, in the state in which they were compared.

While a comparison's two sides still stand, the rows of these keys are read from the origin and applied to the landing
table as changes, in one transaction with the receipt where the destination has one. Then the same keys are compared
again. Nothing else of the table is touched, and nothing at all where more differs than a repair may touch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pyarrow as pa

from dbt_bridge.contracts.destination import (
    Destination,
    Ledger,
    Load,
    Loaded,
    NotApplied,
    Readable,
    Repairable,
    Warehouse,
)
from dbt_bridge.contracts.side import Side
from dbt_bridge.deliver.build_record import Known
from dbt_bridge.deliver.delivery import describe_outgoing
from dbt_bridge.deliver.gate import find_refusal, format_again, format_options
from dbt_bridge.deliver.ledger import doubt_sent
from dbt_bridge.deliver.tested_rows import find_change
from dbt_bridge.errors import BridgeError, DestinationError, KeyRefused
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.checkpoint import BEGINNING, HistoryClock
from dbt_bridge.nouns.parity import Interrupted, Parity
from dbt_bridge.nouns.project import Delivery, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.destinations import open_destination
from dbt_bridge.prove import repair_changes
from dbt_bridge.prove.recorder import Question, VerifyOptions, fail_parity
from dbt_bridge.prove.repair_changes import RepairPlan, take_stamp
from dbt_bridge.prove.sides import make_landing_side
from dbt_bridge.prove.verify import verify
from dbt_bridge.replicate.loads import with_room
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.same_origin import adopt_proven
from dbt_bridge.system.owned_reader import owning
from dbt_bridge.verify.compare import compare, finish_parity

MOST_SHARE = 0.01
_FEW = 100  # rows that may be touched in any table, however small


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """How a repair goes.

    Attributes:
        max_share: of a table's rows that may be touched; None for one in a hundred, or a hundred rows.
        dry_run: report what would be done, and touch nothing.
        threads: as for `sync`; None for the dbt profile's number.
    """

    max_share: float | None = None
    dry_run: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was compared, and what was done.

    Attributes:
        parities: every selected table as it is now.
        before: node -> the table's parity before the repair, where it differed.
    """

    parities: tuple[Parity, ...]
    before: dict[str, Parity]
    receipts: tuple[Receipt, ...]
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Everything is equal now; in a dry run also what could be made equal."""
        done = {receipt.node for receipt in self.receipts if receipt.status == "success"}
        return all(p.is_equal or (self.dry_run and p.node in done) for p in self.parities)

    @property
    def errors(self) -> list[tuple[str, str]]:
        """(table, why it could not be compared or repaired)."""
        errors: list[tuple[str, str | None]] = [(parity.destination, parity.error) for parity in self.parities]
        errors += [(receipt.table_name, receipt.error) for receipt in self.receipts if receipt.status == "failed"]
        return [(table, error) for table, error in errors if error]


def repair(
    project: Project,
    options: RepairOptions,
    progress: Progress,
    known: Known = MappingProxyType({}),
) -> Repaired:
    """Compare what the selection needs, and set right what differs.

    Args:
        known: the last build of each node: what did not pass is not delivered, not even again.

    Raises:
        UsageError: an origin or a destination is not configured.
    """
    run = _RepairRun(project, options, progress, known)
    try:
        parities = verify(project, VerifyOptions(level="rows", threads=options.threads), progress, run.repair)
    except Interrupted as interrupted:
        raise Interrupted(interrupted.parities, run.receipts) from interrupted
    return Repaired(tuple(parities), run.before, tuple(run.receipts), options.dry_run)


@dataclass(slots=True)
class _RepairRun:
    """One run of `repair`: what follows each comparison, and what came of it."""

    project: Project
    options: RepairOptions
    progress: Progress
    known: Known
    receipts: list[Receipt] = field(default_factory=list)
    before: dict[str, Parity] = field(default_factory=dict)

    def repair(self, question: Question, parity: Parity) -> Parity:
        """See `recorder.FollowUp`: what was not repaired stays different, and its receipt says why."""
        if parity.status != "different":
            self._adopt_equal(question, parity)
            return parity
        self.before[parity.node] = parity
        receipt = _start_receipt(question, parity)
        try:
            if parity.keys is None or not len(parity.keys):
                raise KeyRefused(
                    f"{parity.destination} differs, but not in rows that could be named", mend="dbt-bridge verify"
                )
            plan = repair_changes.plan_repair(question.replica, parity.keys, question.request.key)
            if question.ends is None:
                self._refuse_delivery(parity, plan, question.ledger)
            else:
                _require_repairable(question.ends.destination, parity)
            _refuse_large(parity, plan, self.options.max_share)
            if self.options.dry_run:
                self._finish(_finish_dry_run(receipt, plan))
                return parity
            if question.ends is None:
                return self._repair_delivery(question, parity, plan, receipt)
            return self._repair_landing(question, parity, plan, receipt)
        except BridgeError as error:
            self._finish(record.fail_receipt(receipt, error), None if self.options.dry_run else question.ledger)
            return parity

    def _refuse_delivery(self, parity: Parity, plan: RepairPlan, warehouse: Ledger) -> None:
        """Raises DestinationError, KeyRefused: a delivered table that is not repaired row by row, or not now."""
        item = self._find_delivery(parity)
        if item.write_disposition != "merge" or len(plan.extra):
            raise KeyRefused(
                f"{parity.destination} is delivered whole ({item.write_disposition}), not by its keys",
                mend=f"dbt-bridge deliver --select exposure:{item.name}",
            )
        options = format_options(self.project)
        known = self.known
        if why := find_refusal(item, known, options=options) or find_change(item, known, warehouse, options):
            again = format_again(item, options)
            raise DestinationError(
                f"{parity.destination} is not repaired from its model: {why.removesuffix(again)}",
                mend=again.removeprefix(": "),
            )
        if required := {r.node for r in self.project.reconciliations if r.required} & item.ancestors:
            raise DestinationError(
                f"{parity.destination} comes from {', '.join(sorted(required))}, which is required to reconcile first",
                mend=f"dbt-bridge deliver --select exposure:{item.name}",
            )

    def _find_delivery(self, parity: Parity) -> Delivery:
        return next(item for item in self.project.deliveries if item.node == parity.node)

    def _repair_landing(self, question: Question, parity: Parity, plan: RepairPlan, receipt: Receipt) -> Parity:
        """Apply the changes in one transaction with the receipt, where the destination has them; compare again."""
        ends, replica = question.ends, question.replica
        assert ends is not None, "a landing table has them"
        destination = _require_repairable(ends.destination, parity)
        done = with_room(lambda: _apply(question, ends, parity, plan, receipt))
        ledger = None if _keeps_receipts(ends) else ends.ledger  # None: the receipt was committed with the changes
        try:
            with destination.open_state() as state:
                again = _compare_again(question, parity, make_landing_side(state, replica, parity.destination))
                repaired = _update_parity(parity, again, state.count(replica))
        except BridgeError as error:  # what was committed has a receipt all the same
            again, repaired = fail_parity(question.blank, error), fail_parity(parity, error)
        except BaseException:  # also when the user interrupts
            self._finish(done, ledger)
            raise
        self._finish(_with_proven_counts(done, plan) if again.is_equal else done, ledger)
        self._report_unrepaired(receipt, again, ends.ledger)
        self._adopt_equal(question, repaired)
        return repaired

    def _adopt_equal(self, question: Question, parity: Parity) -> None:
        """A checkpoint of another origin, or beyond what this one has now, is this one's where all rows are equal."""
        if parity.is_equal and question.ends is not None and not self.options.dry_run:
            adopt_proven(question.ends, parity.node, question.sides.origin.table.name)

    def _repair_delivery(self, question: Question, parity: Parity, plan: RepairPlan, receipt: Receipt) -> Parity:
        """Deliver these keys again. A merge takes no rows away: `_refuse_delivery` lets no plan pass that does."""
        replica = question.replica
        names = [column.name for column in replica.table.columns]
        item = self._find_delivery(parity)
        with closing(open_destination(item.destination, project_root=self.project.root)) as destination:
            load = Load(replica.table, "merge", parity.load_id, delivery=describe_outgoing(item))
            keys = pa.concat_tables([plan.missing, plan.wrong, plan.doubled])
            doubt_sent(question.ledger, item, parity.load_id)

            def send() -> Loaded:
                with owning(question.sides.origin.rows(names, keys)) as rows:
                    return destination.load(load, rows)

            loaded = with_room(send)
            self._finish(record.finish_receipt(receipt, loaded), question.ledger)
            with _require_readable(destination).open_state() as state:
                again = _compare_again(question, parity, make_landing_side(state, replica, parity.destination))
                repaired = _update_parity(parity, again, state.count(replica))
        self._report_unrepaired(receipt, again, question.ledger)
        return repaired

    def _report_unrepaired(self, receipt: Receipt, again: Parity, ledger: Ledger) -> None:
        """A second, failed receipt where the same keys still differ."""
        if not again.is_equal:
            why = again.error or f"{again.differences} rows still differ after they were repaired"
            chosen = format_shell_selector(receipt.node)
            is_delivery = receipt.node.startswith("exposure.")
            mend = f"dbt-bridge {'deliver' if is_delivery else 'sync --full-refresh'} --select {chosen}"
            self._finish(
                record.fail_receipt(receipt, DestinationError(f"{again.destination}: {why}", mend=mend)), ledger
            )

    def _finish(self, receipt: Receipt, ledger: Ledger | None = None) -> None:
        """Report a receipt.

        Args:
            ledger: where it is written first; None where it is written already, or not to be.
        """
        if ledger is not None:
            ledger.record([receipt])
        self.receipts.append(receipt)
        self.progress.finished(receipt)


# --- what is refused -------------------------------------------------------------------------------------------------


def _require_repairable(destination: Destination, parity: Parity) -> Repairable:
    """Raises DestinationError: rows of this destination cannot be repaired one by one."""
    if not isinstance(destination, Repairable):
        raise DestinationError(
            f"the destination {destination.name!r} takes no single rows away, so nothing was repaired",
            mend=f"dbt-bridge sync --full-refresh --select {format_shell_selector(parity.node)}",
        )
    return destination


def _require_readable(destination: Destination) -> Readable:
    """Raises DestinationError: what was delivered cannot be compared again."""
    if not isinstance(destination, Readable):
        raise DestinationError(f"the destination {destination.name!r} cannot be read back")
    return destination


def _refuse_large(parity: Parity, plan: RepairPlan, share: float | None) -> None:
    """Raises KeyRefused: more rows differ than may be touched."""
    counts = plan.counts
    rows = (parity.rows_origin or 0) + counts.deleted  # of both sides together
    most = max(_FEW, MOST_SHARE * rows) if share is None else share * rows
    if counts.total > most:
        percent = 100 * counts.total / max(rows, 1)
        needed, chosen = math.ceil(10 * percent) / 10, format_shell_selector(parity.node)
        raise KeyRefused(
            f"{counts.total:,} of {rows:,} rows of {parity.destination} differ ({percent:.2f}%), and a repair may touch"
            f" {most:,.0f}: nothing was touched",
            mend=f"find out why; then dbt-bridge repair --select {chosen} --max-share {needed:g}%, or copy it anew:"
            f" dbt-bridge sync --full-refresh --select {chosen}",
        )


def _refuse_moved(question: Question, ends: Ends) -> None:
    """Raises DestinationError: the table does not stand any more where it was compared."""
    bound = question.request.bound
    stood = str(question.position) if question.position is not None else bound.at_most if bound else None
    if stood is None:
        return
    point = ends.ledger.checkpoint(question.blank.node)
    if point is None or not point.stands or point.value != stood:
        raise DestinationError(
            f"{question.blank.destination} was moved meanwhile from {stood} to"
            f" {point.value if point and point.stands else 'nowhere'} by another process: nothing was committed",
            mend="run the same command again",
        )


# --- what is written -------------------------------------------------------------------------------------------------


def _start_receipt(question: Question, parity: Parity) -> Receipt:
    at = None if question.position is None else str(question.position)
    return record.start_receipt(
        parity.load_id,
        "repair",
        parity.node,
        origin=parity.origin.partition(":")[0],
        destination=parity.destination.partition(":")[0],
        table_name=str(question.replica.table.name),
        write_disposition="append" if question.replica.change_log else "merge",
        checkpoint_from=at,
        checkpoint_to=at,
    )


def _apply(question: Question, ends: Ends, parity: Parity, plan: RepairPlan, receipt: Receipt) -> Receipt:
    """Apply the changes of a landing table and commit them; returns the finished receipt."""
    destination = _require_repairable(ends.destination, parity)
    replica = question.replica
    written = replica
    if replica.change_log:  # it is folded by a key to be compared, and has none as it is written
        written = replace(replica, table=replace(replica.table, key=()))
    overwrites = isinstance(ends.destination, Warehouse)
    with destination.open_application(parity.load_id) as application:
        counts = Loaded(0, 0, 0, 0, 0)
        origin, stamp = question.sides.origin, take_stamp(question.position, ends.origin, _find_clock(question, ends))
        for change in repair_changes.stream_changes(replica, plan, origin, stamp, overwrites=overwrites):
            counts += application.apply(written, change)
        _refuse_moved(question, ends)  # where others could write to the table, it is locked by now
        done = record.finish_receipt(receipt, counts)
        ordinal = question.position.ordinal if question.position else 0
        try:
            application.commit(ordinal, (), [done] if _keeps_receipts(ends) else [])
        except NotApplied as refused:
            raise refused.error from refused
    return done


def _find_clock(question: Question, ends: Ends) -> HistoryClock:
    """That the history beside a landing table has come to."""
    point = ends.ledger.checkpoint(question.blank.node) if question.replica.history else None
    return point.memory.clock if point is not None and point.memory is not None else BEGINNING


def _keeps_receipts(ends: Ends) -> bool:
    """Whether changes are written where receipts are kept, so that both are committed at once."""
    ledger: object = ends.ledger
    return ends.destination is ledger


def _finish_dry_run(receipt: Receipt, plan: RepairPlan) -> Receipt:
    counts = plan.counts
    loaded = Loaded(counts.total, counts.inserted, counts.updated, counts.deleted, 0)
    return record.finish_dry_run(receipt, loaded)


def _with_proven_counts(receipt: Receipt, plan: RepairPlan) -> Receipt:
    """Counts that the destination cannot tell are what the second comparison has proven."""
    counts = plan.counts
    return replace(
        receipt,
        rows_inserted=counts.inserted if receipt.rows_inserted is None else receipt.rows_inserted,
        rows_updated=counts.updated if receipt.rows_updated is None else receipt.rows_updated,
        rows_deleted=counts.deleted if receipt.rows_deleted is None else receipt.rows_deleted,
    )


# --- and compared again ----------------------------------------------------------------------------------------------


class _RowsOfKeys:
    """A `Side` of nothing but the rows with some keys."""

    def __init__(self, side: Side, keys: pa.Table) -> None:
        self.name = side.name
        self.table = side.table
        self._side = side
        known = {column.name: column.type for column in side.table.columns}
        self._keys = keys.cast(pa.schema([(name, known[name]) for name in keys.column_names]))

    def count(self) -> int:
        with owning(self._side.rows(self._keys.column_names, self._keys)) as rows:
            return sum(batch.num_rows for batch in rows)

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        return self._side.rows(columns, self._keys if keys is None else keys)


def _compare_again(question: Question, parity: Parity, destination: Side) -> Parity:
    """The same keys, value by value."""
    assert parity.keys is not None, "they were repaired"
    request = replace(question.request, method="values", bound=None, extra="different", progress=lambda _: None)
    keys = repair_changes.keys_alone(parity.keys)
    landed_keys = keys.rename_columns([request.columns.get(name, name) for name in keys.column_names])
    sides = _RowsOfKeys(question.sides.origin, keys), _RowsOfKeys(destination, landed_keys)
    try:
        return replace(compare(question.blank, *sides, request), error=None)
    except BridgeError as error:
        return fail_parity(question.blank, error)


def _update_parity(parity: Parity, again: Parity, rows: int) -> Parity:
    """The table's parity after a repair: all other rows were found equal before.

    Args:
        again: the comparison of the repaired keys.
        rows: how many the destination has now.
    """
    return finish_parity(
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
    )
