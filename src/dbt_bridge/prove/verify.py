"""verify: landing tables against their origins, delivered tables against their models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace

from dbt_bridge.contracts.destination import (
    Destination,
    Ledger,
    Readable,
    Replica,
    State,
)
from dbt_bridge.deliver import delivery as outgoing
from dbt_bridge.errors import BridgeError, DestinationError, KeyRefused, MissingExtra, UsageError
from dbt_bridge.nouns.parity import DELIVERED, Parity
from dbt_bridge.nouns.project import Delivery, LandingSource, Project
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.destinations import open_destination, open_warehouse
from dbt_bridge.project.origins import open_change_source, open_origin
from dbt_bridge.prove.recorder import (
    FollowUp,
    ParityRecorder,
    Question,
    VerifyOptions,
    compare_and_record,
    fail_parity,
    no_follow_up,
    start_parity,
)
from dbt_bridge.prove.sides import landed_side, origin_side
from dbt_bridge.sync.landing import (
    Ends,
    Wanted,
    described,
    has_versions,
    landing_table,
    wanted_tables,
    workers_for,
)
from dbt_bridge.sync.landing_columns import landing_columns
from dbt_bridge.verify.request import Bound, VerifyRequest


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
    load_id = new_load_id()
    sources = [source for source in project.sources if project.needs_source(source)]
    chosen = [d for d in project.deliveries if deliveries and (project.selected is None or d.node in project.selected)]
    if not sources and not chosen:
        return []
    for origin in {source.origin for source in sources}:
        with suppress(MissingExtra):  # told in the parities of its tables
            open_origin(origin, project_root=project.root)
    by_ends: dict[tuple[str, str | None], list[LandingSource]] = defaultdict(list)
    for source in sources:
        by_ends[source.origin, source.destination].append(source)
    parities: list[Parity] = []
    with (
        _held_still(project, sources, progress) as unheld,
        closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse,
        ParityRecorder(warehouse, progress) as recorder,
    ):
        run = _Run(project, load_id, options, recorder, follow_up, unheld)
        for group in by_ends.values():
            parities += run.sources(group, warehouse)
            recorder.flush()
        for item in chosen:
            parities.append(run.delivery(item, warehouse))
            recorder.flush()
    return parities


@contextmanager
def _held_still(
    project: Project, sources: Sequence[LandingSource], progress: Progress
) -> Iterator[Mapping[str, BridgeError]]:
    """A `stream` of another process lets go of the sources and of a DuckDB file, until the context ends.

    Whoever follows another source has the DuckDB file too, so there all of them are held. They are always asked in the
    order of the project: two who hold some and want others would wait for each other.

    Yields:
        Name of a source that could not be held -> why.
    """
    wanted = project.sources if project.warehouse.adapter == "duckdb" else sources
    unheld: dict[str, BridgeError] = {}
    with ExitStack() as holds:
        for source in [source for source in project.sources if source in wanted and source.follows_log]:
            try:
                changes = open_change_source(source, project_root=project.root, tell=progress.message)
                holds.enter_context(changes.lock_landing())
            except MissingExtra:  # told when its origin is opened
                continue
            except BridgeError as error:
                if isinstance(error, UsageError) and source in sources:
                    raise
                unheld[source.name] = error
        yield unheld


class _Run:
    """One run of `verify`: what its steps share."""

    def __init__(
        self, project: Project, load_id: str, options: VerifyOptions, recorder: ParityRecorder, follow_up: FollowUp,
        unheld: Mapping[str, BridgeError],
    ) -> None:  # fmt: skip
        self._project = project
        self._load_id = load_id
        self._options = options
        self._recorder = recorder
        self._follow_up = follow_up
        self._unheld = unheld

    def sources(self, group: Sequence[LandingSource], warehouse: Ledger) -> list[Parity]:
        """The tables of sources with the same ends."""
        destination: Destination | None = None
        begun = len(self._recorder.parities)
        try:
            name = group[0].destination
            destination = open_destination(name, project_root=self._project.root) if name else warehouse
            with open_origin(group[0].origin, project_root=self._project.root) as origin:
                ends = Ends(origin, destination, warehouse)
                parities = self._proven(group, ends)
                wanted = [w for s in group for w in wanted_tables(s, origin, self._project.needs, self._load_id)]
                others = [w for w in wanted if w.table.replication != "cdc"]
                return parities + (self._as_they_are(ends, others) if others else [])
        except UsageError:
            raise
        except BridgeError as error:  # what was compared before it stays
            return self._told_since(begun, [item for source in group for item in self._known(source)], error)
        finally:
            if destination is not None and destination is not warehouse:
                destination.close()

    def _proven(self, group: Sequence[LandingSource], ends: Ends) -> list[Parity]:
        """The cdc tables, each source at a point of its own."""
        if not any(w.table.replication == "cdc" for s in group for w in self._of(s, ends)):
            return []
        from dbt_bridge.prove.at_one_lsn import Proof, prove_source

        parities: list[Parity] = []
        threads = self._options.threads or self._project.warehouse.threads
        for source in group:
            proof = Proof(source, ends, self._load_id, self._options, self._recorder, self._follow_up)
            begun = len(self._recorder.parities)
            try:
                if source.name in self._unheld:
                    raise self._unheld[source.name]
                parities += prove_source(self._project, proof, threads)
            except UsageError:
                raise
            except BridgeError as error:  # of this source alone
                cdc = [w for w in self._of(source, ends) if w.table.replication == "cdc"]
                parities += self._told_since(begun, cdc, error)
        return parities

    def _told_since(self, begun: int, wanted: Sequence[Wanted], error: BridgeError) -> list[Parity]:
        """What was compared before an error; what was wanted beside it has failed."""
        told = self._recorder.parities[begun:]
        done = {parity.node for parity in told}
        return told + [self._failed(item, error) for item in wanted if item.table.node not in done]

    def _of(self, source: LandingSource, ends: Ends) -> list[Wanted]:
        return wanted_tables(source, ends.origin, self._project.needs, self._load_id)

    def _known(self, source: LandingSource) -> list[Wanted]:
        """The tables that are known without the origin; and `*`, for those that only it knows with `tables: "*"`."""
        wanted = wanted_tables(source, None, self._project.needs, self._load_id)
        every = replace(source.defaults, node=f"{source.defaults.node.removesuffix('.')}.*", name="*", identifier="*")
        if source.every_table and self._project.needs(every.node):
            wanted += wanted_tables(replace(source, tables=(every,)), None, lambda _: True, self._load_id)
        return wanted

    def _as_they_are(self, ends: Ends, wanted: Sequence[Wanted]) -> list[Parity]:
        if not isinstance(ends.destination, Readable):
            refused = _cannot_be_read(ends.destination)
            return [self._failed(item, refused) for item in wanted]
        parities = []
        with ends.destination.open_state() as state:
            for item in wanted:
                try:
                    pair = self._landed(ends, item, state)
                except UsageError:
                    raise
                except BridgeError as error:
                    parities.append(self._failed(item, error))
                else:
                    parities.append(compare_and_record(pair, self._recorder, self._follow_up))
        return parities

    def _landed(self, ends: Ends, wanted: Wanted, state: State) -> Question:
        """A table that follows no log, as both sides are now."""
        found = described(ends.origin, wanted)
        columns = landing_columns(found.table, wanted.table, ends.destination)
        landing = landing_table(found.table, columns, wanted)
        if ends.destination.find_table(landing.name) is None:
            raise DestinationError(
                f"{landing.name} has not landed",
                mend=f"dbt-bridge sync --select {format_shell_selector(wanted.table.node)}",
            )
        bound = self._bound(wanted, ends.ledger)
        if wanted.table.replication == "incremental" and landing.key and has_versions(found.table, landing):
            raise KeyRefused(
                f"{found.table.name} has several versions of one {', '.join(landing.key)}, and the newest lands",
                mend="compare a view of the newest versions with it, by `reconcile` on a model",
            )
        blank = replace(self._blank(wanted, ends), at=f"{bound.cursor} <= {bound.at_most}" if bound else "now")
        mask = {name: how for name, how in wanted.table.mask.items() if landing.column(name) is not None}
        asked = self._asked(landing.key, landing, mask, bound)
        return Question(
            blank,
            origin_side(ends.origin, found.table, columns, mask, workers_for(found), blank.origin),
            landed_side(state, Replica(wanted.table.node, landing), blank.destination),
            asked,
            wanted,
            ends,
            Replica(wanted.table.node, landing),
        )

    def _bound(self, wanted: Wanted, ledger: Ledger) -> Bound | None:
        """Up to where an incremental table has landed: what is newer at the origin is in flight."""
        table = wanted.table
        if table.cursor is None or self._options.bound == "none":
            return None
        if self._options.bound != "auto":
            return Bound(table.cursor, self._options.bound)
        point = ledger.checkpoint(table.node)
        return Bound(table.cursor, point.value) if point is not None and point.cursor == table.cursor else None

    def delivery(self, item: Delivery, warehouse: Ledger) -> Parity:
        """A delivered table against the model that it comes from."""
        names = (
            f"{warehouse.name}: {item.relation_schema}.{item.relation_name}",
            f"{item.destination}: {item.schema}.{item.table}",
        )
        blank = replace(start_parity(self._load_id, item.node, names, self._options.level, "now"), words=DELIVERED)
        try:
            with closing(open_destination(item.destination, project_root=self._project.root)) as destination:
                if not isinstance(destination, Readable):
                    raise _cannot_be_read(destination)
                if not isinstance(warehouse, Readable):
                    raise _cannot_be_read(warehouse)
                with warehouse.open_state() as here, destination.open_state() as there:
                    pair = self._delivered(blank, item, (warehouse, here), (destination, there))
                    return compare_and_record(pair, self._recorder, self._follow_up)
        except BridgeError as error:  # also of its declaration: others have been compared by now
            return self._recorder.record(fail_parity(blank, error))

    def _delivered(
        self, blank: Parity, item: Delivery, here: tuple[Ledger, State], there: tuple[Destination, State]
    ) -> Question:
        load, as_text = outgoing.planned(item, here[0], there[0], self._load_id)
        relation = TableName(item.relation_schema, item.relation_name)
        natural = here[0].find_table(relation)
        assert natural is not None, "the plan has looked"
        if there[0].find_table(load.table.name) is None:
            command = f"dbt-bridge build --select +exposure:{item.name}"
            raise DestinationError(f"{load.table.name} has not been delivered", mend=command)
        chosen = [c for c in natural.columns if load.table.column(c.name) is not None]
        model = Table(relation, tuple(c.as_text() if c.name in as_text else c for c in chosen), load.table.key)
        # Rows that are appended may come again under their key: each row of the model is there, whatever else is.
        key = () if item.write_disposition == "append" else load.table.key
        asked = self._asked(key, load.table, {}, None)
        return Question(
            blank,
            landed_side(here[1], Replica(item.node, model), blank.origin),
            landed_side(there[1], Replica(item.node, load.table), blank.destination),
            replace(asked, extra="different" if item.write_disposition == "replace" else "allowed"),
            replica=Replica(item.node, load.table),
            ledger=here[0],
        )

    def _asked(self, key: Sequence[str], table: Table, mask: Mapping[str, str], bound: Bound | None) -> VerifyRequest:
        return VerifyRequest(
            level=self._options.level,
            method=self._options.method,
            key=tuple(key),
            columns={column.name: column.name for column in table.columns},
            masked=frozenset(mask),
            bound=bound,
            shown=self._options.shown,
        )

    def _blank(self, wanted: Wanted, ends: Ends | None = None) -> Parity:
        schema = f"{wanted.source.origin_schema}." if wanted.source.origin_schema else ""
        there = ends.destination.name if ends else wanted.source.destination or self._project.warehouse.adapter
        names = (f"{wanted.source.origin}: {schema}{wanted.table.identifier}", f"{there}: {wanted.landing}")
        return start_parity(self._load_id, wanted.table.node, names, self._options.level, "now")

    def _failed(self, wanted: Wanted, error: BridgeError) -> Parity:
        return self._recorder.record(fail_parity(self._blank(wanted), error))


def _cannot_be_read(destination: Destination) -> DestinationError:
    return DestinationError(
        f"the destination {destination.name!r} does not give back what it holds, so it cannot be compared",
        mend="compare it there, with a test of its own",
    )
