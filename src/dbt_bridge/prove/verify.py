"""verify: landing tables against their origins, delivered tables against their models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Literal

from dbt_bridge.contracts.destination import (
    Destination,
    Ledger,
    Load,
    Readable,
    Replica,
    State,
)
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.side import Side
from dbt_bridge.deliver import delivery as outgoing
from dbt_bridge.deliver.gate import format_again, format_options
from dbt_bridge.deliver.own_rows import sent_keys
from dbt_bridge.errors import BridgeError, DestinationError, KeyRefused, MissingExtra, UsageError
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import DELIVERED, Parity
from dbt_bridge.nouns.project import Delivery, LandingSource, Project
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.nouns.table import Table
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.claims import make_rules_of
from dbt_bridge.project.destinations import find_warehouse_connector, open_destination, open_place, open_warehouse
from dbt_bridge.project.origins import open_change_source, open_origin
from dbt_bridge.prove.own_side import OwnSide
from dbt_bridge.prove.recorder import (
    FollowUp,
    ParityRecorder,
    Question,
    VerifyOptions,
    VerifyRun,
    no_follow_up,
)
from dbt_bridge.prove.sides import LandedSide, make_landing_side, make_origin_side
from dbt_bridge.sync.ends import Ends, find_ends
from dbt_bridge.sync.landing import has_versions, landing_table, workers_for
from dbt_bridge.sync.landing_columns import landing_columns
from dbt_bridge.sync.unfit import fit, leave_out_empty
from dbt_bridge.sync.wanted import Wanted, group_by_database, list_wanted_tables
from dbt_bridge.verify.request import Bound


def verify(
    project: Project,
    options: VerifyOptions,
    progress: Progress,
    follow_up: FollowUp = no_follow_up,
    *,
    deliveries: bool = True,
) -> list[Parity]:
    """Compare what the selection needs: cdc sources at an LSN, everything else as it is now.

    Each comparison has a row in `_dbt_bridge.parity`. One that could not run is a failed parity.

    Args:
        follow_up: what is done with each comparison while its two sides still stand.
        deliveries: also compare the selected exposures with their models.

    Raises:
        UsageError: an origin of a source, or its destination, is not configured or does not suit it.
    """
    sources = [source for source in project.sources if project.needs_source(source)]
    selected = project.selected
    delivered = [item for item in project.deliveries if deliveries and (selected is None or item.node in selected)]
    if not sources and not delivered:
        return []
    for origin in {source.origin for source in sources}:
        with suppress(MissingExtra):  # the parities of its tables say so
            open_origin(origin, project_root=project.root)
    parities: list[Parity] = []
    with (
        _lock_landings(project, sources, progress) as unlocked,
        closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse,
        ParityRecorder(warehouse, progress) as recorder,
    ):
        scope = _Scope(project, VerifyRun(new_load_id(), options, recorder, follow_up), unlocked)
        for group in _group_by_ends(sources):
            parities += _verify_sources(scope, group, warehouse)
            recorder.flush()
        for item in delivered:
            parities.append(_verify_delivery(scope, item, warehouse))
            recorder.flush()
    return parities


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the steps of one run share.

    Attributes:
        unlocked: name of a source whose landing could not be locked -> why.
    """

    project: Project
    run: VerifyRun
    unlocked: Mapping[str, BridgeError]


def _group_by_ends(sources: Sequence[LandingSource]) -> list[list[LandingSource]]:
    """The sources with the same origin and the same destination together."""
    groups: dict[object, list[LandingSource]] = defaultdict(list)
    for source in sources:
        groups[source.origin, source.destination].append(source)
    return list(groups.values())


@contextmanager
def _lock_landings(
    project: Project, sources: Sequence[LandingSource], progress: Progress
) -> Iterator[Mapping[str, BridgeError]]:
    """A `stream` of another process lets go of the sources and of the warehouse's file, until the context ends.

    Where one process at a time has that file open, whoever follows another source has it, so there the landings of all
    sources are locked. They are
    always locked in the order of the project: two runs that have some and want others would wait for each other.

    Yields:
        Name of a source whose landing could not be locked -> why.
    """
    wanted = project.sources if find_warehouse_connector(project.warehouse).is_one_process else sources
    unlocked: dict[str, BridgeError] = {}
    with ExitStack() as locks:
        for source in [source for source in project.sources if source in wanted and source.follows_log]:
            try:
                changes = open_change_source(source, project_root=project.root, tell=progress.message)
                locks.enter_context(changes.lock_landing())
            except MissingExtra:  # opening its origin says so
                continue
            except BridgeError as error:
                if isinstance(error, UsageError) and source in sources:
                    raise
                unlocked[source.name] = error
        yield unlocked


# --- landing tables --------------------------------------------------------------------------------------------------


