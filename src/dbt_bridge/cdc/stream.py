"""stream: cdc sources are followed until somebody stops them, with dbt builds in between where they are wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace

from dbt_bridge.cdc.applier import Committed
from dbt_bridge.cdc.capture import Bounds, Capture
from dbt_bridge.cdc.slots import origin_url
from dbt_bridge.cdc.sources import capture_source
from dbt_bridge.connectors.postgres.changes.landing_lock import Mover, taken
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.errors import BridgeError, ConnectionFailed, OriginError, UsageError
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.receipt import Receipt, new_load_id
from dbt_bridge.observe.stream_progress import Batch, Watch
from dbt_bridge.project.destinations import open_destination, open_warehouse
from dbt_bridge.project.origins import open_origin
from dbt_bridge.run.build import Options, Outcome
from dbt_bridge.sync.landing import Ends
from dbt_bridge.system.retry import STREAM, is_transient

_LOOK_UP = 0.2  # seconds
LOOK = 60.0  # seconds between looks at the tables

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

    A broken connection is tried again, with pauses that grow to a minute. Every other error ends the stream, and so
    does one that is still there when `max_seconds` are over.

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
    if options.options.max_seconds is not None:
        timer = threading.Timer(options.options.max_seconds, stop.set)
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


@dataclass(slots=True)
class _Patience:
    """What broke off and can be tried again is waited for, with pauses that grow while it does not go well."""

    name: str
    watch: Watch
    stop: threading.Event
    broken: BridgeError | None = None
    _failures: int = 0  # one after the other

    def wait(self, error: BridgeError, began: float, is_wanted: Callable[[], bool] = lambda: False) -> None:
        """Raises the error where trying again does not help.

        Args:
            is_wanted: asked now and then, whether something else is to be done first.
        """
        if not is_transient(error):
            raise error
        self.broken = error
        self._failures = 1 if time.monotonic() - began > STREAM.longest_pause else self._failures + 1
        pause = STREAM.pause_after(self._failures)
        self.watch.retrying(self.name, error, pause)
        end = time.monotonic() + STREAM.jittered(pause)
        while (left := end - time.monotonic()) > 0 and not self.stop.is_set() and not is_wanted():
            self.stop.wait(min(left, _LOOK_UP))

    def end(self, options: StreamOptions) -> None:
        """Raises what is still broken when a bounded run ends: it did not bring what it was to bring."""
        if self.broken is not None and options.options.max_seconds is not None:
            raise self.broken


@contextmanager
def _captured(
    project: Project, source: LandingSource, warehouse: Ledger, options: Options, watch: Watch
) -> Iterator[Capture]:
    """One life of a source's connections."""
    with ExitStack() as stack:
        destination = warehouse
        if source.destination:
            opened = open_destination(source.destination, project_root=project.root)
            destination = stack.enter_context(closing(opened))  # type: ignore[assignment]
        with open_origin(source.origin, project_root=project.root) as origin:
            capture = capture_source(
                project,
                source,
                Ends(origin, destination, warehouse),
                new_load_id(),
                options.full_refresh,
                watch,
                options.threads or project.warehouse.threads,
            )
            assert capture is not None, "only sources with cdc tables are followed"
        yield stack.enter_context(capture)


# --- without builds: a thread per source, which keeps its connections -----------------------------------------------


def _side_by_side(project: Project, options: StreamOptions, watch: Watch, stop: threading.Event) -> Outcome:
    followers = [_Follower(project, source, options, watch, stop) for source in project.sources]
    patience = _Patience(", ".join(source.name for source in project.sources), watch, stop)
    was_paused = False
    while taken([follower.mover for follower in followers], watch, stop):
        began, pause = time.monotonic(), threading.Event()
        try:
            with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
                _follow_all(followers, warehouse, pause)
        except ConnectionFailed as error:
            if not was_paused:
                raise
            patience.wait(error, began)  # somebody looks into the warehouse that this process had let go of
        finally:
            for follower in followers:  # only now: whoever waits for it opens the warehouse next
                follower.mover.let_go()
        was_paused |= pause.is_set()
    for follower in followers:
        follower.patience.end(options)
    return Outcome((), {})


def _follow_all(followers: Sequence[_Follower], warehouse: Ledger, pause: threading.Event) -> None:
    """Until they are stopped, or one of them is to let go, and with it all: they share the warehouse."""
    with ThreadPoolExecutor(len(followers), thread_name_prefix="dbt-bridge-stream") as pool:
        jobs: list[Future[None]] = [pool.submit(follower.run, warehouse, pause) for follower in followers]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        except BaseException:
            followers[0].stop.set()
            raise
        if any(job.done() and job.exception() is not None for job in jobs):
            followers[0].stop.set()
    for job in jobs:
        job.result()


def _mover(project: Project, source: LandingSource) -> Mover:
    return Mover(source.name, source.origin, origin_url(project.root, source), source.slot)


