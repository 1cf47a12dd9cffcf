"""Every connection, privilege and setting that a project needs, looked at; each fault with what mends it.

It asks the same functions that a run would ask, so that what it says is what a run would find. It writes nothing that
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from itertools import groupby
from typing import IO, Any

import pyarrow as pa

from dbt_bridge.arrow.type_names import apply_overrides
from dbt_bridge.cdc.census import Chosen, take_census
from dbt_bridge.cdc.followed_source import make_declared_table
from dbt_bridge.cdc.unused_logs import UnusedLogs
from dbt_bridge.contracts.capabilities import ChecksReading, HoldsTables
from dbt_bridge.contracts.change_feed import DeclaredTable, TableFinding
from dbt_bridge.contracts.destination import Destination, Ledger, Load
from dbt_bridge.contracts.origin import Described, Origin
from dbt_bridge.deliver.gate import refuse_unknown_columns
from dbt_bridge.errors import BridgeError, require_extra
from dbt_bridge.nouns.outcome import Outcome, rows_to_arrow
from dbt_bridge.nouns.project import Delivery, LandingSource, LandingTable, Project
from dbt_bridge.nouns.receipt import AUDIT_SCHEMA
from dbt_bridge.nouns.table import Column, Table, TableName, quote_identifier
from dbt_bridge.project.claims import make_rules_of
from dbt_bridge.project.destinations import open_destination, open_place, open_warehouse
from dbt_bridge.project.origins import WITHOUT_LOG, find_change_source, format_log_need, open_origin
from dbt_bridge.run.surroundings import Finding, check_installation, check_profile, check_secrets
from dbt_bridge.sync.ends import Ends, find_ends
from dbt_bridge.sync.landing_columns import shows
from dbt_bridge.sync.left_tables import make_empty_error
from dbt_bridge.sync.wanted import Wanted, list_wanted_tables

_HOUR = 3600
_PROBE = "_dbt_bridge_doctor"


class Findings(Outcome, tuple[Finding, ...]):
    """What the doctor found, in the order in which it looked."""

    __slots__ = ()

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(f"{finding.subject}: {finding.what}" for finding in self if finding.status == "fault")

    def as_document(self) -> dict[str, Any]:
        return self._make_document(checks=[asdict(finding) for finding in self])

    def to_arrow(self) -> pa.Table:
        """Columns subject, status (ok, note, fault), what, mend: texts."""
        return rows_to_arrow(Finding, self)


def stream_findings(load: Callable[[], Project]) -> Iterator[Finding]:
    """Look at everything, one finding at a time.

    Args:
        load: reads the project; what it raises is a finding too.
    """
    yield from check_installation()
    try:
        project = load()
    except BridgeError as error:
        yield _make_fault("dbt project", error)
        return
    yield Finding("dbt project", "ok", f"{project.name}: dbt parses it, and its profile is complete")
    yield from check_secrets(project.root)
    yield from check_profile(project.options)
    try:
        warehouse = open_warehouse(project.warehouse, project_root=project.root)
    except BridgeError as error:
        yield _make_fault(f"warehouse ({project.warehouse.adapter})", error)
        return
    with closing(warehouse):
        yield _check_writable(f"warehouse ({project.warehouse.adapter})", warehouse, AUDIT_SCHEMA)
        yield from _check_sources(project, warehouse)
        yield from _check_unused(project, warehouse)
        for delivery in project.deliveries:
            if project.selected is None or delivery.node in project.selected:
                yield from _check_delivery(delivery, project, warehouse)
        if project.reconciliations:
            yield from _check_reconciliations(project, warehouse)


def print_findings(findings: Iterable[Finding], out: IO[str]) -> Findings:
    """Print each as it is found; answers all of them."""
    from rich.console import Console

    console = Console(file=out, highlight=False, soft_wrap=True)
    style = {"ok": "green", "note": "yellow", "fault": "bold red"}
    found = []
    for finding in findings:
        found.append(finding)
        console.print(f"{finding.status:<5}", style=style[finding.status], end=" ", markup=False)
        console.print(f"{finding.subject}: {finding.what}", markup=False)
        if finding.mend:
            console.print(f"      -> {finding.mend}", markup=False)
    faults = sum(finding.status == "fault" for finding in found)
    console.print("all is well" if not faults else f"{faults} fault{'s' * (faults > 1)}", markup=False)
    return Findings(found)


def _make_fault(subject: str, error: BridgeError) -> Finding:
    return Finding(subject, "fault", error.what, error.mend)


def _check_writable(subject: str, destination: Destination, schema: str) -> Finding:
    """Load an empty table as far as a dry run goes: reachable, logged in, allowed to create tables there."""
    table = Table(TableName(schema, _PROBE), (Column("one", pa.int64()),))
    try:
        destination.preview(Load(table, "replace", "doctor"), table.arrow_schema.empty_table().to_reader())
    except BridgeError as error:
        return _make_fault(subject, error)
    return Finding(subject, "ok", f"reachable, and its schema {schema} is writable")


def _check_sources(project: Project, warehouse: Ledger) -> Iterator[Finding]:
    def ends(source: LandingSource) -> tuple[str, str]:
        return source.origin, source.destination or ""

    for (name, landing), group in groupby(sorted(project.sources, key=ends), ends):
        sources = list(group)
        own: Destination | None = None
        with ExitStack() as opened:
            subject = f"destination {landing}"
            try:
                if landing:
                    own = opened.enter_context(closing(open_destination(landing, project_root=project.root)))
                subject = f"origin {name}"
                origin = opened.enter_context(open_origin(name, project_root=project.root))
            except BridgeError as error:
                yield _make_fault(subject, error)
                continue
            yield from _check_origin(sources, origin, own or warehouse, project)
            rules = make_rules_of(project)(landing or None)
            for source in sources:
                try:
                    found = find_ends(origin, own, warehouse, source.landing_database, rules)
                except BridgeError:
                    continue  # said where its place is looked at
                yield from _check_capture(source, found, project)
            place = f"destination {landing}" if landing else f"warehouse ({project.warehouse.adapter})"
            landings = (relation for source in sources for relation in source.relations)
            for database, schema in dict.fromkeys((relation.database, relation.schema) for relation in landings):
                where = f"{place}, schema {database}.{schema}" if database else f"{place}, schema {schema}"
                try:
                    written = own or open_place(warehouse, database, to_write=True)
                except BridgeError as error:
                    yield _make_fault(where, error)
                else:
                    yield _check_writable(where, written, schema)


def _check_reconciliations(project: Project, warehouse: Ledger) -> Iterator[Finding]:
    """Legacy systems answer, and the columns that the YAML names are there."""
    try:
        with require_extra("verify", "comparing rows"):
            from dbt_bridge.prove.reconcile import describe_reconciliations
    except BridgeError as error:  # the verify extra is not installed
        yield _make_fault("reconcile", error)
        return
    for declared, found in describe_reconciliations(project, warehouse):
        subject = f"{declared.node}, reconcile"
        if isinstance(found, BridgeError):
            yield _make_fault(subject, found)
        else:
            yield Finding(subject, "ok", f"{declared.legacy}: {found}")


def _check_origin(
    sources: Sequence[LandingSource], origin: Origin, destination: Destination, project: Project
) -> Iterator[Finding]:
    subject = f"origin {origin.name}"
    try:
        count = {source.origin_schema: len(origin.tables(source.origin_schema)) for source in sources}
    except BridgeError as error:
        yield _make_fault(subject, error)
        return
    schemas = ", ".join(f"{schema or 'its default schema'} has {n} tables" for schema, n in count.items())
    yield Finding(subject, "ok", f"reachable; {schemas}")
    for source in sources:
        if not list_wanted_tables(source, origin, lambda _: True, "doctor"):
            yield _make_fault(f"source {source.name}", make_empty_error(source))
        for wanted in list_wanted_tables(source, origin, project.needs, "doctor"):
            yield _check_table(wanted, origin, destination)


def _check_table(wanted: Wanted, origin: Origin, destination: Destination) -> Finding:
    """Readable, with the columns that the YAML names, a cursor that orders, and a key where a merge needs one."""
    try:
        with _describe(wanted, origin) as described:
            return _check_described(wanted.table, described, origin, destination)
    except BridgeError as error:
        return _make_fault(wanted.table.node, error)


@contextmanager
def _describe(wanted: Wanted, origin: Origin) -> Iterator[Described]:
    """The table, held no longer than it is looked at: thousands of them would fill the origin's lock table."""
    described = origin.describe(TableName(wanted.source.origin_schema or "", wanted.table.identifier))
    try:
        yield described
    finally:
        if isinstance(origin, HoldsTables):
            origin.let_go(described.table.name)


