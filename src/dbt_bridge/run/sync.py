"""sync: the sources that a selection needs land in the warehouse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from dbt_bridge.cdc.unused_logs import UnusedLogs
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.errors import BridgeError, MissingExtra, UsageError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.nouns.receipt import Receipt, new_load_id
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.claims import make_rules_of, refuse_shared_databases, refuse_undeclared
from dbt_bridge.project.destinations import open_destination, open_place, open_warehouse
from dbt_bridge.project.origins import find_change_source, open_origin
from dbt_bridge.run.last_look import remember
from dbt_bridge.run.selected_nothing import nothing_there
from dbt_bridge.sync.ends import Ends, find_ends
from dbt_bridge.sync.landing import land
from dbt_bridge.sync.left_tables import make_empty_error, set_left_aside
from dbt_bridge.sync.unfit import leave_out_empty
from dbt_bridge.sync.wanted import Wanted, group_by_database, list_wanted_tables


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How sources land.

    Attributes:
        full_refresh: copy every table anew, whatever its checkpoint says.
        threads: tables that move at once; None for the dbt profile's number.
        until_lsn: where cdc sources stop, as their origin writes a position; None for where its log ends when they
            start.
        max_seconds: after which cdc sources stop at the next commit; None for no bound.
    """

    full_refresh: bool = False
    threads: int | None = None
    until_lsn: str | None = None
    max_seconds: float | None = None


def sync(project: Project, options: SyncOptions, progress: Progress, *, load_id: str | None = None) -> list[Receipt]:
    """Land the needed tables. All tables of one origin come from one moment and become visible together.

    Raises:
        UsageError: an origin or a destination is not configured, two tables land in one, or the selection names
            nothing, neither in dbt nor at the origins; nothing was moved.
    """
    load_id = load_id or new_load_id()
    refuse_shared_databases(project)
    sources = [source for source in project.sources if project.needs_source(source)]
    if not sources:
        return []
    by_ends: dict[tuple[str, str | None], list[LandingSource]] = defaultdict(list)
    for source in sources:
        by_ends[source.origin, source.destination].append(source)
    _check_declarations(project, sources, load_id)
    _check_bound(project, sources, options.until_lsn)
    receipts: list[Receipt] = []
    with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
        for database in {relation.database for source in sources for relation in source.relations}:
            open_place(warehouse, database, to_write=True)  # what cannot be written to is told before anything moves
        run = _Run(project, options, load_id, warehouse, progress, UnusedLogs(project, warehouse.checkpoints()))
        for group in by_ends.values():
            receipts += _sync_group(run, group)
        _tell_unused(run, receipts)
    remember(project, {**run.seen, **{one.node: _list_lacking(one) for one in receipts if one.status == "success"}})
    if not receipts and project.selected == frozenset() and run.not_selected:
        raise nothing_there(project.options, run.not_selected)
    return receipts


@dataclass(frozen=True, slots=True)
class _Run:
    """What all sources of one sync share.

    Attributes:
        not_selected: unique_ids of what origins have of which the selection needs nothing.
        seen: see `remember`.
    """

    project: Project
    options: SyncOptions
    load_id: str
    warehouse: Ledger
    progress: Progress
    unused: UnusedLogs
    not_selected: list[str] = field(default_factory=list)
    seen: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        return self.options.threads or self.project.warehouse.threads