class _Follower:
    """One source."""

    def __init__(
        self,
        project: Project,
        source: LandingSource,
        options: StreamOptions,
        watch: Watch,
        stop: threading.Event,
    ) -> None:
        self._project = project
        self._source = source
        self._stream = options
        self._options = options.options
        self._watch = watch
        self._committed_at = time.monotonic()
        self.stop = stop
        self.patience = _Patience(source.name, watch, stop)
        self.mover = _mover(project, source)

    def run(self, warehouse: Ledger, pause: threading.Event) -> None:
        """Until stopped or paused: follow, and begin again after what can be tried again."""
        while not (self.stop.is_set() or pause.is_set()):
            began = time.monotonic()
            try:
                self._follow(warehouse, pause)
            except BridgeError as error:
                self.patience.wait(error, began, lambda: self._is_paused(pause))

    def _is_paused(self, pause: threading.Event) -> bool:
        if self.mover.is_mine and self.mover.is_asked():
            pause.set()
        return pause.is_set()

    def _follow(self, warehouse: Ledger, pause: threading.Event) -> None:
        """Until stopped or paused. The tables are looked at anew from time to time, as the log does not tell all of
        them.

        (A column that is added with a default is not in it before the next row, a partition that is dropped never is.)
        """

        def go_on() -> bool:
            return not (self._is_paused(pause) or self.stop.is_set())

        if not self.mover.take():
            pause.set()
            return
        with _captured(self._project, self._source, warehouse, self._options, self._watch) as capture:
            told = self._told(capture)
            is_first = True
            while go_on():
                capture.catch_up(Bounds(), go_on, told, tell_unchanged=is_first)
                is_first, self.patience.broken = False, None
                if go_on():  # else it was not all of it
                    self._options = replace(self._options, full_refresh=False)  # not again when a connection breaks
                self._watch.caught_up(self._source.name, capture.position)
                if go_on() and not capture.is_following:
                    raise _none_left()
                if go_on():
                    capture.follow(None, capture.pace(self._stream.every), _until_news(capture, go_on), told)

    def _told(self, capture: Capture) -> Callable[[Committed], None]:
        def told(committed: Committed) -> None:
            now = time.monotonic()
            before, self._committed_at = self._committed_at, now
            if committed.receipts:
                self._watch.batch(_batch(self._source.name, committed, now - before))
            else:
                self._watch.caught_up(self._source.name, committed.upto)
            # A stream runs for months: what is durable in the warehouse is not kept here too.
            del capture.receipts[:]

        return told


def _until_news(capture: Capture, go_on: Callable[[], bool]) -> Callable[[], bool]:
    """Goes on while the tables are as they were; looks from time to time.

    The replication goes on meanwhile: it would be sent every open transaction again.
    """
    looked = time.monotonic()

    def going() -> bool:
        nonlocal looked
        if not go_on():
            return False
        if time.monotonic() - looked < LOOK:
            return True
        looked = time.monotonic()
        return not capture.has_news()

    return going


def _batch(source: str, committed: Committed, seconds: float) -> Batch:
    lag = time.time() - committed.committed_at / 1e6 if committed.committed_at else None
    return Batch(
        source,
        sum(committed.changes.values()),
        committed.since,
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
    patience = _Patience(", ".join(source.name for source in project.sources), watch, stop)
    refreshed: set[str] = set()
    unbuilt: set[str] = set()
    movers = [_mover(project, source) for source in project.sources]

    def go_on() -> bool:
        return not stop.is_set() and not any(mover.is_asked() for mover in movers)

    with ExitStack() as stack:
        for mover in movers:
            stack.callback(mover.let_go)
        while taken(movers, watch, stop):
            began = time.monotonic()
            landed: list[Receipt] = []
            try:
                for source in project.sources:
                    anew = options.options.full_refresh and source.name not in refreshed
                    _turn(project, source, replace(options.options, full_refresh=anew), (watch, go_on), landed)
                    if go_on():  # else it was not all of it
                        refreshed.add(source.name)
                patience.broken = None
            except BridgeError as error:
                patience.wait(error, began)
            unbuilt |= {receipt.node for receipt in landed if receipt.status == "success" and receipt.rows_loaded}
            for batch in _batches(project.sources, landed, time.monotonic() - began):
                watch.batch(batch)
            if patience.broken is None and unbuilt and not stop.is_set():
                if not rebuild(frozenset(unbuilt)):
                    watch.message("dbt build failed; the stream goes on, and builds again after the next change")
                unbuilt.clear()
            for mover in movers:  # it was dbt's warehouse too until here
                mover.let_go()
            project = _without(project, {receipt.node for receipt in landed if receipt.status == "failed"})
            stop.wait(max(0.0, options.every - (time.monotonic() - began)))
    patience.end(options)
    return Outcome((), {})


def _turn(
    project: Project,
    source: LandingSource,
    options: Options,
    told: tuple[Watch, Callable[[], bool]],
    landed: list[Receipt],
) -> None:
    """Bring one source up to the end of its log; what ended is added to `landed`, also where the rest failed."""
    watch, go_on = told
    with (
        closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse,
        _captured(project, source, warehouse, options, watch) as capture,
    ):
        try:
            capture.catch_up(Bounds(), go_on, tell_unchanged=False)
        finally:
            landed += capture.receipts
        if not capture.receipts:  # else its batch tells
            watch.caught_up(source.name, capture.position)


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
    if not any(_is_followed(project, source) for source in sources):
        raise _none_left()
    return replace(project, sources=tuple(source for source in sources if _is_followed(project, source)))


def _none_left() -> OriginError:
    return OriginError(
        "no table is followed any more: each of them was set aside, as told above", mend="then: dbt-bridge sync"
    )


def _batches(sources: Sequence[LandingSource], landed: Sequence[Receipt], seconds: float) -> Iterator[Batch]:
    changed = [receipt for receipt in landed if receipt.status == "success" and receipt.rows_loaded]
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
