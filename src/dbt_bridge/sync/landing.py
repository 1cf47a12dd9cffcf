"""The tables of one origin land: described, staged side by side from one snapshot, published together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches

from dbt_bridge.arrow.mask import mask_batches
from dbt_bridge.contracts.capabilities import HoldsTables, Tells
from dbt_bridge.contracts.destination import (
    BeginAgain,
    Load,
    Loaded,
    Staged,
    Warehouse,
    Window,
)
from dbt_bridge.contracts.origin import Described, Increment
from dbt_bridge.errors import BridgeError, KeyRefused, UsageError, as_bridge_error, is_interruption
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.observe.watched_reader import report_batches
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.future_cursor import has_zone, hold_back, hold_back_to_clock
from dbt_bridge.sync.landing_columns import landing_columns
from dbt_bridge.sync.raw_copy import TableCopy, stage_raw_copy
from dbt_bridge.sync.remembered import NOTHING, Remembered
from dbt_bridge.sync.same_origin import SeenOrigin, refuse_other_origin
from dbt_bridge.sync.unfit import fit, land_as_text, may_be_text
from dbt_bridge.sync.wanted import Wanted
from dbt_bridge.system.owned_reader import owning

_RANGES_FROM_BYTES = 256 << 20
"""Tables from this size on are read in parallel ranges; below it the ranges cost more than they give."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one table lands: its name and columns at the origin, the load, and the increment that it reads."""

    wanted: Wanted
    name: TableName
    columns: tuple[Column, ...]
    load: Load
    increment: Increment | None
    checkpoint: Checkpoint | None
    workers: int
    receipt: Receipt
    remembered: Remembered = NOTHING


@dataclass(frozen=True, slots=True)
class Arrived:
    """A table whose rows are at the destination: staged, or (without transactions there) already visible."""

    plan: Plan
    staged: Staged | None = None
    loaded: Loaded | None = None


def land(
    ends: Ends, wanted: Sequence[Wanted], progress: Progress, *, full_refresh: bool, threads: int
) -> list[Receipt]:
    """Land tables of one origin. A table that fails keeps its old rows and has a failed receipt; the others go on.

    Where the destination has transactions, all tables that arrived, their checkpoints and their receipts become
    visible in one of them.
    """
    failures: list[Receipt] = []
    arrived: list[Arrived] = []
    jobs: list[Future[Arrived | Receipt]] = []
    pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="dbt-bridge-land")
    try:
        jobs += [pool.submit(arrive, ends, item, progress, full_refresh) for item in wanted]
        for job in jobs:
            done = job.result()
            if isinstance(done, Arrived):
                arrived.append(done)
            else:
                failures.append(done)
        successes = _publish(ends, arrived)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        ends.origin.close()  # breaks off what still reads, so that the threads end
        pool.shutdown(wait=True)
        raise
    finally:
        pool.shutdown(wait=True)
        _discard(ends, [done for done in _results(jobs) if isinstance(done, Arrived)])
    ends.ledger.record([*failures, *(r for r in successes if r.status == "failed")])
    receipts = {receipt.node: receipt for receipt in [*failures, *successes]}
    for receipt in receipts.values():
        progress.finished(receipt)
    return [receipts[item.table.node] for item in wanted]


def _results(jobs: Iterable[Future[Arrived | Receipt]]) -> list[Arrived | Receipt]:
    """What the jobs brought, also those that nobody waited for because of an interruption."""
    return [job.result() for job in jobs if job.done() and not job.cancelled() and job.exception() is None]


