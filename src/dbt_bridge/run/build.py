"""build = sync -> (verify) -> dbt build -> deliver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from dbt_bridge.contracts.destination import Destination, Ledger
from dbt_bridge.deliver import delivery as outgoing
from dbt_bridge.deliver.gate import PASSED, refusal
from dbt_bridge.errors import BridgeError, MissingExtra, UsageError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.receipt import Receipt, new_load_id
from dbt_bridge.nouns.table import TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.destinations import open_destination, open_warehouse
from dbt_bridge.project.origins import find_change_source, open_origin
from dbt_bridge.sync.landing import (
    Ends,
    Wanted,
    land,
    wanted_tables,
)

if TYPE_CHECKING:
    from dbt_bridge.nouns.parity import Parity


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beyond the selection.

    Attributes:
        threads: tables that move at once; None for the dbt profile's number.
        dry_run: deliveries only count.
        verify: what landed is compared with its origins, and what differs is not delivered on.
        until_lsn: where cdc sources stop, as their origin writes a position; None for where its log ends when they
            start.
        max_seconds: after which cdc sources stop at the next commit; None for no bound.
    """

    full_refresh: bool = False
    threads: int | None = None
    dry_run: bool = False
    verify: bool = False
    until_lsn: str | None = None
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened.

    Attributes:
        statuses: dbt's status per unique_id of what ran; empty when dbt did not run.
        dbt_ok: None when dbt did not run.
        parities: of what was compared.
    """

    receipts: tuple[Receipt, ...]
    statuses: Mapping[str, str]
    dbt_ok: bool | None = None
    parities: tuple[Parity, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing failed. A delivery whose ancestors were not all selected is skipped, and that is no failure."""
        moved = self.dbt_ok is not False and all(receipt.status != "failed" for receipt in self.receipts)
        return moved and all(parity.is_equal for parity in self.parities)


DbtBuild = Callable[[], tuple[Mapping[str, str], bool]]
"""Runs `dbt build`: the statuses per unique_id, and whether all is well."""


def build(project: Project, dbt_build: DbtBuild, options: Options, progress: Progress) -> Outcome:
    """Land what the selection needs, build on it, deliver what passed. Stops before dbt when a table did not land.

    With `options.verify` dbt builds on what was compared with its origins (cdc tables at one LSN); where that is not
    equal dbt runs all the same, and nothing is delivered that comes from there. Models that are required to reconcile
    are compared with what they replace once dbt has built them.

    Raises:
        UsageError: an origin or a destination is not configured; or a bound for cdc tables, and a verification that
            brings them to a point of its own.
    """
    if options.verify and (options.until_lsn is not None or options.max_seconds is not None):
        raise UsageError(
            "--verify brings cdc tables to an LSN of its own, so --until-lsn and --max-seconds cannot hold them back",
            mend="dbt-bridge sync with the bound, then dbt-bridge build --verify without it",
        )
    load_id = new_load_id()
    landed = sync(project, options, progress, load_id=load_id)
    if any(receipt.status == "failed" for receipt in landed):
        progress.message("dbt was not run: not every table landed")
        return Outcome(tuple(landed), {})
    parities = _verified(project, options, progress) if options.verify else []
    statuses, dbt_ok = dbt_build()
    required, unreconciled = reconciled(project, statuses, progress)
    unproven = {
        parity.node: "it is not what its origin has (verify)"
        if parity.status == "different"
        else "it could not be compared with its origin (verify)"
        for parity in parities
        if not parity.is_equal
    }
    delivered = deliver(project, statuses, options, progress, load_id=load_id, unproven=unproven | unreconciled)
    return Outcome((*landed, *delivered), statuses, dbt_ok, (*parities, *required))


def _verified(project: Project, options: Options, progress: Progress) -> list[Parity]:
    from dbt_bridge import run

    return run.verify(project, run.VerifyOptions(threads=options.threads), progress, deliveries=False)


