"""stream with builds: the sources catch up, the warehouse is let go of, dbt builds what changed, and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from dbt_bridge.cdc.capture import Bounds
from dbt_bridge.cdc.stream_connection import (
    Retry,
    StreamOptions,
    TellOnce,
    follows_log,
    no_table_left,
    open_source,
    wait_for_leases,
)
from dbt_bridge.contracts.change_source import ChangeSource
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.stream_progress import Batch, Watch
from dbt_bridge.project.destinations import open_warehouse

Rebuild = Callable[[frozenset[str]], bool]
"""Builds the models downstream of changed source tables (unique_ids); whether all is well."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the turns of one stream share: where they report, and whether to go on.

    Attributes:
        tell: takes lines on tables that are not followed.
    """

    watch: Watch
    tell: TellOnce
    go_on: Callable[[], bool]


def follow_in_turns(
    project: Project,
    logs: Mapping[str, ChangeSource],
    options: StreamOptions,
    watch: Watch,
    stop: threading.Event,
    rebuild: Rebuild,
) -> None:
    """Until stopped: catch up, build what changed, again.

    Args:
        logs: name of a source -> its origin's log.
    """
    retry = Retry(", ".join(source.name for source in project.sources), watch, stop)
    refreshed: set[str] = set()
    unbuilt: set[str] = set()
    leases = [logs[source.name].lease_landing() for source in project.sources]

    def go_on() -> bool:
        return not stop.is_set() and not any(lease.is_wanted() for lease in leases)

    turn = _Turn(watch, TellOnce(watch.message), go_on)
    with ExitStack() as stack:
        for lease in leases:
            stack.callback(lease.let_go)
        while wait_for_leases(leases, watch, stop):
            began = time.monotonic()
            landed: list[Receipt] = []
            try:
                for source in project.sources:
                    anew = options.full_refresh and source.name not in refreshed
                    _take_turn(project, source, replace(options, full_refresh=anew), turn, landed)
                    if go_on():  # else it was not all of it
                        refreshed.add(source.name)
                retry.broken = None
            except BridgeError as error:
                retry.wait(error, began)
            unbuilt |= {receipt.node for receipt in landed if receipt.status == "success" and receipt.rows_loaded}
            for source in project.sources:
                if batch := _batch_of_receipts(source, logs[source.name], landed, time.monotonic() - began):
                    watch.batch(batch)
            if retry.broken is None and unbuilt and not stop.is_set():
                if not rebuild(frozenset(unbuilt)):
                    watch.message("dbt build failed; the stream goes on, and builds again after the next change")
                unbuilt.clear()
            for lease in leases:  # it was dbt's warehouse too until here
                lease.let_go()
            project = _without(project, {receipt.node for receipt in landed if receipt.status == "failed"})
            stop.wait(max(0.0, options.every - (time.monotonic() - began)))
    retry.end(options)


def _take_turn(
    project: Project, source: LandingSource, options: StreamOptions, turn: _Turn, landed: list[Receipt]
) -> None:
    """Bring one source up to the end of its log; what ended is added to `landed`, also where the rest failed."""
    with (
        closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse,
        open_source(project, source, warehouse, options, turn.watch, turn.tell) as capture,
    ):
        try:
            capture.catch_up(Bounds(), turn.go_on, tell_unchanged=False)
        finally:
            landed += capture.receipts
        if not capture.receipts:  # else its batch tells
            turn.watch.caught_up(source.name, capture.position)


def _without(project: Project, failed: set[str]) -> Project:
    """Tables that were set aside are not copied again in each turn: the next start or `sync` does that.

    Raises:
        OriginError: none is left.
    """
    if not failed:
        return project
    sources = tuple(
        replace(
            source,
            tables=tuple(table for table in source.tables if table.node not in failed),
            exclude=(*source.exclude, *(node.rsplit(".", 1)[-1] for node in failed)),
        )
        for source in project.sources
    )
    sources = tuple(source for source in sources if source.tables or source.every_table)
    if not any(follows_log(project, source) for source in sources):
        raise no_table_left()
    return replace(project, sources=tuple(source for source in sources if follows_log(project, source)))


def _batch_of_receipts(
    source: LandingSource, changes: ChangeSource, landed: Sequence[Receipt], seconds: float
) -> Batch | None:
    """What a turn brought of one source; None when it brought nothing."""
    prefix = source.defaults.node.removesuffix(".") + "."
    changed = [receipt for receipt in landed if receipt.status == "success" and receipt.rows_loaded]
    mine = [receipt for receipt in changed if receipt.node.startswith(prefix) and receipt.checkpoint_to]
    if not mine:
        return None

    def position(text: str | None) -> Position:
        return changes.parse_position(text) if text else changes.beginning

    return Batch(
        source.name,
        sum(receipt.rows_loaded or 0 for receipt in mine),
        min(position(receipt.checkpoint_from) for receipt in mine),
        max(position(receipt.checkpoint_to) for receipt in mine),
        max((r.lag_seconds for r in mine if r.lag_seconds is not None), default=None),
        None,
        seconds,
        frozenset(receipt.node for receipt in mine),
    )
