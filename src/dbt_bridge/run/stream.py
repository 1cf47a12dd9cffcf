"""stream: cdc sources are followed until somebody stops them, with dbt builds in between where they are wanted."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace

from dbt_bridge import lsn
from dbt_bridge.errors import BridgeError, UsageError
from dbt_bridge.extract.open import open_origin
from dbt_bridge.load.destination import Ledger
from dbt_bridge.load.open import open_destination, open_warehouse
from dbt_bridge.project import LandingSource, Project
from dbt_bridge.receipt import Receipt, new_load_id
from dbt_bridge.run.applying import Committed
from dbt_bridge.run.build import Options, Outcome, sync
from dbt_bridge.run.capture import Bounds, Capture
from dbt_bridge.run.landing import Ends
from dbt_bridge.run.sources import capture_source
from dbt_bridge.watching import Batch, Watch

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0

Rebuild = Callable[[frozenset[str]], bool]
"""Builds the models downstream of changed source tables (unique_ids); whether all is well."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream goes.

    Attributes:
        every: seconds between commits, at most.
    """

    every: float = 2.0
    options: Options = field(default_factory=Options)


def stream(
    project: Project, options: StreamOptions, watch: Watch, stop: threading.Event, rebuild: Rebuild | None = None
) -> Outcome:
    """Follow the cdc sources that the selection needs until `stop` is set; what is being committed is finished.

    A broken connection is tried again, with pauses that grow to a minute. Every other error ends the stream.

    Args:
        rebuild: called after each batch that changed something. dbt must have the warehouse for itself, so then the
            sources catch up, are let go of, and are taken up again after the build.
    """
    sources = [s for s in project.sources if project.needs_source(s) and _is_followed(project, s)]
    if not sources:
        raise UsageError(
            "the selection needs no table with `replication: cdc`, so there is nothing to follow",
            mend="replication: cdc in the bridge block of a source; or dbt-bridge sync",
        )
    deadline = None if options.options.max_seconds is None else time.monotonic() + options.options.max_seconds
    if deadline is not None:
        timer = threading.Timer(options.options.max_seconds or 0, stop.set)
        timer.daemon = True
        timer.start()
    only = replace(project, sources=tuple(sources))
    if rebuild is not None:
        return _in_turns(only, options, watch, stop, rebuild)
    return _side_by_side(only, options, watch, stop)


def _is_followed(project: Project, source: LandingSource) -> bool:
    tables = [table for table in source.tables if project.needs(table.node)]
    declared = any(table.replication == "cdc" for table in tables)
    return declared or (source.every_table and source.defaults.replication == "cdc")


# --- without builds: a thread per source, which keeps its connections -----------------------------------------------


def _side_by_side(project: Project, options: StreamOptions, watch: Watch, stop: threading.Event) -> Outcome:
    followers: list[_Follower] = []
    with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
        followers += [_Follower(project, source, warehouse, options, watch, stop) for source in project.sources]
        with ThreadPoolExecutor(len(followers), thread_name_prefix="dbt-bridge-stream") as pool:
            jobs: list[Future[None]] = [pool.submit(follower.run) for follower in followers]
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
        for job in jobs:
            job.result()
    return Outcome(tuple(receipt for follower in followers for receipt in follower.receipts), {})


class _Follower:
    """One source."""

    def __init__(
        self,
        project: Project,
        source: LandingSource,
        warehouse: Ledger,
        options: StreamOptions,
        watch: Watch,
        stop: threading.Event,
    ) -> None:
        self.receipts: list[Receipt] = []
        self._project = project
        self._source = source
        self._warehouse = warehouse
        self._options = options
        self._watch = watch
        self._stop = stop
        self._committed_at = time.monotonic()

    def run(self) -> None:
        """Until stopped: follow, and begin again after what can be tried again."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._follow()
            except BridgeError as error:
                if not error.transient:
                    raise
                pause = _FIRST_PAUSE if time.monotonic() - began > _LONGEST_PAUSE else pause
                self._watch.retrying(self._source.name, error, pause)
                self._stop.wait(pause * random.uniform(0.75, 1.25))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _follow(self) -> None:
        """One life of the connections: until stopped, or until tables must be looked at anew."""

        def go_on() -> bool:
            return not self._stop.is_set()

        with self._capture() as capture:
            told = self._told(capture)
            capture.catch_up(Bounds(), go_on, told)
            self._watch.caught_up(self._source.name, capture.position)
            if go_on():
                capture.follow(None, capture.pace(self._options.every), go_on, told)

    @contextmanager
    def _capture(self) -> Iterator[Capture]:
        source, root = self._source, self._project.root
        with ExitStack() as stack:
            destination = self._warehouse
            if source.destination:
                destination = stack.enter_context(closing(open_destination(source.destination, project_root=root)))  # type: ignore[assignment]
            with open_origin(source.origin, project_root=root) as origin:
                capture = capture_source(
                    self._project,
                    source,
                    Ends(origin, destination, self._warehouse),
                    new_load_id(),
                    self._options.options.full_refresh and not self.receipts,
                    self._watch,
                    self._options.options.threads or self._project.warehouse.threads,
                )
                assert capture is not None, "only sources with cdc tables are followed"
            yield stack.enter_context(capture)

    def _told(self, capture: Capture) -> Callable[[Committed], None]:
        def told(committed: Committed) -> None:
            now = time.monotonic()
            before, self._committed_at = self._committed_at, now
            if committed.receipts:
                self._watch.batch(_batch(self._source.name, committed, capture.position, now - before))
            else:
                self._watch.caught_up(self._source.name, committed.upto)
            # A stream runs for months: what is durable in the warehouse is not kept here too.
            del capture.receipts[:]

        return told