def _verify_sources(scope: _Scope, group: Sequence[LandingSource], warehouse: Ledger) -> list[Parity]:
    """The tables of sources with the same ends: those that follow a log first, then all others as they are now."""
    project, begun = scope.project, len(scope.run.recorder.parities)
    destination: Destination | None = None
    try:
        name = group[0].destination
        destination = open_destination(name, project_root=project.root) if name else None
        rules = make_rules_of(project)(group[0].destination)
        with open_origin(group[0].origin, project_root=project.root) as origin:

            def find(database: str) -> Ends:
                return find_ends(origin, destination, warehouse, database, rules)

            parities = _verify_logs(scope, group, origin, find)
            wanted = [item for source in group for item in _list_wanted(scope, source, origin)]
            copied = [item for item in wanted if item.table.replication != "cdc"]
            for database, items in group_by_database(copied).items():
                parities += _verify_as_now(scope, items, find(database))
            return parities
    except UsageError:
        raise
    except BridgeError as error:  # what was compared before it stays
        return _fail_rest(scope, begun, [item for source in group for item in _list_known(scope, source)], error)
    finally:
        if destination is not None:
            destination.close()


def _verify_logs(
    scope: _Scope, group: Sequence[LandingSource], origin: Origin, find: Callable[[str], Ends]
) -> list[Parity]:
    """The cdc tables, each source at a point of its own.

    Args:
        find: the ends of what lands in a database.
    """
    tables = {
        source.name: [item for item in _list_wanted(scope, source, origin) if item.table.replication == "cdc"]
        for source in group
    }
    if not any(tables.values()):
        return []
    from dbt_bridge.prove.at_one_lsn import Proof, prove_source

    parities: list[Parity] = []
    threads = scope.run.options.threads or scope.project.warehouse.threads
    for source in group:
        begun = len(scope.run.recorder.parities)
        try:
            if source.name in scope.unlocked:
                raise scope.unlocked[source.name]
            parities += prove_source(scope.project, Proof(source, find(source.landing_database), scope.run), threads)
        except UsageError:
            raise
        except BridgeError as error:  # of this source alone
            parities += _fail_rest(scope, begun, tables[source.name], error)
    return parities


def _fail_rest(scope: _Scope, begun: int, wanted: Sequence[Wanted], error: BridgeError) -> list[Parity]:
    """What was recorded since `begun`, before an error; the other wanted tables have failed."""
    parities = scope.run.recorder.parities[begun:]
    done = {parity.node for parity in parities}
    return parities + [_fail(scope, item, error) for item in wanted if item.table.node not in done]


def _fail(scope: _Scope, wanted: Wanted, error: BridgeError) -> Parity:
    destination = wanted.source.destination or scope.project.warehouse.adapter
    return scope.run.fail(scope.run.start_landing(wanted, destination), error)


def _list_wanted(scope: _Scope, source: LandingSource, origin: Origin) -> list[Wanted]:
    wanted = list_wanted_tables(source, origin, scope.project.needs, scope.run.load_id)
    return leave_out_empty(wanted, origin, lambda _: None)  # sync has told


def _list_known(scope: _Scope, source: LandingSource) -> list[Wanted]:
    """The tables that are known without the origin; and `*`, for those that only it knows with `tables: "*"`."""
    project, load_id = scope.project, scope.run.load_id
    wanted = list_wanted_tables(source, None, project.needs, load_id)
    every = replace(source.defaults, node=f"{source.defaults.node.removesuffix('.')}.*", name="*", identifier="*")
    if source.every_table and project.needs(every.node):
        wanted += list_wanted_tables(replace(source, tables=(every,)), None, lambda _: True, load_id)
    return wanted


def _verify_as_now(scope: _Scope, wanted: Sequence[Wanted], ends: Ends) -> list[Parity]:
    """Tables that follow no log, as both sides are now."""
    if not wanted:
        return []
    if not isinstance(ends.destination, Readable):
        refusal = _cannot_be_read(ends.destination)
        return [_fail(scope, item, refusal) for item in wanted]
    parities = []
    with ends.destination.open_state() as state:
        for item in wanted:
            try:
                question = _ask_landing(scope.run, item, ends, state)
            except UsageError:
                raise
            except BridgeError as error:
                parities.append(_fail(scope, item, error))
            else:
                parities.append(scope.run.answer(question))
    return parities


