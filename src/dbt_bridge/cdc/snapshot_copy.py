"""Tables are copied in a snapshot of the origin, to be joined at the snapshot's position."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

from dbt_bridge.cdc.census import Tracked, track
from dbt_bridge.cdc.followed_source import FollowedSource, make_declared_table
from dbt_bridge.contracts.change_source import Snapshot
from dbt_bridge.contracts.destination import Loaded, Staged, Warehouse
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.landing import Arrived, arrive
from dbt_bridge.sync.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Copy:
    """A table whose rows, as of the snapshot, wait at the destination to be joined.

    Attributes:
        rows: staged, or (where the destination has no stages) loaded.
        copied_at: when the snapshot was taken, microseconds since 1970 by the origin's clock, as the commits after.
    """

    tracked: Tracked
    rows: Staged | Loaded
    receipt: Receipt
    copied_at: int


@dataclass(frozen=True, slots=True)
class Copies:
    """What came of copying several tables: those that arrived, and failed receipts of the others."""

    arrived: Sequence[Copy]
    failures: Sequence[Receipt]


def copy_tables(source: FollowedSource, snapshot: Snapshot, wanted: Sequence[Wanted]) -> Copies:
    """Copy the tables side by side in the snapshot."""
    arrived: list[Copy] = []
    failures: list[Receipt] = []
    jobs: list[tuple[Wanted, Future[Arrived | Receipt]]] = []
    with (
        closing(snapshot.open_origin()) as origin,
        ThreadPoolExecutor(max_workers=max(1, source.threads), thread_name_prefix="dbt-bridge-copy") as pool,
    ):
        at = snapshot.read_clock()
        inside = replace(source.ends, origin=origin)
        try:
            jobs += [(item, pool.submit(arrive, inside, item, source.progress, True)) for item in wanted]
            for _, job in jobs:
                done = job.result()
                if isinstance(done, Receipt):
                    failures.append(done)
                    continue
                try:
                    arrived.append(_build_copy(snapshot, inside, done.plan.wanted, done, at))
                except BridgeError as error:
                    failures.append(record.fail_receipt(done.plan.receipt, error))
                    discard_staged(source.ends, [done.staged] if done.staged else [])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            origin.close()  # breaks off what still reads, so that the threads end
            raise
    return Copies(arrived, failures)


def _build_copy(snapshot: Snapshot, ends: Ends, wanted: Wanted, done: Arrived, at: int) -> Copy:
    version = snapshot.describe(make_declared_table(wanted))
    tracked = track(ends, wanted, version, snapshot.position)
    rows = done.staged or done.loaded
    assert rows is not None, "what arrived is staged or loaded"
    receipt = replace(
        done.plan.receipt,
        hop="initial_copy",
        write_disposition="append" if tracked.replica.change_log else "replace",
        checkpoint_to=str(snapshot.position),
        without=tracked.without or None,
    )
    return Copy(tracked, rows, receipt, at)


def discard_staged(ends: Ends, staged: Sequence[Staged]) -> None:
    """Drop staged rows that were not joined."""
    if isinstance(ends.destination, Warehouse):
        ends.destination.discard(staged)