def _batch(source: str, committed: Committed, from_lsn: int, seconds: float) -> Batch:
    lag = time.time() - committed.committed_at / 1e6 if committed.committed_at else None
    return Batch(
        source,
        sum(committed.changes.values()),
        from_lsn,
        committed.upto,
        lag,
        committed.behind,
        seconds,
        frozenset(committed.changes),
    )


# --- with builds: catch up, let go of the warehouse, build, again ----------------------------------------------------


def _in_turns(
    project: Project, options: StreamOptions, watch: Watch, stop: threading.Event, rebuild: Rebuild
) -> Outcome:
    receipts: list[Receipt] = []
    pause = _FIRST_PAUSE
    full_refresh = options.options.full_refresh
    while not stop.is_set():
        began = time.monotonic()
        try:
            landed = sync(project, replace(options.options, full_refresh=full_refresh, max_seconds=None), watch)
        except BridgeError as error:
            if not error.transient:
                raise
            watch.retrying(", ".join(source.name for source in project.sources), error, pause)
            stop.wait(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, _LONGEST_PAUSE)
            continue
        full_refresh, pause = False, _FIRST_PAUSE
        changed = [receipt for receipt in landed if receipt.status == "success" and receipt.rows_loaded]
        for batch in _batches(project.sources, changed, time.monotonic() - began):
            watch.batch(batch)
        receipts = [*receipts, *landed][-100:]
        if changed and not stop.is_set() and not rebuild(frozenset(receipt.node for receipt in changed)):
            watch.message("dbt build failed; the stream goes on, and builds again after the next change")
        stop.wait(max(0.0, options.every - (time.monotonic() - began)))
    return Outcome(tuple(receipts), {})


def _batches(sources: Sequence[LandingSource], changed: Sequence[Receipt], seconds: float) -> Iterator[Batch]:
    for source in sources:
        prefix = source.defaults.node.removesuffix(".") + "."
        mine = [receipt for receipt in changed if receipt.node.startswith(prefix) and receipt.checkpoint_to]
        if mine:
            yield Batch(
                source.name,
                sum(receipt.rows_loaded or 0 for receipt in mine),
                min(lsn.parsed(receipt.checkpoint_from or "0/0") for receipt in mine),
                max(lsn.parsed(receipt.checkpoint_to or "0/0") for receipt in mine),
                max((r.lag_seconds for r in mine if r.lag_seconds is not None), default=None),
                None,
                seconds,
                frozenset(receipt.node for receipt in mine),
            )
