"""Runs of dbt that the bridge has not started: what a plain `dbt build`, `dbt run` or `dbt test` adds to the record."""

from __future__ import annotations

from collections.abc import Iterable

from dbt_bridge.deliver.build_record import Known, find_place, take_back
from dbt_bridge.deliver.gate import PASSED
from dbt_bridge.nouns.graph import Graph
from dbt_bridge.nouns.node_record import NodeRecord
from dbt_bridge.nouns.project import Project
from dbt_bridge.project.reading.project_file import read_dbt_variable
from dbt_bridge.project.run_results import DbtRun, RanNode

_RUNS_NODES = frozenset({"build", "run", "test", "seed", "snapshot", "retry", "clone"})
"""dbt's commands that change relations or test them. All others say `success` of nodes that they did not run."""


def adopt_run(run: DbtRun, project: Project, records: Iterable[NodeRecord], known: Known) -> dict[str, NodeRecord]:
    """What dbt's last command adds to what is known: nothing, unless it ran nodes in this very place, and later.

    Args:
        records: all that the warehouse has, so that a build of the bridge's own is not taken for another one.
        known: those of this place.
    """
    place, graph = find_place(project), project.graph
    if run.command not in _RUNS_NODES or any(r.invocation_id == run.invocation_id for r in records):
        return {}
    if not _is_of_place(run, project):
        return {}
    fresh: dict[str, NodeRecord] = {}
    for node in run.nodes:
        if _is_of_graph(node, graph) and not (run.command == "clone" and node.message.lower() == "no-op"):
            fresh[node.unique_id] = NodeRecord(
                node=node.unique_id,
                project=place.project,
                profile=place.profile,
                target=place.target,
                target_schema=place.target_schema,
                relation=node.relation,
                status="cloned, and not tested" if run.command == "clone" else node.status,
                command=f"dbt {run.command}",
                build_id=run.invocation_id,
                invocation_id=run.invocation_id,
                started_at=node.started_at,
                finished_at=node.finished_at,
            )
    taken = take_back(fresh, run.partial, graph if run.deferred else None)
    return {n: r for n, r in taken.items() if n not in known or r.finished_at > known[n].finished_at}


def _is_of_place(run: DbtRun, project: Project) -> bool:
    """dbt does not write which profile and target it took by default: such a run counts for whoever names none."""
    options = project.options
    named = (
        (run.target, project.target, options.target or read_dbt_variable("TARGET")),
        (run.profile, project.profile, options.profile or read_dbt_variable("PROFILE")),
    )
    return all(theirs == ours if theirs else not given for theirs, ours, given in named)


def _is_of_graph(node: RanNode, graph: Graph) -> bool:
    """Whether this is the relation that the node has here; for a test that passed, whether it read those."""
    found = graph.nodes.get(node.unique_id)
    if found is None:
        return False
    if found.is_built:
        return not node.relation or node.relation == found.relation_name
    if not found.is_test:
        return False
    read = [graph.nodes[parent].relation_name for parent in graph.list_read(node.unique_id)]
    return node.status not in PASSED or not node.sql or all(relation in node.sql for relation in read)