def _check_described(table: LandingTable, described: Described, origin: Origin, destination: Destination) -> Finding:
    subject = table.node
    columns = apply_overrides(described.table, table.types).columns
    landed = [destination.map_column(column) for column in columns]
    if isinstance(origin, ChecksReading):
        origin.require_readable(described.table.name, [c.name for c in columns if shows(c.name, table)])
    if table.replication == "incremental" and table.cursor:
        origin.newest(described.table.name, table.cursor)
    absent = [name for name in table.primary_key if described.table.column(name) is None]
    if absent:
        what = f"{described.table.name} has no column {absent[0]!r}, which primary_key names"
        return Finding(subject, "fault", what, f"choose among {', '.join(c.name for c in columns)}")
    key = table.primary_key or described.table.key
    if table.replication == "incremental" and not key:
        if table.write_disposition == "merge":
            mend = "add `primary_key: [...]` to its bridge block, or `write_disposition: append`"
            return Finding(subject, "fault", f"{described.table.name} has no primary key, and a merge needs one", mend)
        what = "readable; without a primary key its increments are appended, and updated rows come twice"
        return Finding(subject, "note", what, "add `primary_key: [...]` to its bridge block if it has one")
    if table.cursor and (note := _doubt_local_cursor(described.table.column(table.cursor), table)):
        return Finding(subject, "note", *note)
    return Finding(subject, "ok", f"readable, {len(landed)} columns, key {', '.join(key) or 'none'}")


