"""The public Python API: a dbt project, and what can be done with it. The command line calls exactly this."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.errors import require_extra
from dbt_bridge.nouns.dbt_flags import check_flags
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.observe.progress import as_progress
from dbt_bridge.observe.stream_progress import as_watch
from dbt_bridge.system.lock_wait import DEFAULT_SECONDS, LockWait, iterate_waiting, waits

if TYPE_CHECKING:
    from dbt_bridge.cdc.slots import Dropped
    from dbt_bridge.nouns.parity import Level, Method
    from dbt_bridge.nouns.project import LandingSource, Project
    from dbt_bridge.observe.progress import Progress
    from dbt_bridge.run.doctor import Findings
    from dbt_bridge.run.outcomes import (
        BuildOutcome,
        CompareOutcome,
        DeliverOutcome,
        RepairOutcome,
        SlotReports,
        StreamOutcome,
        SyncOutcome,
    )
    from dbt_bridge.run.plan import Plan
    from dbt_bridge.run.stream import Stream
    from dbt_bridge.run.surroundings import Finding

Selectors = str | Sequence[str]
"""dbt's selectors, as after `--select`: one text or several."""


def open_project(  # noqa: PLR0913 - dbt's own options, by name; the value behind is `DbtOptions`
    path: str | Path | None = None,
    *,
    target: str | None = None,
    profile: str | None = None,
    profiles_dir: str | Path | None = None,
    vars: Mapping[str, Any] | None = None,
    select: Selectors = (),
    exclude: Selectors = (),
    selector: str | None = None,
    state: str | Path | None = None,
    defer: bool | None = None,
    resource_type: Selectors = (),
    exclude_resource_type: Selectors = (),
    indirect_selection: str | None = None,
    target_path: str | Path | None = None,
    threads: int | None = None,
    flags: Mapping[str, Any] | None = None,
    dbt: str | Path | None = None,
    lock_wait: float = DEFAULT_SECONDS,
    progress: Progress | Callable[[str], None] | None = None,
) -> OpenProject:
    """A dbt project, to move, transform, verify and deliver its data from Python.

    Nothing is read, and no connection opened, before a method is called. Each call reads the project as it is then.

    Args:
        path: the folder of `dbt_project.yml`; by default the nearest one, from the working directory up.
        target, profile, profiles_dir, vars: as dbt's options; None leaves the choice to dbt.
        select, exclude: dbt's selectors, for every call that names none of its own; everything by default.
        selector, state, defer, resource_type, exclude_resource_type, indirect_selection, target_path: as dbt's options.
        threads: tables and nodes at once; None for the profile's number.
        dbt: the dbt command to run; None for dbt's module in this environment, else the command on PATH.
        lock_wait: seconds to wait for a DuckDB file that another process holds, or a table of PostgreSQL.
        flags: dbt's other options by name: `{"log_path": "logs", "favor_state": True, "fail_fast": True}`.
        progress: who hears what happens. None: nobody. A function gets each line of text (`print`, `logger.info`). An
            object like `dbt_bridge.observe.progress.Progress` gets every event, one like its `stream_progress.Watch`
            those of a stream too.

    Example:
        >>> shop = dbt_bridge.open_project("shop", target="dev", progress=print)
        >>> outcome = shop.build(select="source:shop.orders+")
        >>> outcome.ok, len(outcome.receipts)
    """
    given: dict[str, Any] = {"selector": selector, "state": state, "defer": defer, "target_path": target_path}
    given |= {"resource_type": resource_type, "exclude_resource_type": exclude_resource_type}
    given["indirect_selection"] = indirect_selection
    options = DbtOptions(
        project_dir=_nearest_project() if path is None else Path(path),
        profiles_dir=None if profiles_dir is None else Path(profiles_dir),
        profile=profile,
        target=target,
        vars=dict(vars or {}),
        select=_as_selectors(select),
        exclude=_as_selectors(exclude),
        threads=threads,
        flags=check_flags({**given, **(flags or {})}),
        dbt=None if dbt is None else str(dbt),
    )
    return OpenProject(options, progress, lock_wait)