def _sync_group(run: _Run, sources: Sequence[LandingSource]) -> list[Receipt]:
    """Sources with the same origin and destination."""
    root, name = run.project.root, sources[0].destination
    try:
        destination = open_destination(name, project_root=root) if name else None
    except UsageError:
        raise
    except BridgeError as error:
        return _fail_all(run, sources, error)
    try:
        rules = make_rules_of(run.project)(name)
        with open_origin(sources[0].origin, project_root=root) as origin:
            there = {s.defaults.node: list_wanted_tables(s, origin, lambda _: True, run.load_id) for s in sources}
            wanted = [one for every in there.values() for one in every if run.project.needs(one.table.node)]
            if not wanted:
                run.not_selected.extend(one.table.node for every in there.values() for one in every)
            wanted = leave_out_empty(wanted, origin, run.progress.message)
            _refuse_doubles(run.project, wanted)

            def find(database: str) -> Ends:
                return find_ends(origin, destination, run.warehouse, database, rules)

            _tell_left(run, sources, find)
            receipts = _fail_empty(run, [source for source in sources if not there[source.defaults.node]])
            copied = [w for w in wanted if w.table.replication != "cdc"]
            for database, items in group_by_database(copied).items():
                receipts += _copy(run, items, find(database))
            for source in [source for source in sources if source.follows_log]:
                is_idle = not any(one.table.replication == "cdc" for one in there[source.defaults.node])
                receipts += (_release if is_idle else _catch_up)(run, source, find(source.landing_database))
            return receipts
    except UsageError:
        raise
    except BridgeError as error:
        return _fail_all(run, sources, error)
    finally:
        if destination is not None:
            destination.close()


def _tell_left(run: _Run, sources: Sequence[LandingSource], find: Callable[[str], Ends]) -> None:
    """Landings that nobody keeps any more, of tables that their origin has no more."""
    for source in [source for source in sources if source.every_table]:
        told = set_left_aside(find(source.landing_database), source, run.project.needs)
        run.seen[source.defaults.node.removesuffix(".")] = [(left.what, left.mend) for left in told]
        for left in told:
            run.progress.message(left.line)


def _fail_empty(run: _Run, sources: Sequence[LandingSource]) -> list[Receipt]:
    """Sources for which their origin has no table at all."""
    receipts: list[Receipt] = []
    for source in sources:
        failed = record.fail_receipt(_start_blank_receipt(run, source), make_empty_error(source))
        receipts += _fail(run, [failed])
    return receipts


def _copy(run: _Run, wanted: Sequence[Wanted], ends: Ends) -> list[Receipt]:
    """Tables of one database, as they are now."""
    _stop_following(ends.ledger, wanted)
    return land(ends, wanted, run.progress, full_refresh=run.options.full_refresh, threads=run.threads)


def _stop_following(ledger: Ledger, wanted: Sequence[Wanted]) -> None:
    """Tables that were followed and land otherwise now are newer than their LSN: to be followed again is a new copy."""
    nodes = {item.table.node for item in wanted}
    points = [point for point in ledger.checkpoints() if point.slot and point.node in nodes and point.stands]
    if points:
        ledger.save([point.put_aside("it landed without cdc since") for point in points], [])


def _catch_up(run: _Run, source: LandingSource, ends: Ends) -> list[Receipt]:
    """The cdc tables of a source, through its own log."""
    from dbt_bridge.cdc.capture import Bounds, CaptureOptions, open_capture

    options = CaptureOptions(run.load_id, run.options.full_refresh, run.threads)
    capture = open_capture(run.project, source, ends, options, run.progress)
    if capture is None:
        return []
    with capture:
        try:
            with capture.changes.share_landing():
                capture.catch_up(Bounds(run.options.until_lsn, run.options.max_seconds))
            run.unused.refuse_beyond(source)
            return capture.receipts
        except UsageError:
            raise
        except BridgeError as error:  # of this source alone
            return capture.fail(error)


def _release(run: _Run, source: LandingSource, ends: Ends) -> list[Receipt]:
    """A source that follows no table now: its log is let go of."""
    from dbt_bridge.cdc.idle_log import release_idle_log

    try:
        release_idle_log(run.project, source, ends, run.progress)
    except UsageError:
        raise
    except BridgeError as error:
        return _fail(run, [record.fail_receipt(_start_blank_receipt(run, source), error)])
    return []


def _list_lacking(receipt: Receipt) -> list[tuple[str, str]]:
    """The columns without which a table landed, as a note."""
    return [(f"lands without {receipt.without}", "")] if receipt.without else []


