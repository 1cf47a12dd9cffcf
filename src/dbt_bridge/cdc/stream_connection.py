"""What both ways of streaming share: options, pauses after errors, leases, one life of a source's connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from dbt_bridge.cdc.capture import Capture, CaptureOptions, open_capture
from dbt_bridge.contracts.change_source import LandingLease
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.errors import BridgeError, OriginError
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.observe.stream_progress import Watch
from dbt_bridge.project.claims import make_rules_of
from dbt_bridge.project.destinations import open_destination
from dbt_bridge.project.origins import open_origin
from dbt_bridge.sync.ends import find_ends
from dbt_bridge.sync.left_tables import set_left_aside
from dbt_bridge.system.retry import STREAM, is_transient

_LOOK_UP = 0.2  # seconds
_PAUSE = 0.5  # seconds between looks of one who has let go


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream goes.

    Attributes:
        every: seconds between commits, at most.
        full_refresh: the tables that the selection needs are copied anew first.
        threads: tables that are copied at once; None for the dbt profile's number.
        max_seconds: after which the stream ends, from when each source has brought its first batch; None for no bound.
    """

    every: float = 2.0
    full_refresh: bool = False
    threads: int | None = None
    max_seconds: float | None = None


@dataclass(slots=True)
class Retry:
    """Waits after what broke off and can be tried again, with pauses that grow while it does not go well."""

    name: str
    watch: Watch
    stop: threading.Event
    broken: BridgeError | None = None
    _failures: int = 0  # one after the other

    def wait(self, error: BridgeError, began: float, is_wanted: Callable[[], bool] = lambda: False) -> None:
        """Raises the error where trying again does not help.

        Args:
            is_wanted: called now and then: whether something else is to be done first.
        """
        if not is_transient(error):
            raise error
        self.broken = error
        self._failures = 1 if time.monotonic() - began > STREAM.longest_pause else self._failures + 1
        pause = STREAM.pause_after(self._failures)
        self.watch.retrying(self.name, error, pause)
        end = time.monotonic() + STREAM.add_jitter(pause)
        while (left := end - time.monotonic()) > 0 and not self.stop.is_set() and not is_wanted():
            self.stop.wait(min(left, _LOOK_UP))

    def end(self, options: StreamOptions) -> None:
        """Raises what is still broken when a bounded run ends: it did not bring what it was to bring."""
        if self.broken is not None and options.max_seconds is not None:
            raise self.broken


class TellOnce:
    """Passes each line on once: a stream looks at its tables again and again."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def __call__(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)


@contextmanager
def open_source(
    project: Project,
    source: LandingSource,
    warehouse: Ledger,
    options: StreamOptions,
    watch: Watch,
    tell: Callable[[str], None],
) -> Iterator[Capture]:
    """One life of a source's connections.

    Args:
        tell: takes lines on tables that are not followed.
    """
    with ExitStack() as stack:
        destination = None
        if source.destination:
            opened = open_destination(source.destination, project_root=project.root)
            destination = stack.enter_context(closing(opened))
        with open_origin(source.origin, project_root=project.root) as origin:
            rules = make_rules_of(project)(source.destination)
            ends = find_ends(origin, destination, warehouse, source.landing_database, rules)
            chosen = CaptureOptions(new_load_id(), options.full_refresh, options.threads or project.warehouse.threads)
            for left in set_left_aside(ends, source, project.needs) if source.every_table else ():
                tell(left.line)
            capture = open_capture(project, source, ends, chosen, watch, tell)
            if capture is None:
                raise no_table_left()
        yield stack.enter_context(capture)


def wait_for_leases(leases: Sequence[LandingLease], watch: Watch, stop: threading.Event) -> bool:
    """Wait until nobody wants to hold any of the landings; False when stopped."""
    reported: set[str] = set()
    while not stop.is_set():
        refused = [lease for lease in leases if not _takes(lease)]
        if not refused:
            return True
        for lease in leases:
            lease.let_go()
        for lease in refused:
            if lease.source not in reported:
                reported.add(lease.source)
                watch.paused(lease.source)
        stop.wait(_PAUSE)
    return False


def _takes(lease: LandingLease) -> bool:
    """Whether it is free, as far as can be known: an origin that is not there is its follower's to wait for, and
    nobody compares anything with it."""
    try:
        return lease.take()
    except BridgeError as error:
        if not is_transient(error):
            raise
        return True


def follows_log(project: Project, source: LandingSource) -> bool:
    tables = [table for table in source.tables if project.needs(table.node)]
    declared = any(table.replication == "cdc" for table in tables)
    return declared or (source.every_table and source.defaults.replication == "cdc")


def no_table_left() -> OriginError:
    return OriginError(
        "no table is followed any more: each of them was set aside, as told above, or left the origin",
        mend="then: dbt-bridge sync",
    )