def arrive(ends: Ends, wanted: Wanted, progress: Progress, full_refresh: bool) -> Arrived | Receipt:
    """Bring one table's rows to the destination; a failed receipt when that cannot be done.

    Where its declaration lets a column land as text that a value does not fit, it begins again with that: `plan.wanted`
    of the answer tells.
    """
    done, refused = _try_arrive(ends, wanted, progress, full_refresh)
    while refused is not None:
        progress.message(f"{wanted.relation}: column {refused!r} lands as text, as a value has no other exact form")
        wanted = land_as_text(wanted, refused)
        done, refused = _try_arrive(ends, wanted, progress, full_refresh=True)
    if isinstance(done, Arrived) and isinstance(ends.origin, HoldsTables):
        ends.origin.let_go(done.plan.name)
    return done


def _try_arrive(
    ends: Ends, wanted: Wanted, progress: Progress, full_refresh: bool
) -> tuple[Arrived | Receipt, str | None]:
    """What came of it, and the column that was refused and may land as text."""
    try:
        return _arrive_once(ends, wanted, progress, full_refresh), None
    except _Failed as failed:
        return record.fail_receipt(failed.receipt, failed.error), may_be_text(wanted, failed.error)


class _Failed(Exception):
    """A table that did not arrive, and why."""

    def __init__(self, receipt: Receipt, error: BridgeError) -> None:
        super().__init__(str(error))
        self.receipt = receipt
        self.error = error


def _arrive_once(ends: Ends, wanted: Wanted, progress: Progress, full_refresh: bool) -> Arrived:
    """Raises _Failed."""
    receipt = replace(wanted.receipt, destination=ends.destination.name)
    try:
        fitted = fit(ends, wanted, anew=full_refresh)
        ends, wanted, found = replace(ends, origin=fitted.origin), fitted.wanted, fitted.found
        plan = _plan_load(ends, wanted, found, full_refresh)
        receipt = plan.receipt
        # The catalog's estimate is of the whole table: it says nothing of an increment.
        is_whole = plan.increment is None or plan.increment.at_least is None
        estimate = found.rows if is_whole else None
        progress.started(wanted.table.node, str(wanted.relation), estimate)
        if not _masks(plan):  # what is not decoded cannot be masked
            copy = TableCopy(wanted.table.node, plan.name, plan.load, plan.increment, plan.workers)
            raw = stage_raw_copy(ends.origin, ends.destination, copy, progress)
            if raw is not None:
                return Arrived(plan, staged=raw)
        while True:
            try:
                return _carry(ends, plan, progress)
            except BeginAgain:
                continue
            finally:
                for line in ends.destination.take_told() if isinstance(ends.destination, Tells) else ():
                    progress.message(line)
    except Exception as error:
        if is_interruption(error):
            raise
        raise _Failed(receipt, as_bridge_error(error, str(wanted.landing))) from None


def _carry(ends: Ends, plan: Plan, progress: Progress) -> Arrived:
    """Bring a table's rows to the destination.

    Raises:
        BeginAgain: the destination made room for them.
    """
    with owning(ends.origin.rows(plan.name, plan.columns, plan.increment, workers=plan.workers)) as rows:
        batches = report_batches(mask_batches(rows, _masks(plan)), plan.wanted.table.node, progress)
        if isinstance(ends.destination, Warehouse):
            return Arrived(plan, staged=ends.destination.stage(plan.load, batches))
        return Arrived(plan, loaded=ends.destination.load(plan.load, batches))


def _masks(plan: Plan) -> dict[str, str]:
    """The masks of the columns that land."""
    mask = plan.wanted.table.mask
    return {column.name: mask[column.name] for column in plan.columns if column.name in mask}


def _plan_load(ends: Ends, wanted: Wanted, found: Described, full_refresh: bool) -> Plan:
    """Decide types, key, disposition and increment. Raises before any row is read."""
    columns = landing_columns(found.table, wanted.table, ends.destination)
    landing = landing_table(found.table, columns, wanted)
    load = Load(landing, "replace", wanted.receipt.load_id)
    plan = Plan(wanted, found.table.name, columns, load, None, None, workers_for(found), wanted.receipt)
    plan = replace(plan, receipt=replace(plan.receipt, destination=ends.destination.name))
    if wanted.table.replication == "incremental":
        plan = replace(plan, remembered=Remembered.of_table(wanted.table, found.forms))
        return _incremental(ends, plan, full_refresh, several=has_versions(found.table, landing))
    return plan