def _ask_landing(run: VerifyRun, wanted: Wanted, ends: Ends, state: State) -> Question:
    fitted = fit(ends, wanted)
    origin, wanted, found = fitted.origin, fitted.wanted, fitted.found
    columns = landing_columns(found.table, wanted.table, ends.destination)
    landing = landing_table(found.table, columns, wanted)
    if ends.destination.find_table(landing.name) is None:
        raise DestinationError(
            f"{wanted.relation} has not landed",
            mend=f"dbt-bridge sync --select {format_shell_selector(wanted.table.node)}",
        )
    bound = _resolve_bound(run.options, wanted, ends.ledger)
    if wanted.table.replication == "incremental" and landing.key and has_versions(found.table, landing):
        raise KeyRefused(
            f"{found.table.name} has several versions of one {', '.join(landing.key)}, and the newest lands",
            mend="compare a view of the newest versions with it, by `reconcile` on a model",
        )
    at = f"{bound.cursor} <= {bound.at_most}" if bound else "now"
    blank = replace(run.start_landing(wanted, ends.destination.name, at), is_bounded=bound is not None)
    mask = {name: how for name, how in wanted.table.mask.items() if landing.column(name) is not None}
    replica = Replica(wanted.table.node, landing)
    sides = Both[Side](
        make_origin_side(origin, found.table, columns, mask, workers_for(found), blank.origin),
        make_landing_side(state, replica, blank.destination),
    )
    request = run.request(landing.key, landing.columns, masked=mask, bound=bound)
    return Question(blank, sides, request, replica, ends.ledger, ends)


def _resolve_bound(options: VerifyOptions, wanted: Wanted, ledger: Ledger) -> Bound | None:
    """Up to where an incremental table has landed: what is newer at the origin is in flight."""
    table = wanted.table
    if table.cursor is None or options.bound == "none":
        return None
    if options.bound != "auto":
        return Bound(table.cursor, options.bound)
    point = ledger.checkpoint(table.node)
    return Bound(table.cursor, point.value) if point is not None and point.cursor == table.cursor else None


# --- delivered tables ------------------------------------------------------------------------------------------------


def _verify_delivery(scope: _Scope, item: Delivery, warehouse: Ledger) -> Parity:
    """A delivered table against the model that it comes from."""
    names = Both(
        f"{warehouse.name}: {item.relation}",
        f"{item.destination}: {item.schema}.{item.table}",
    )
    blank = replace(scope.run.start(item.node, names), words=DELIVERED)
    try:
        with closing(open_destination(item.destination, project_root=scope.project.root)) as destination:
            if not isinstance(destination, Readable):
                raise _cannot_be_read(destination)
            place = open_place(warehouse, item.relation.database)
            if not isinstance(place, Readable):
                raise _cannot_be_read(place)
            with place.open_state() as model, destination.open_state() as delivered:
                states = Both(model, delivered)
                question = _ask_delivery(scope, blank, item, place, destination, states)
                if item.deletes == "own":
                    question = _narrow_to_own(question, item, warehouse, destination, delivered)
                return scope.run.answer(replace(question, ledger=warehouse))
    except BridgeError as error:  # also of its declaration: others have been compared by now
        return scope.run.fail(blank, error)


def _ask_delivery(
    scope: _Scope, blank: Parity, item: Delivery, place: Ledger, destination: Destination, states: Both[State]
) -> Question:
    planned = outgoing.plan_load(item, place, destination, scope.run.load_id)
    load, as_text = planned.load, planned.as_text
    name = item.relation.name
    relation = place.find_table(name)
    assert relation is not None, "the plan has looked"
    if destination.find_table(load.table.name) is None:
        again = format_again(item, format_options(scope.project)).removeprefix(": ")
        raise DestinationError(f"{load.table.name} has not been delivered", mend=again)
    columns = [c for c in relation.columns if load.table.column(c.name) is not None]
    model = Table(name, tuple(c.as_text() if c.name in as_text else c for c in columns), load.table.key)
    replica = Replica(item.node, load.table)
    sides = Both(
        make_landing_side(states.origin, Replica(item.node, model), blank.origin),
        make_landing_side(states.destination, replica, blank.destination),
    )
    # Rows that are appended may come again under their key: each row of the model is there, whatever else is.
    key = () if item.write_disposition == "append" else load.table.key
    request = scope.run.request(key, load.table.columns)
    extra: Literal["different", "allowed"] = "different" if item.write_disposition == "replace" else "allowed"
    return Question(blank, sides, replace(request, extra=extra), replica, place)


def _narrow_to_own(
    question: Question, item: Delivery, warehouse: Ledger, destination: Destination, delivered: State
) -> Question:
    """Rows of others are not looked at; one that was sent and left the model is a difference."""
    table = question.replica.table
    load = Load(table, "merge", question.blank.load_id, delivery=outgoing.describe_outgoing(item))
    sent, key = sent_keys(item, warehouse, destination, load)
    own = OwnSide(LandedSide(delivered, question.replica, question.blank.destination), key, sent)
    request = replace(question.request, extra="different")
    return replace(question, sides=Both[Side](question.sides.origin, own), request=request)


def _cannot_be_read(destination: Destination) -> DestinationError:
    return DestinationError(
        f"the destination {destination.name!r} does not give back what it holds, so it cannot be compared",
        mend="compare it there, with a test of its own",
    )
