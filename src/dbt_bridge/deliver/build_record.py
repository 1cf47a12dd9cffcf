"""The project's own record of builds, in the warehouse that they were made in: `_dbt_bridge.builds`.

What dbt leaves in `target/` says what its last command did, and that may have been `compile`, or a build of another
target. This says of each node how its last build ended, for one place, and is written before dbt runs too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from dbt_bridge.contracts.destination import Ledger, Load
from dbt_bridge.nouns.graph import BUILT, HOOK, TESTS, Graph
from dbt_bridge.nouns.node_record import BUILDS, UNFINISHED, NodeRecord, Place, as_arrow, of_row
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import now
from dbt_bridge.project.invoke import BuildResult

Known = Mapping[str, NodeRecord]
"""dbt's unique_id -> its last build in one place; what was never built there is absent."""


def find_place(project: Project) -> Place:
    """Where this project is built now."""
    warehouse = project.warehouse
    return Place(project.name, project.profile, project.target, f"{warehouse.database}.{warehouse.schema}")


def read_records(warehouse: Ledger) -> list[NodeRecord]:
    """Every record in the warehouse; none where no build has written one yet."""
    if warehouse.find_table(BUILDS.name) is None:
        return []
    return [of_row(row) for row in warehouse.read(BUILDS.name).read_all().to_pylist()]


def select_known(records: Iterable[NodeRecord], place: Place) -> dict[str, NodeRecord]:
    """What is known of one place."""
    return {record.node: record for record in records if record.place == place}


def save_records(warehouse: Ledger, records: Iterable[NodeRecord], build_id: str) -> None:
    """Each one in the place of the node's former record."""
    rows = as_arrow(list(records))
    if rows.num_rows:
        warehouse.load(Load(BUILDS, "merge", build_id), rows.to_reader())


@dataclass(frozen=True, slots=True)
class Begun:
    """A build that is about to run.

    Attributes:
        blank: what all its records share.
        before: what was known when it began.
        records: the nodes that it is about to build and to test, as unfinished.
    """

    blank: NodeRecord
    before: Known
    records: Known


def begin_build(project: Project, nodes: Iterable[str], before: Known, build_id: str, command: str) -> Begun:
    """A build of these nodes begins: what comes of them is not known before it has ended."""
    moment = now()
    place = asdict(find_place(project))
    blank = NodeRecord(
        **place,
        node="",
        relation="",
        status=UNFINISHED,
        command=command,
        build_id=build_id,
        invocation_id="",
        started_at=moment,
        finished_at=moment,
    )
    graph = project.graph
    return Begun(
        blank, before, {node: replace(blank, node=node, relation=_find_relation(graph, node)) for node in nodes}
    )


def finish_build(begun: Begun, result: BuildResult, graph: Graph) -> dict[str, NodeRecord]:
    """What is known after a build that ended: a node that a whole build did not reach is as it was before.

    After a failure that may not be so: with --fail-fast dbt leaves nodes in the middle of their work, and tells nothing
    of them.
    """
    moment = now()
    ran: dict[str, NodeRecord] = {}
    for node in result.nodes:
        if not _is_recorded(node.unique_id):
            continue
        finished = node.completed_at or moment
        ran[node.unique_id] = replace(
            begun.blank,
            node=node.unique_id,
            relation=node.relation_name or _find_relation(graph, node.unique_id),
            status=node.status,
            invocation_id=result.invocation_id,
            started_at=finished - timedelta(seconds=node.seconds),
            finished_at=finished,
        )
    ran = take_back(ran, result.partial, graph if result.deferred else None)
    not_run = {node: replace(record, status="not run") for node, record in begun.records.items()}
    left = {node: begun.before.get(node, record) for node, record in not_run.items()} if result.success else not_run
    return {**begun.before, **left, **ran}


def list_built(project: Project) -> frozenset[str]:
    """The nodes that a `dbt build` of the project's selection builds and tests."""
    graph, chosen = project.graph, project.selected
    if not graph.nodes:  # a project made of values: what its deliveries wait for
        every = frozenset(node for d in project.deliveries for node in (*d.ancestors, *d.gates) if _is_recorded(node))
    else:
        every = frozenset(node.unique_id for node in graph.list_nodes(*BUILT, *TESTS) if not node.is_ephemeral)
    return every if chosen is None else every & chosen


def take_back(records: Known, partial: str | None, deferred: Graph | None) -> dict[str, NodeRecord]:
    """Successes that are none to those who wait for a node's rows.

    Args:
        partial: `--empty` or `--sample`: what was built without the real rows.
        deferred: the graph, where dbt ran with `--defer`: what read models of another place.
    """
    taken = dict(records)
    for node, record in records.items():
        if node.startswith(("unit_test.", f"{HOOK}.")):  # the rows of a unit test are written in it
            continue
        if partial is not None:
            without = f"without {partial} and DBT_{partial.removeprefix('--').upper()}"
            status = f"{record.status}, but dbt ran with {partial}: dbt-bridge build, {without}"
            taken[node] = replace(record, status=status)
        elif deferred is not None and (absent := sorted(_list_built_parents(node, deferred) - records.keys())):
            names = ", ".join(name.split(".", 2)[-1] for name in absent)
            taken[node] = replace(record, status=f"{record.status}, but with --defer it may have read another {names}")
    return taken


def _list_built_parents(node: str, graph: Graph) -> frozenset[str]:
    return frozenset(parent for parent in graph.list_read(node) if graph.nodes[parent].is_built)


def _is_recorded(node: str) -> bool:
    return node.partition(".")[0] in BUILT | TESTS | {HOOK}


def _find_relation(graph: Graph, node: str) -> str:
    found = graph.nodes.get(node)
    return found.relation_name if found is not None and found.is_built else ""
