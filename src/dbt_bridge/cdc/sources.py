"""From a declared cdc source to the capture that follows it."""

from __future__ import annotations

from dbt_bridge.cdc.capture import Capture
from dbt_bridge.cdc.followed_source import Source
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.observe.progress import Progress
from dbt_bridge.sync.landing import Ends, wanted_tables


def capture_source(
    project: Project,
    source: LandingSource,
    ends: Ends,
    load_id: str,
    full_refresh: bool,
    progress: Progress,
    threads: int,
) -> Capture | None:
    """The capture of a source's cdc tables; None when the selection needs none of them.

    All of them move together, needed or not: the slot passes each change once.

    Raises:
        UsageError: the origin is no Postgres.
    """
    every = wanted_tables(source, ends.origin, lambda _: True, load_id)
    tables = [wanted for wanted in every if wanted.table.replication == "cdc"]
    asked = frozenset(wanted.table.node for wanted in tables if project.needs(wanted.table.node))
    if not asked:
        return None
    if not isinstance(ends.origin, PostgresOrigin):
        raise UsageError(
            f"source {source.name}: replication: cdc needs a Postgres origin, and {source.origin!r} is none",
            mend="replication: incremental with a cursor, or replication: initial_copy",
        )
    return Capture(
        Source(
            url=ends.origin.url,
            ends=ends,
            slot=source.slot,
            tables=tables,
            asked=asked,
            anew=asked if full_refresh else frozenset(),
            threads=threads,
            progress=progress,
            load_id=load_id,
            max_wal=source.max_wal,
        )
    )