@dataclass(frozen=True, slots=True)
class OpenProject:
    """A dbt project and its options, from `open_project`; it holds nothing open.

    Every method takes `select` and `exclude`, which stand in place of the project's own selection. What goes wrong at
    one table is in the outcome, and the others go on; ask `outcome.ok`, or call `outcome.require_ok()`. Every method
    raises a `BridgeError` where nothing can be done at all: `UsageError` where the project, its profile, a `bridge`
    block or an argument is wrong and nothing was touched, `MissingExtra` where an optional package is not installed.
    dbt runs once at a time in a process: for several projects at once take several processes.

    Attributes:
        options: dbt's, as they were given.
        progress: who hears what happens; None for nobody.
        lock_wait: seconds to wait for a DuckDB file that another process holds, or a table of PostgreSQL.
    """

    options: DbtOptions
    progress: Progress | Callable[[str], None] | None = field(default=None, repr=False, compare=False)
    lock_wait: float = DEFAULT_SECONDS

    @waits
    def sync(
        self,
        *,
        select: Selectors | None = None,
        exclude: Selectors | None = None,
        full_refresh: bool = False,
        until_lsn: str | None = None,
        max_seconds: float | None = None,
    ) -> SyncOutcome:
        """Land the sources: their rows come from the origins into the warehouse.

        Args:
            full_refresh: copy every table anew, whatever its checkpoint says.
            until_lsn: bring cdc sources up to this LSN (`0/16B3748`) only; by default to where their log ends now.
            max_seconds: let cdc sources stop at the next commit after this time.
        """
        from dbt_bridge.run.outcomes import Receipts, SyncOutcome
        from dbt_bridge.run.sync import SyncOptions, sync

        project = self._read(select, exclude, full_refresh=full_refresh)
        options = SyncOptions(full_refresh, self.options.threads, until_lsn, max_seconds)
        return SyncOutcome(Receipts(sync(project, options, as_progress(self.progress))))

    @waits
    def build(
        self,
        *,
        select: Selectors | None = None,
        exclude: Selectors | None = None,
        verify: bool = False,
        full_refresh: bool = False,
        until_lsn: str | None = None,
        max_seconds: float | None = None,
        dbt_output: bool = False,
    ) -> BuildOutcome:
        """Land what the selection needs, run `dbt build`, deliver what passed.

        An exposure is delivered only when every model above it and every test on them passed.

        Args:
            verify: compare what landed with its origins; deliver only what comes from equal.
            full_refresh: copy and build everything anew.
            until_lsn, max_seconds: as for `sync`.
            dbt_output: dbt prints to standard output what it does; by default its errors only.

        Raises:
            DbtFailed: dbt stopped before or while it ran nodes.
            UsageError: dbt 2 is to run a Python model that it cannot.
        """
        from dbt_bridge.project.invoke import build as dbt_build
        from dbt_bridge.project.runners.python_models import refuse_python_models
        from dbt_bridge.run.build import build
        from dbt_bridge.run.sync import SyncOptions

        project = self._read(select, exclude, full_refresh=full_refresh)
        refuse_python_models(project)
        return build(
            project,
            lambda: dbt_build(project.options, quiet=not dbt_output),
            SyncOptions(full_refresh, self.options.threads, until_lsn, max_seconds),
            as_progress(self.progress),
            verify=verify,
        )

    @waits
    def deliver(
        self, *, select: Selectors | None = None, exclude: Selectors | None = None, dry_run: bool = False
    ) -> DeliverOutcome:
        """Deliver the exposures, as the last `dbt build` left their models (reverse ETL).

        Args:
            dry_run: only count what would be inserted, updated and deleted.

        Raises:
            UsageError: nothing was ever built here.
        """
        from dbt_bridge.run.deliver import deliver_last_build

        return deliver_last_build(self._read(select, exclude), as_progress(self.progress), dry_run=dry_run)

    @waits
    def verify(
        self,
        *,
        select: Selectors | None = None,
        exclude: Selectors | None = None,
        level: Level = "rows",
        method: Method = "auto",
        bound: str = "auto",
        shown: int = 100,
    ) -> CompareOutcome:
        """Prove that the landing tables hold what their origins hold, and delivered tables what their models hold.

        Tables that follow a log (cdc) are compared at one LSN while writers go on; others as they are now.

        Args:
            level: `counts` of rows, `aggregates` of each column, or every value of all `rows`.
            method: how rows are compared: `digests`, `buckets`, `values`, or as suits (`auto`).
            bound: for tables with a cursor: leave out rows beyond the checkpoint (`auto`), `none`, or those beyond a
                value of the cursor.
            shown: differences of each table in `parity.examples`.

        Raises:
            UsageError: nothing was compared, as a gate that compared nothing must not pass.
        """
        from dbt_bridge.run.outcomes import CompareOutcome, Parities
        from dbt_bridge.run.selected_nothing import MOVED, require_compared

        project = self._read(select, exclude)
        with require_extra("verify", "comparing rows"):
            from dbt_bridge.prove.recorder import VerifyOptions
            from dbt_bridge.prove.verify import verify
        options = VerifyOptions(level, method, bound, shown, self.options.threads)
        parities = verify(project, options, as_progress(self.progress))
        require_compared(parities, MOVED, project.options)
        return CompareOutcome(project.name, Parities(parities))

    @waits
    def reconcile(
        self,
        *,
        select: Selectors | None = None,
        exclude: Selectors | None = None,
        level: Level | None = None,
        method: Method = "auto",
        shown: int = 100,
    ) -> CompareOutcome:
        """Compare models with what they replace: relations, queries and metrics of a legacy system.

        Args:
            level: instead of the levels that the models declare.
            method, shown: as for `verify`.

        Raises:
            UsageError: nothing was compared, as a gate that compared nothing must not pass.
        """
        from dbt_bridge.run.outcomes import CompareOutcome, Parities
        from dbt_bridge.run.selected_nothing import REPLACING, require_compared

        project = self._read(select, exclude)
        with require_extra("verify", "comparing rows"):
            from dbt_bridge.prove.reconcile import ReconcileOptions, reconcile
        parities = reconcile(project, ReconcileOptions(level, method, shown), as_progress(self.progress))
        require_compared(parities, REPLACING, project.options)
        return CompareOutcome(project.name, Parities(parities))

    @waits
    def repair(
        self,
        *,
        select: Selectors | None = None,
        exclude: Selectors | None = None,
        max_share: float | None = None,
        dry_run: bool = False,
    ) -> RepairOutcome:
        """Compare as `verify` does, copy the rows that differ again, and compare these once more.

        Args:
            max_share: touch at most this share of a table's rows (0.05 is 5%); None for 1%, or 100 rows.
            dry_run: only tell what would be inserted, updated and deleted.

        Raises:
            UsageError: nothing was compared.
        """
        from dbt_bridge.run.outcomes import RepairOutcome
        from dbt_bridge.run.recorded_build import find_known
        from dbt_bridge.run.selected_nothing import MOVED, require_compared

        project = self._read(select, exclude)
        with require_extra("verify", "comparing rows"):
            from dbt_bridge.prove.repair import RepairOptions, repair
        options = RepairOptions(max_share, dry_run, self.options.threads)
        known = find_known(project, keep=not dry_run) if project.deliveries else {}
        repaired = repair(project, options, as_progress(self.progress), known)
        require_compared(repaired.parities, MOVED, project.options)
        return RepairOutcome(repaired)

    def stream(
        self,
        *,
        select: Selectors | None = None,
        exclude: Selectors | None = None,
        every: float = 2.0,
        build: bool = False,
        full_refresh: bool = False,
        max_seconds: float | None = None,
        stop: threading.Event | None = None,
    ) -> StreamOutcome:
        """Follow the cdc sources until stopped: changes land within seconds. What is being committed is finished.

        A broken connection is tried again, with pauses that grow to a minute; every other error is raised.

        Args:
            every: seconds between commits, at most.
            build: after each batch that changed something, `dbt build` of the models downstream of it.
            full_refresh: copy every table anew first.
            max_seconds: stop after this time.
            stop: set it from another thread to stop.
        """
        prepared = self.prepare_stream(
            select=select,
            exclude=exclude,
            every=every,
            build=build,
            full_refresh=full_refresh,
            max_seconds=max_seconds,
        )
        return prepared.run(as_watch(self.progress), stop or threading.Event())

    @waits
    def prepare_stream(
        self,
        *,
        select: Selectors | None = None,
        exclude: Selectors | None = None,
        every: float = 2.0,
        build: bool = False,
        full_refresh: bool = False,
        max_seconds: float | None = None,
    ) -> Stream:
        """The first half of `stream`: the project is read, and what `run` needs is there."""
        project = self._read(select, exclude, full_refresh=full_refresh)
        from dbt_bridge.cdc.stream_connection import StreamOptions
        from dbt_bridge.run.stream import Stream

        return Stream(project, StreamOptions(every, full_refresh, self.options.threads, max_seconds), build)

    @waits
    def plan(self, *, select: Selectors | None = None, exclude: Selectors | None = None) -> Plan:
        """What `build` would do, in order, without connecting to anything."""
        from dbt_bridge.run.plan import make_plan

        return make_plan(self._read(select, exclude))

    def doctor(self, *, select: Selectors | None = None, exclude: Selectors | None = None) -> Findings:
        """Look at every connection, privilege and setting that the project needs; each fault says what mends it.

        A project that cannot be read is a finding too.
        """
        from dbt_bridge.run.doctor import Findings

        return Findings(self.stream_findings(select=select, exclude=exclude))

    def stream_findings(
        self, *, select: Selectors | None = None, exclude: Selectors | None = None
    ) -> Iterator[Finding]:
        """The findings of `doctor`, each as soon as it is known."""
        from dbt_bridge.run.doctor import stream_findings

        return iterate_waiting(self.patience, stream_findings(lambda: self._read(select, exclude)))

    @waits
    def slots(self, *, select: Selectors | None = None, exclude: Selectors | None = None) -> SlotReports:
        """The replication slots of the cdc sources: lag, log that they retain, and what mends a fault."""
        from dbt_bridge.cdc.slots import list_reports
        from dbt_bridge.run.outcomes import SlotReports

        return SlotReports(list_reports(self._read(select, exclude)))

    @waits
    def drop_slots(
        self,
        name: str | None,
        *,
        confirm: Callable[[Sequence[LandingSource]], None] = lambda _: None,
        report: Callable[[Dropped], None] = lambda _: None,
    ) -> tuple[Dropped, ...]:
        """Drop the slot of a cdc source, with its publications, without asking anybody.

        The landing tables stay; the next sync copies them anew. A slot that somebody reads is not dropped.

        Args:
            name: of the slot; None for those of all cdc sources of the project, which is never the default.
            confirm: called with the sources before anything is touched; raises to let them be.
            report: called after each slot that was dropped.

        Raises:
            UsageError: no cdc source of the project has this slot.
            OriginError: somebody reads a slot; names the server process.
        """
        project = self._read(None, None)
        from dbt_bridge.cdc.slots import drop_slots, find_sources

        sources = find_sources(project, name)
        if sources:
            confirm(sources)
        dropped: list[Dropped] = []
        for one in drop_slots(project, sources):
            dropped.append(one)
            report(one)
        return tuple(dropped)

    @property
    def patience(self) -> LockWait:
        """How long what is held by others is waited for, and who hears of it."""
        return LockWait(self.lock_wait, as_progress(self.progress).message)

    def _read(self, select: Selectors | None, exclude: Selectors | None, *, full_refresh: bool = False) -> Project:
        """The project as it is now, with the selection of one call."""
        from dbt_bridge.project.load import load_project

        options = replace(
            self.options,
            select=self.options.select if select is None else _as_selectors(select),
            exclude=self.options.exclude if exclude is None else _as_selectors(exclude),
            full_refresh=full_refresh,
        )
        return load_project(options)


def _nearest_project() -> Path:
    from dbt_bridge.project.load import nearest_project

    return nearest_project(Path.cwd())


def _as_selectors(selectors: Selectors) -> tuple[str, ...]:
    return (selectors,) if isinstance(selectors, str) else tuple(selectors)