def landing_table(table: Table, columns: Sequence[Column], wanted: Wanted) -> Table:
    """The table as it lands. An override or a mask stands above the origin's own type, which a destination of the
    same kind would take."""
    chosen = {*wanted.table.types, *wanted.table.mask}
    landing = tuple(replace(c, origin_type="") if c.name in chosen else c for c in columns)
    return Table(wanted.landing, landing, landing_key(table, columns, wanted))


def has_versions(table: Table, landing: Table) -> bool:
    """Whether the origin may have several rows with one landing key: the newest of them is wanted.

    A key that the origin's own is part of has one row there.
    """
    return not table.key or not set(table.key) <= set(landing.key)


def workers_for(found: Described) -> int:
    """How many parallel ranges a table is read in."""
    return 2 if (found.bytes or 0) >= _RANGES_FROM_BYTES else 1


def _incremental(ends: Ends, plan: Plan, full_refresh: bool, *, several: bool) -> Plan:
    """From the checkpoint on; everything when there is none, or the table is gone, or on a full refresh.

    Args:
        several: the origin may have several rows with one key.
    """
    table = plan.wanted.table
    assert table.cursor is not None, "the project's reader refuses incremental without a cursor"
    disposition = table.write_disposition or ("merge" if plan.load.table.key else "append")
    if disposition == "merge" and not plan.load.table.key:
        raise KeyRefused(
            f"{plan.name} has no primary key, and a merge needs one",
            mend="add `primary_key: [...]` to its bridge block, or `write_disposition: append`",
        )
    ordered = disposition == "merge" and several
    greatest = ends.origin.newest(plan.name, table.cursor)
    seen = SeenOrigin.of(ends.origin, plan.name, greatest)
    newest = hold_back_to_clock(hold_back(greatest), seen.clock)
    last = ends.ledger.checkpoint(table.node)
    place = plan.wanted.place
    stands = (
        last is not None
        and last.stands
        and (last.origin, last.cursor) == (ends.origin.name, table.cursor)
        and Remembered.of_text(last.filters).goes_on(plan.remembered)
        and _is_there(last, plan.wanted)
        and not SeenOrigin.of_text(last.past).is_other_table(seen)
        and hold_back(last.value) == last.value  # else rows were passed over
    )
    if last is None or not stands or full_refresh or ends.destination.find_table(plan.load.table.name) is None:
        shape = plan.remembered.as_text()
        begun = Checkpoint(
            table.node, ends.origin.name, table.cursor, newest or "", shape=shape, landing=place, past=seen.as_text()
        )
        checkpoint = None if newest is None else begun
        if last is not None and checkpoint is None:  # an empty table is followed from its first row on
            ends.ledger.forget(table.node)
        return replace(
            plan,
            load=replace(plan.load, one_per_key=ordered),
            increment=Increment(table.cursor, ordered=True) if ordered else None,
            checkpoint=checkpoint,
            receipt=replace(plan.receipt, checkpoint_to=newest),
        )
    refuse_other_origin(last, seen, greatest)
    increment = Increment(table.cursor, last.value, table.lag + _find_step(last, seen), ordered)
    bound = ends.origin.lower_bound(plan.name, increment)
    window = Window(table.cursor, bound) if disposition == "append" and bound is not None else None
    value = newest if newest is not None else last.value
    receipt = replace(plan.receipt, write_disposition=disposition, checkpoint_from=last.value, checkpoint_to=value)
    return replace(
        plan,
        load=replace(plan.load, write_disposition=disposition, window=window),
        increment=increment,
        checkpoint=replace(last, value=value, landing=place, shape=plan.remembered.as_text(), past=seen.as_text()),
        receipt=receipt,
    )