def _tell_unused(run: _Run, receipts: Sequence[Receipt]) -> None:
    """Logs that fill the disks of the origins that answered, and of those that no source names any more."""
    failed = {receipt.origin for receipt in receipts if receipt.status == "failed"}
    failed -= {receipt.origin for receipt in receipts if receipt.status == "success"}
    named = {source.origin for source in run.project.sources}
    needed = {source.origin for source in run.project.sources if run.project.needs_source(source)} - failed
    for origin in run.unused.origins:
        if origin in named and origin not in needed:
            continue
        run.seen[f"origin {origin}"] = []
        for unused in run.unused.of(origin):
            run.progress.message(f"{unused.what}\n  -> {unused.mend}")
            run.seen[f"origin {origin}"].append((unused.what, unused.mend))


def _check_declarations(project: Project, sources: Sequence[LandingSource], load_id: str) -> None:
    """An origin that is not configured, or two declarations of one landing table, must not leave half a sync."""
    for origin in {source.origin for source in sources}:
        with suppress(MissingExtra):  # the receipts of its tables report it
            open_origin(origin, project_root=project.root)
    _refuse_doubles(project, [w for s in sources if _may_meet(s, sources) for w in _list_wanted(project, s, load_id)])


def _list_wanted(project: Project, source: LandingSource, load_id: str) -> list[Wanted]:
    """Its tables, as far as its origin tells them now."""
    try:
        with open_origin(source.origin, project_root=project.root) as opened:
            return list_wanted_tables(source, opened, project.needs, load_id)
    except UsageError:
        raise
    except BridgeError:  # the receipts of its tables report it
        return list_wanted_tables(source, None, project.needs, load_id)


def _may_meet(source: LandingSource, sources: Sequence[LandingSource]) -> bool:
    """Whether tables that only their origins know may land where those of another origin do."""
    schema, place = source.landing_schema.casefold(), source.destination
    others = [other for other in sources if (other.landing_schema.casefold(), other.destination) == (schema, place)]
    return any(other.every_table for other in others) and len({other.origin for other in others}) > 1


def _check_bound(project: Project, sources: Sequence[LandingSource], until: str | None) -> None:
    """Raises UsageError: a source with a log cannot read the position."""
    if until is None:
        return
    for source in [source for source in sources if source.follows_log]:
        with suppress(MissingExtra):  # the receipts of its tables report it
            changes = find_change_source(source, project_root=project.root)
            if changes is not None:
                changes.parse_position(until)


def _refuse_doubles(project: Project, wanted: Sequence[Wanted]) -> None:
    """Two that land in one table, or are built into it, would overwrite each other: also tables that dbt does not
    know."""
    refuse_undeclared(project, [(item.source, item.table) for item in wanted])


def _fail_all(run: _Run, sources: Sequence[LandingSource], error: BridgeError) -> list[Receipt]:
    """The origin or the destination of these sources could not be reached."""
    wanted = [w for source in sources for w in list_wanted_tables(source, None, run.project.needs, run.load_id)]
    # With `tables: "*"` alone there is no table to name.
    blanks = [item.receipt for item in wanted] or [_start_blank_receipt(run, sources[0])]
    return _fail(run, [record.fail_receipt(blank, error) for blank in blanks])


def _start_blank_receipt(run: _Run, source: LandingSource) -> Receipt:
    """Of all tables of a source together."""
    return record.start_receipt(
        run.load_id,
        source.defaults.replication,
        source.defaults.node,
        origin=source.origin,
        destination=source.destination or run.warehouse.name,
        table_name=str(source.relation_of(replace(source.defaults, identifier="*"))),
        write_disposition="replace",
    )


def _fail(run: _Run, receipts: list[Receipt]) -> list[Receipt]:
    """Write and report failed receipts."""
    run.warehouse.record(receipts)
    for receipt in receipts:
        run.progress.finished(receipt)
    return receipts
