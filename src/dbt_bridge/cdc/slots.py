"""The replication slots of a project's cdc sources: how they stand, and their removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dbt_bridge.cdc.unused_logs import UnusedLog, UnusedLogs, find_named
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.errors import BridgeError, UsageError
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.project import LandingSource, LandingTable, Project
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.project.destinations import find_warehouse_connector, open_warehouse
from dbt_bridge.project.origins import open_change_source
from dbt_bridge.sync.ends import find_ledger

_NOT_YET = "there is no slot of this name yet"


@dataclass(frozen=True, slots=True)
class SlotReport:
    """How one source's slot stands.

    Attributes:
        active: somebody reads it now: a stream, or a sync in work.
        lag_bytes: log that was written since the landing tables were last brought up; None without a slot.
        lag_seconds: while somebody reads it: from the origin's write to their confirmation. Else: since when nobody
            reads it, which is how old the landing tables may be; None before PostgreSQL 17, which does not know.
        retained_bytes: log that the server keeps for it.
        wal_status: reserved, extended, unreserved or lost, as Postgres says; None without a slot.
        problem: what is wrong with it; empty when all is well.
        mend: the next command, where something is wrong.
    """

    source: str
    origin: str
    slot: str
    active: bool = False
    active_pid: int | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    retained_bytes: int | None = None
    wal_status: str | None = None
    max_wal: int | None = None
    problem: str = ""
    mend: str = ""

    @property
    def is_fault(self) -> bool:
        """Something is wrong; a slot that no sync has made yet is no fault."""
        return bool(self.problem) and self.problem != _NOT_YET

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was taken away with a source's slot.

    Attributes:
        slot: None when there was none of this name.
        publications: those that dbt-bridge had made.
        nodes: unique_ids of the tables that the next sync copies anew.
    """

    source: str
    slot: str | None
    publications: tuple[str, ...]
    nodes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def list_followed_sources(project: Project) -> list[LandingSource]:
    """The sources that have a table with `replication: cdc` and that the selection needs."""
    return [source for source in project.sources if _is_followed(source) and project.needs_source(source)]


def list_reports(project: Project) -> list[SlotReport]:
    """One per cdc source, and one for each slot that no source uses any more; an origin that cannot be asked is a
    problem of its own."""
    found = [(source, _report(project.root, source)) for source in list_followed_sources(project)]
    points = _read_checkpoints(project)
    logs = UnusedLogs(project, points)
    unused = [
        SlotReport("", one.origin, one.slot, retained_bytes=one.retained_bytes, problem=one.what, mend=one.mend)
        for origin in logs.origins
        for one in logs.of(origin)
    ]
    return unused + [
        replace(
            report,
            problem="the slot is gone: it was dropped, or the server was restored or replaced without it",
            mend=f"dbt-bridge sync --full-refresh --select {_selector(source)}",
        )
        if report.problem == _NOT_YET and any(_is_of(point, source) for point in points)
        else report
        for source, report in found
    ]


def _read_checkpoints(project: Project) -> list[Checkpoint]:
    """What the warehouse remembers; nothing where it is not there yet, and is not made by looking."""
    if find_warehouse_connector(project.warehouse).find_missing_file(project.warehouse) is not None:
        return []
    databases = {"", *(source.landing_database for source in list_followed_sources(project))}  # also where none is left
    with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
        ledgers = {id(ledger): ledger for ledger in (find_ledger(warehouse, database) for database in databases)}
        return [point for ledger in ledgers.values() for point in ledger.checkpoints()]


def find_sources(project: Project, name: str | None) -> list[LandingSource]:
    """The sources whose slot is meant: all of them without a name.

    Raises:
        UsageError: no source of the project has a slot of this name.
    """
    sources = list_followed_sources(project)
    if name is None:
        return sources
    chosen = [source for source in sources if name in (source.slot, source.name)]
    if not chosen:
        unused = find_named(UnusedLogs(project, _read_checkpoints(project)), name)
        chosen = [_without_source(one) for one in unused]
    if not chosen:
        known = [source.slot for source in sources]
        nearest = get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise UsageError(
            f"no cdc source of this project has the slot {name!r}" + (f"; they have {', '.join(known)}" * bool(known)),
            mend=f"{hint}to drop another one, as its owner: SELECT pg_drop_replication_slot('{name}');",
        )
    return chosen


def _without_source(unused: UnusedLog) -> LandingSource:
    """What stands for the source that a log was kept for: it has no name any more."""
    return LandingSource(
        name="",
        landing_schema="",
        landing_database="",
        tables=(),
        defaults=LandingTable("", "", ""),
        origin=unused.origin,
        slot=unused.slot,
    )


def drop_slots(project: Project, sources: list[LandingSource]) -> Iterator[Dropped]:
    """Drop the slots and publications of sources, and forget how far their tables had come.

    Nothing of a source is touched while somebody reads its slot. The landing tables stay as they are.

    Raises:
        OriginError: somebody reads a slot; names the server process.
    """
    with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
        for source in sources:
            yield _drop_one(project.root, source, warehouse)


def _drop_one(root: Path, source: LandingSource, warehouse: Ledger) -> Dropped:
    with open_change_source(source, project_root=root) as changes:
        dropped = changes.drop_log()
    ledger = find_ledger(warehouse, source.landing_database)
    nodes = [point.node for point in ledger.checkpoints() if _is_of(point, source)]
    for node in nodes:
        ledger.forget(node)
    return Dropped(source.name, source.slot if dropped.existed else None, dropped.publications, tuple(nodes))


def _report(root: Path, source: LandingSource) -> SlotReport:
    blank = SlotReport(source.name, source.origin, source.slot, max_wal=source.max_wal)
    try:
        with open_change_source(source, project_root=root) as changes:
            health = changes.check_health(f"dbt-bridge sync --select {_selector(source)}")
    except BridgeError as error:
        return replace(blank, problem=error.what, mend=error.mend)
    if not health.exists:
        return replace(blank, problem=_NOT_YET, mend="dbt-bridge sync")
    return replace(
        blank,
        active=health.active,
        active_pid=health.active_pid,
        lag_bytes=health.lag_bytes,
        lag_seconds=health.lag_seconds,
        retained_bytes=health.retained_bytes,
        wal_status=health.wal_status,
        problem=health.problem,
        mend=health.mend,
    )


def _selector(source: LandingSource) -> str:
    """All of a source."""
    return format_shell_selector(source.defaults.node.removesuffix("."))


def _is_of(point: Checkpoint, source: LandingSource) -> bool:
    """Whether a checkpoint is a position of this source's slot, also of a table that is not declared any more."""
    prefix = source.defaults.node.removesuffix(".") + "."
    return bool(point.slot) and (point.node.startswith(prefix) or point.slot.endswith(f"/{source.slot}"))


def _is_followed(source: LandingSource) -> bool:
    return "cdc" in {source.defaults.replication, *(table.replication for table in source.tables)}