def reconciled(
    project: Project, statuses: Mapping[str, str], progress: Progress, *, for_deliveries: bool = False
) -> tuple[list[Parity], dict[str, str]]:
    """The models with `required: true` that dbt built, compared with what they replace; and what must not be delivered.

    Args:
        statuses: dbt's status per unique_id of what ran.
        for_deliveries: only those models that a selected exposure depends on.
    """
    due = {r.node for r in project.reconciliations if r.required and statuses.get(r.node) in PASSED}
    if for_deliveries:
        due &= {
            n for d in project.deliveries if project.selected is None or d.node in project.selected for n in d.ancestors
        }
    if not due:
        return [], {}
    from dbt_bridge import run

    parities = run.reconcile_required(project, due, progress)
    said = {"different": "it does not reconcile with", "failed": "it could not be compared with"}
    return parities, {p.node: f"{said[p.status]} {p.origin}" for p in parities if not p.is_equal}


def sync(project: Project, options: Options, progress: Progress, *, load_id: str | None = None) -> list[Receipt]:
    """Land the needed tables. All tables of one origin come from one moment and become visible together."""
    load_id = load_id or new_load_id()
    sources = [source for source in project.sources if project.needs_source(source)]
    if not sources:
        return []
    by_ends: dict[tuple[str, str | None], list[LandingSource]] = defaultdict(list)
    for source in sources:
        by_ends[source.origin, source.destination].append(source)
    _check_before_anything_moves(project, sources, load_id)
    _check_bound(project, sources, options.until_lsn)
    receipts: list[Receipt] = []
    with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
        for (_, destination), group in by_ends.items():
            receipts += _sync_origin(project, group, destination, warehouse, load_id, options, progress)
    return receipts


def _sync_origin(  # the pieces of one call of `land`
    project: Project,
    sources: Sequence[LandingSource],
    destination_name: str | None,
    warehouse: Ledger,
    load_id: str,
    options: Options,
    progress: Progress,
) -> list[Receipt]:
    threads = options.threads or project.warehouse.threads
    try:
        destination: Destination = (
            open_destination(destination_name, project_root=project.root) if destination_name else warehouse
        )
    except UsageError:
        raise
    except BridgeError as error:
        return _all_failed(project, sources, load_id, error, warehouse, progress)
    try:
        with open_origin(sources[0].origin, project_root=project.root) as origin:
            wanted = [w for s in sources for w in wanted_tables(s, origin, project.needs, load_id)]
            _refuse_doubles(wanted)
            ends = Ends(origin, destination, warehouse)
            copied = [w for w in wanted if w.table.replication != "cdc"]
            receipts: list[Receipt] = []
            if copied:
                _follow_no_more(warehouse, copied)
                receipts = land(ends, copied, progress, full_refresh=options.full_refresh, threads=threads)
            if len(copied) < len(wanted):
                receipts += _caught_up(project, sources, ends, load_id, options, progress)
            return receipts
    except UsageError:
        raise
    except BridgeError as error:
        return _all_failed(project, sources, load_id, error, warehouse, progress)
    finally:
        if destination is not warehouse:
            destination.close()


def _follow_no_more(ledger: Ledger, wanted: Sequence[Wanted]) -> None:
    """Tables that were followed and land otherwise now are newer than their LSN: to be followed again is a new copy."""
    nodes = {item.table.node for item in wanted}
    points = [point for point in ledger.checkpoints() if point.slot and point.node in nodes and point.stands]
    if points:
        ledger.save([point.put_aside("it landed without cdc since") for point in points], [])