def _doubt_local_cursor(cursor: Column | None, table: LandingTable) -> tuple[str, str] | None:
    """What may go wrong with a timestamp without a time zone, and a mend; None for every other cursor."""
    if cursor is None or not pa.types.is_timestamp(cursor.type) or cursor.type.tz is not None or table.lag >= _HOUR:
        return None
    what = (
        f"readable; its cursor {cursor.name!r} has no time zone: where it is written as local time, the hour that comes"
        " twice in autumn hides rows behind the checkpoint"
    )
    return what, "`lag: 1 hour` in its bridge block, a cursor with a time zone, or clocks in UTC (then all is well)"


def _check_capture(source: LandingSource, ends: Ends, project: Project) -> Iterator[Finding]:
    """What change capture needs of the origin; of all tables of the source that have it, as they move together."""
    try:
        every = list_wanted_tables(source, ends.origin, lambda _: True, "doctor")
    except BridgeError:
        return  # said already
    wanted = [one for one in every if one.table.replication == "cdc"]
    if not wanted:
        return
    subject = f"origin {source.origin}, slot {source.slot}"
    changes = find_change_source(source, project_root=project.root)
    if changes is None:
        yield Finding(subject, "fault", format_log_need(), WITHOUT_LOG)
        return
    known: list[DeclaredTable] = []
    for one in wanted:
        try:
            with _describe(one, ends.origin) as described:
                known.append(replace(make_declared_table(one), name=described.table.name))
        except BridgeError:
            continue  # a finding of the table's own
    told: set[str] = set()
    try:
        with changes:
            for found in changes.check_readiness(known):
                told |= {found.subject} if found.status == "fault" else set()
                yield Finding(f"origin {source.origin}, {found.subject}", found.status, found.what, found.mend)
            needed = frozenset(table.node for table in known)
            chosen = Chosen(needed, needed)
            census = take_census(changes, ends, [w for w in wanted if w.table.node in needed], {}, chosen)
    except BridgeError as error:
        yield _make_fault(subject, error)
        return
    names = {table.node: f"table {table.name}" for table in known}
    for node, (_, refused) in census.refused.items():
        if names[node] not in told:
            yield _make_fault(node, refused)
    yield from _check_unfollowed(source, census.findings, {one.table.node: one.table for one in wanted})


def _check_unused(project: Project, warehouse: Ledger) -> Iterator[Finding]:
    """Logs that origins keep although no source uses them any more."""
    logs = UnusedLogs(project, warehouse.checkpoints())
    bounds = {s.origin: s.max_wal for s in project.sources if s.max_wal is not None}
    for origin in logs.origins:
        for unused in logs.of(origin):
            is_over = (unused.retained_bytes or 0) > bounds.get(origin, unused.retained_bytes or 0)
            yield Finding(f"origin {origin}", "fault" if is_over else "note", unused.what, unused.mend)


def _check_unfollowed(
    source: LandingSource, findings: Mapping[str, TableFinding], tables: Mapping[str, LandingTable]
) -> Iterator[Finding]:
    """Columns that the log does not have, and how a model has them all the same."""
    for node, finding in findings.items():
        for column in finding.version.unfollowed:
            if shows(column.name, tables[node]):
                call = f"{{{{ source('{source.name}', '{tables[node].name}') }}}}"
                mend = f"in a model: SELECT *, {column.expression} AS {quote_identifier(column.name)} FROM {call}"  # noqa: S608
                yield Finding(node, "note", f"lands without {column}", mend if column.expression else "")


def _check_delivery(delivery: Delivery, project: Project, warehouse: Ledger) -> Iterator[Finding]:
    subject = delivery.node
    try:
        with closing(open_destination(delivery.destination, project_root=project.root)) as destination:
            yield _check_writable(f"destination {delivery.destination}", destination, delivery.schema)
            if isinstance(destination, ChecksReading):
                destination.require_readable(TableName(delivery.schema, delivery.table), ())
        place = open_place(warehouse, delivery.relation.database)
        relation = place.find_table(delivery.relation.name)
        if relation is None:
            what = f"{delivery.relation} is not built yet"
            yield Finding(subject, "note", what, "dbt-bridge build")
            return
        refuse_unknown_columns(delivery, [column.name for column in relation.columns])
    except BridgeError as error:
        yield _make_fault(subject, error)
        return
    yield Finding(subject, "ok", f"its model is built, and has the columns that {delivery.write_disposition} needs")
