"""Runs of dbt that the bridge has not started: what a plain `dbt build`, `dbt run` or `dbt test` adds to the record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dbt_bridge.deliver.build_record import Known, find_place, take_back
from dbt_bridge.nouns.graph import Graph
from dbt_bridge.nouns.node_record import PASSED, NodeRecord
from dbt_bridge.nouns.project import Project
from dbt_bridge.project.places import digest_place, may_lead_elsewhere, recall_place
from dbt_bridge.project.reading.project_file import read_dbt_variable
from dbt_bridge.project.redirected import find_redirected
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
    is_here = _is_of_place(run, project)
    if is_here is False:
        return {}
    redirected = find_redirected(project, run) if is_here else {}
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
                status=redirected.get(node.unique_id) or _find_status(run, node),
                command=f"dbt {run.command}",
                build_id=run.invocation_id,
                invocation_id=run.invocation_id,
                started_at=node.started_at,
                finished_at=node.finished_at,
            )
    taken = take_back(fresh, run.partial, graph if run.deferred else None)
    if is_here is None:
        fresh = {n: r for n, r in taken.items() if r.status not in PASSED or not (n in known or graph.nodes[n].is_hook)}
        taken = {n: _doubt(r) for n, r in fresh.items()}
    return {n: r for n, r in taken.items() if n not in known or r.finished_at > known[n].finished_at}


def _find_status(run: DbtRun, node: RanNode) -> str:
    return "cloned, and not tested" if run.command == "clone" else node.status


def _doubt(record: NodeRecord) -> NodeRecord:
    """A success that may be of another warehouse; a failure is one here too, as far as is known."""
    if record.status not in PASSED:
        return record
    told = "but dbt does not say in which warehouse, and the profile's `env_var` or relative path may lead elsewhere"
    return replace(record, status=f"{record.status}, {told}")


def _is_of_place(run: DbtRun, project: Project) -> bool | None:
    """Whether dbt ran in this very place; None where nothing tells it.

    Where dbt's plugin did not write the place: dbt does not write which profile and target it took by default, so such
    a run counts for whoever names none.
    """
    written = recall_place(project.target_path, run.invocation_id)
    if written is not None:
        return written == digest_place(project.profile, project.target, project.warehouse)
    options = project.options
    named = (
        (run.target, project.target, options.target or read_dbt_variable("TARGET")),
        (run.profile, project.profile, options.profile or read_dbt_variable("PROFILE")),
    )
    if not all(theirs == ours if theirs else not given for theirs, ours, given in named):
        return False
    return None if may_lead_elsewhere(options, project.profile, project.target) else True


def _is_of_graph(node: RanNode, graph: Graph) -> bool:
    """Whether this is the relation that the node has here; for a test that passed, whether it read those."""
    found = graph.nodes.get(node.unique_id)
    if found is None:
        return False
    if found.is_hook:
        return True
    if found.is_built:
        return not node.relation or node.relation == found.relation_name
    if not found.is_test:
        return False
    read = [graph.nodes[parent].relation_name for parent in graph.list_read(node.unique_id)]
    return node.status not in PASSED or not node.sql or all(relation in node.sql for relation in read)
