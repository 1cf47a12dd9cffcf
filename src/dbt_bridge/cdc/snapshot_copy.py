"""Tables are copied under a slot's exported snapshot, to be joined at the slot's consistent point."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

from dbt_bridge.cdc.census import Tracked, declared_name, track
from dbt_bridge.connectors.postgres.changes.slot import ExportedSlot
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.contracts.destination import Loaded, Staged, Warehouse
from dbt_bridge.errors import BridgeError, OriginError
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Progress
from dbt_bridge.sync.landing import (
    Arrived,
    Ends,
    Wanted,
    arrive,
)


@dataclass(frozen=True, slots=True)
class Copied:
    """A table whose rows, as of the snapshot, wait at the destination to be joined.

    Attributes:
        rows: staged, or (where the destination has no stages) loaded.
        copied_at: when the snapshot was exported, microseconds since 1970 by the origin's clock, as the commits after.
    """

    tracked: Tracked
    rows: Staged | Loaded
    receipt: Receipt
    copied_at: int


_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


def copied(
    url: str, ends: Ends, exported: ExportedSlot, wanted: Sequence[Wanted], threads: int, progress: Progress
) -> tuple[list[Copied], list[Receipt]]:
    """Copy the tables side by side in the exported snapshot; those that could not be copied have a failed receipt."""
    arrived: list[Copied] = []
    failures: list[Receipt] = []
    jobs: list[tuple[Wanted, Future[Arrived | Receipt]]] = []
    name = ends.origin.name
    with (
        closing(PostgresOrigin(name, url, exported.snapshot, for_changes=True)) as origin,
        closing(Connections(name, url, exported.snapshot)) as catalog,
        ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="dbt-bridge-copy") as pool,
    ):
        ((at,),) = catalog.query(_NOW)
        inside = replace(ends, origin=origin)
        try:
            jobs += [(item, pool.submit(arrive, inside, item, progress, True)) for item in wanted]
            for item, job in jobs:
                done = job.result()
                if isinstance(done, Receipt):
                    failures.append(done)
                    continue
                try:
                    arrived.append(_copied(catalog, inside, item, done, (exported.consistent_point, at)))
                except BridgeError as error:
                    failures.append(record.failed(done.plan.receipt, error))
                    discard(ends, [done.staged] if done.staged else [])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            origin.close()  # breaks off what still reads, so that the threads end
            raise
    return arrived, failures


def _copied(catalog: Connections, ends: Ends, wanted: Wanted, done: Arrived, moment: tuple[int, int]) -> Copied:
    position, at = moment
    name = declared_name(catalog, wanted)
    oid = shapes.find_oid(catalog, name)
    shape = None if oid is None else shapes.describe_shape(catalog, oid)
    if shape is None:
        raise OriginError(f"{name} is not in the snapshot that was copied", mend="run the same command again")
    tracked = track(catalog, ends.destination, wanted, shape, position)
    rows = done.staged or done.loaded
    assert rows is not None, "what arrived is staged or loaded"
    receipt = replace(
        done.plan.receipt,
        hop="initial_copy",
        write_disposition="append" if tracked.replica.change_log else "replace",
        checkpoint_to=lsn.spelled(position),
    )
    return Copied(tracked, rows, receipt, at)


def discard(ends: Ends, staged: Sequence[Staged]) -> None:
    """Drop staged rows that were not joined."""
    if isinstance(ends.destination, Warehouse):
        ends.destination.discard(staged)
