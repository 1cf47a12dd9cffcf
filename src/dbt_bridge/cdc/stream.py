"""stream: cdc sources are followed until somebody stops them, with dbt builds in between where they are wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from contextvars import copy_context
from dataclasses import replace

from dbt_bridge.cdc.applier import Committed
from dbt_bridge.cdc.capture import Bounds, Capture
from dbt_bridge.cdc.stream_connection import (
    Retry,
    StreamOptions,
    TellOnce,
    follows_log,
    no_table_left,
    open_source,
    wait_for_leases,
)
from dbt_bridge.cdc.stream_turns import Rebuild, follow_in_turns
from dbt_bridge.cdc.time_bound import StopAfter
from dbt_bridge.contracts.change_source import ChangeSource, LandingLease
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.errors import BridgeError, ConnectionFailed, UsageError
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.observe.stream_progress import Batch, Watch, Watches
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.project.origins import open_change_source
from dbt_bridge.system.retry import is_transient

LOOK = 60.0  # seconds between looks at the tables


def stream(
    project: Project, options: StreamOptions, watch: Watch, stop: threading.Event, rebuild: Rebuild | None = None
) -> None:
    """Follow the cdc sources that the selection needs until `stop` is set; what is being committed is finished.

    A broken connection is tried again, with pauses that grow to a minute. Every other error ends the stream, and so
    does one that is still there when `max_seconds` are over.

    Args:
        rebuild: called after each batch that changed something. dbt must have the warehouse for itself, so then the
            sources catch up, are let go of, and are taken up again after the build.
    """
    sources = [s for s in project.sources if project.needs_source(s) and follows_log(project, s)]
    if not sources:
        raise UsageError(
            "the selection needs no table with `replication: cdc`, so there is nothing to follow",
            mend="replication: cdc in the bridge block of a source; or dbt-bridge sync",
        )
    logs = {source.name: open_change_source(source, project_root=project.root) for source in sources}
    if options.max_seconds is not None:
        watch = Watches([watch, StopAfter([source.name for source in sources], options.max_seconds, stop)])
    only = replace(project, sources=tuple(sources))
    if rebuild is not None:
        follow_in_turns(only, logs, options, watch, stop, rebuild)
    else:
        _follow_side_by_side(only, logs, options, watch, stop)


def _follow_side_by_side(
    project: Project, logs: Mapping[str, ChangeSource], options: StreamOptions, watch: Watch, stop: threading.Event
) -> None:
    """Without builds: a thread per source, which keeps its connections."""
    followers = [
        _Follower(project, source, logs[source.name].lease_landing(), options, watch, stop)
        for source in project.sources
    ]
    retry = Retry(", ".join(source.name for source in project.sources), watch, stop)
    was_paused = False
    while wait_for_leases([follower.lease for follower in followers], watch, stop):
        began, pause = time.monotonic(), threading.Event()
        try:
            with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
                _run_all(followers, warehouse, pause, stop)
        except ConnectionFailed as error:
            if not was_paused:
                raise
            retry.wait(error, began)  # somebody looks into the warehouse that this process had let go of
        finally:
            for follower in followers:  # only now: whoever waits for it opens the warehouse next
                follower.lease.let_go()
        was_paused |= pause.is_set()
    for follower in followers:
        follower.retry.end(options)


def _run_all(followers: Sequence[_Follower], warehouse: Ledger, pause: threading.Event, stop: threading.Event) -> None:
    """Until they are stopped, or one of them is to let go, and with it all: they share the warehouse."""
    with ThreadPoolExecutor(len(followers), thread_name_prefix="dbt-bridge-stream") as pool:
        jobs: list[Future[None]] = [
            pool.submit(copy_context().run, follower.run, warehouse, pause) for follower in followers
        ]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        except BaseException:
            stop.set()
            raise
        if any(job.done() and job.exception() is not None for job in jobs):
            stop.set()
    for job in jobs:
        job.result()


class _Follower:
    """Follows one source of a stream, in a thread.

    Attributes:
        lease: the right to bring its landing up.
    """

    def __init__(
        self,
        project: Project,
        source: LandingSource,
        lease: LandingLease,
        options: StreamOptions,
        watch: Watch,
        stop: threading.Event,
    ) -> None:
        self.retry = Retry(source.name, watch, stop)
        self.lease = lease
        self._project = project
        self._source = source
        self._options = options
        self._watch = watch
        self._tell = TellOnce(watch.message)
        self._stop = stop
        self._committed_at = time.monotonic()

    def run(self, warehouse: Ledger, pause: threading.Event) -> None:
        """Until stopped or paused: follow, and begin again after what can be tried again."""
        while not (self._stop.is_set() or pause.is_set()):
            began = time.monotonic()
            try:
                self._follow(warehouse, pause)
            except BridgeError as error:
                self.retry.wait(error, began, lambda: self._is_paused_meanwhile(pause))

    def _is_paused_meanwhile(self, pause: threading.Event) -> bool:
        """While another connection is waited for, the lease's may break, too: it is taken again with all of them."""
        try:
            return self._is_paused(pause)
        except BridgeError as error:
            if not is_transient(error):
                raise
            return pause.is_set()

    def _is_paused(self, pause: threading.Event) -> bool:
        if self.lease.is_mine and self.lease.is_wanted():
            pause.set()
        return pause.is_set()

    def _follow(self, warehouse: Ledger, pause: threading.Event) -> None:
        """Until stopped or paused. The tables are looked at anew from time to time, as the log does not tell all of
        them.

        (A column that is added with a default is not in it before the next row, a partition that is dropped never is.)
        """

        def go_on() -> bool:
            return not (self._is_paused(pause) or self._stop.is_set())

        if not self.lease.take():
            pause.set()
            return
        with open_source(self._project, self._source, warehouse, self._options, self._watch, self._tell) as capture:

            def report(committed: Committed) -> None:
                self._report(committed)
                # A stream runs for months: what is durable in the warehouse is not kept here too.
                capture.receipts.clear()

            is_first = True
            while go_on():
                capture.catch_up(Bounds(), go_on, report, tell_unchanged=is_first)
                is_first, self.retry.broken = False, None
                if go_on():  # else it was not all of it
                    self._options = replace(self._options, full_refresh=False)  # not again when a connection breaks
                self._watch.caught_up(self._source.name, capture.position)
                if go_on() and not capture.is_following:
                    raise no_table_left()
                if go_on():
                    capture.follow(None, capture.pace(self._options.every), _until_news(capture, go_on), report)

    def _report(self, committed: Committed) -> None:
        now = time.monotonic()
        before, self._committed_at = self._committed_at, now
        if committed.receipts:
            self._watch.batch(_batch(self._source.name, committed, now - before))
        else:
            self._watch.caught_up(self._source.name, committed.upto)


def _until_news(capture: Capture, go_on: Callable[[], bool]) -> Callable[[], bool]:
    """Goes on while the tables are as they were; looks from time to time.

    The replication goes on meanwhile: it would be sent every open transaction again.
    """
    looked = time.monotonic()

    def is_going() -> bool:
        nonlocal looked
        if not go_on():
            return False
        if time.monotonic() - looked < LOOK:
            return True
        looked = time.monotonic()
        return not capture.has_news()

    return is_going


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