def _caught_up(
    project: Project, sources: Sequence[LandingSource], ends: Ends, load_id: str, options: Options, progress: Progress
) -> list[Receipt]:
    """The cdc tables, each source through its own log."""
    from dbt_bridge.cdc.capture import Bounds, CaptureOptions, open_capture

    chosen = CaptureOptions(load_id, options.full_refresh, options.threads or project.warehouse.threads)
    receipts: list[Receipt] = []
    for source in sources:
        capture = open_capture(project, source, ends, chosen, progress)
        if capture is not None:
            with capture:
                try:
                    with capture.changes.share_landing():
                        receipts += capture.catch_up(Bounds(options.until_lsn, options.max_seconds))
                except UsageError:
                    raise
                except BridgeError as error:  # of this source alone
                    receipts += capture.fail(error)
    return receipts


def _check_before_anything_moves(project: Project, sources: Sequence[LandingSource], load_id: str) -> None:
    """An origin that is not configured, or two declarations of one landing table, must not leave half a sync."""
    for origin in {source.origin for source in sources}:
        with suppress(MissingExtra):  # told in the receipts of its tables
            open_origin(origin, project_root=project.root)
    for destination in {source.destination for source in sources}:
        alike = [source for source in sources if source.destination == destination]
        _refuse_doubles([w for s in alike for w in wanted_tables(s, None, project.needs, load_id)])


def _check_bound(project: Project, sources: Sequence[LandingSource], until: str | None) -> None:
    """Raises UsageError: a source with a log cannot read the position."""
    if until is None:
        return
    for source in [source for source in sources if source.follows_log]:
        with suppress(MissingExtra):  # told in the receipts of its tables
            changes = find_change_source(source, project_root=project.root)
            if changes is not None:
                changes.parse_position(until)


def _refuse_doubles(wanted: Sequence[Wanted]) -> None:
    """Two declarations that land in one table would overwrite each other."""
    seen: dict[TableName, Wanted] = {}
    for item in wanted:
        other = seen.setdefault(item.landing, item)
        if other is not item:
            raise UsageError(
                f"{other.table.node} and {item.table.node} both land in {item.landing}",
                mend="give one of the sources another `schema:`",
            )


def _all_failed(  # the origin or the destination could not be reached
    project: Project,
    sources: Sequence[LandingSource],
    load_id: str,
    error: BridgeError,
    warehouse: Ledger,
    progress: Progress,
) -> list[Receipt]:
    wanted = [w for source in sources for w in wanted_tables(source, None, project.needs, load_id)]
    receipts = [record.failed(item.receipt, error) for item in wanted]
    if not receipts:  # `tables: "*"` alone: there is no table to name
        source = sources[0]
        blank = record.opened(
            load_id,
            source.defaults.replication,
            source.defaults.node,
            origin=source.origin,
            destination=source.destination or warehouse.name,
            table_name=f"{source.landing_schema}.*",
            write_disposition="replace",
        )
        receipts = [record.failed(blank, error)]
    warehouse.record(receipts)
    for receipt in receipts:
        progress.finished(receipt)
    return receipts


def deliver(
    project: Project,
    statuses: Mapping[str, str],
    options: Options,
    progress: Progress,
    *,
    load_id: str | None = None,
    unproven: Mapping[str, str] = MappingProxyType({}),
) -> list[Receipt]:
    """Deliver the selected exposures whose ancestors and their tests all passed; a skipped one says why.

    Args:
        statuses: dbt's status per unique_id, of this run or of the last one.
        unproven: source tables and models on which nothing may be delivered, and why.
    """
    load_id = load_id or new_load_id()
    chosen = [d for d in project.deliveries if project.selected is None or d.node in project.selected]
    if not chosen:
        return []
    receipts: list[Receipt] = []
    with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
        for item in chosen:
            receipt = outgoing.opened(item, load_id)
            if why := refusal(item, statuses, unproven):
                receipt = record.skipped(receipt, why)
            else:
                receipt = outgoing.delivered(item, warehouse, project.root, receipt, progress, dry_run=options.dry_run)
            if options.dry_run and receipt.status == "success":
                receipt = replace(receipt, error="dry run: nothing was written")
            if not options.dry_run:
                warehouse.record([receipt])  # at once: what follows may be killed
            progress.finished(receipt)
            receipts.append(receipt)
    return receipts