def _find_step(last: Checkpoint, seen: SeenOrigin) -> float:
    """How much further back than by its lag a cursor that the origin's clock writes is read."""
    return SeenOrigin.of_text(last.past).find_step_back(seen) if has_zone(last.value) else 0


def _is_there(last: Checkpoint, wanted: Wanted) -> bool:
    """Whether a checkpoint is of the rows that stand in this place. One of an earlier version was always of the
    warehouse's own database, and of the identifier as it was declared."""
    if last.landing:
        return last.landing == wanted.place
    return not wanted.relation.database and wanted.relation.identifier == wanted.table.identifier


def landing_key(table: Table, columns: Sequence[Column], wanted: Wanted) -> tuple[str, ...]:
    """The key as declared, or else the origin's own: none where a column of that does not land and nobody needs it."""
    names = [column.name for column in columns]
    key = wanted.table.primary_key or table.key
    hidden = next((name for name in key if name not in names), None)
    if hidden is None:
        return key
    if table.column(hidden) is None:
        nearest = get_close_matches(hidden, names, n=1)
        raise UsageError(
            f"primary_key: {wanted.landing} has no column {hidden!r}",
            mend=f"did you mean {nearest[0]!r}?" if nearest else "name a column of the table",
        )
    if wanted.table.replication != "initial_copy" and wanted.table.write_disposition != "append":
        raise KeyRefused(
            f"`columns` leaves out {hidden!r} of {table.name}, a column of the key by which its changes are merged",
            mend=f"let {hidden!r} land (`mask` hides its values), or say `write_disposition: append`",
        )
    return ()


def _publish(ends: Ends, arrived: Sequence[Arrived]) -> list[Receipt]:
    """Show what was staged, and save checkpoints and receipts: with it where the ledger is the destination, else after.

    A crash in between reads the same rows again, which append (by its window) and merge (by its key) absorb.
    """
    if not arrived:
        return []
    if not isinstance(ends.destination, Warehouse):
        return _save(ends, arrived)
    try:
        return _publish_together(ends, ends.destination, arrived)
    except BridgeError as error:
        at_fault = [a for a in arrived if error.table is not None and a.plan.load.table.name == error.table]
        failed = [record.fail_receipt(a.plan.receipt, error) for a in at_fault or arrived]
        return failed + _publish(ends, [a for a in arrived if a not in at_fault] if at_fault else [])


def _publish_together(ends: Ends, destination: Warehouse, arrived: Sequence[Arrived]) -> list[Receipt]:
    """In one transaction, or not at all."""
    receipts: list[Receipt] = []
    staged = [a.staged for a in arrived if a.staged is not None]

    def receipted(counts: Sequence[Loaded]) -> list[Receipt]:
        receipts[:] = [record.finish_receipt(a.plan.receipt, c) for a, c in zip(arrived, counts, strict=True)]
        return receipts

    if destination is ends.ledger:
        destination.publish(staged, _checkpoints(arrived), receipted)
        return receipts
    receipted(destination.publish(staged))
    ends.ledger.save(_checkpoints(arrived), receipts)
    return receipts


def _save(ends: Ends, arrived: Sequence[Arrived]) -> list[Receipt]:
    """Without transactions over many tables each is visible already: save the checkpoints after them."""
    receipts = [record.finish_receipt(a.plan.receipt, a.loaded) for a in arrived if a.loaded is not None]
    ends.ledger.save(_checkpoints(arrived), receipts)
    return receipts


def _checkpoints(arrived: Sequence[Arrived]) -> list[Checkpoint]:
    return [a.plan.checkpoint for a in arrived if a.plan.checkpoint is not None]


def _discard(ends: Ends, arrived: Sequence[Arrived]) -> None:
    if isinstance(ends.destination, Warehouse):
        ends.destination.discard([a.staged for a in arrived if a.staged is not None])
