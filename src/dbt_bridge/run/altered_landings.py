"""Landings that dbt's own hooks write to: what models read then is not what landed, nor what was compared.

A project may run any SQL before its models (`on-run-start`, `pre-hook`, `post-hook`). Where it does, the fingerprints
of the landings that the run reads are taken before and afterwards. One with another checkpoint by then was landed anew
by another run, which is no alteration. A warehouse that takes no fingerprints cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dbt_bridge.contracts.capabilities import FingerprintsRows
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.graph import GHOSTS, HOOK, Graph
from dbt_bridge.nouns.node_record import PASSED
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.table import Relation
from dbt_bridge.project.destinations import open_place
from dbt_bridge.project.invoke import BuildResult

_ON_NODES = ("pre-hook", "post-hook", "pre_hook", "post_hook")


@dataclass(frozen=True, slots=True)
class Landing:
    """A landing as it stands: the fingerprint of its rows, and its checkpoint."""

    fingerprint: str
    checkpoint: Checkpoint | None


Landings = Mapping[str, Landing]
"""unique_id of the source table -> how its landing stands."""


def list_exposed(project: Project, nodes: Iterable[str]) -> dict[str, Relation]:
    """The landings that these nodes read, where hooks may write to them first: unique_id -> where it is."""
    graph = project.graph
    running = frozenset(nodes)
    if not _has_hooks(graph, running):
        return {}
    read = frozenset[str]().union(*map(graph.list_read, running))
    here = (source for source in project.sources if not source.destination)
    return {t.node: source.relation_of(t) for source in here for t in source.tables if t.node in read}


def look_at(exposed: Mapping[str, Relation], warehouse: Ledger) -> Landings:
    """How landings stand, as far as the warehouse tells."""
    found: dict[str, Landing] = {}
    for node, relation in exposed.items():
        place = open_place(warehouse, relation.database)
        if isinstance(place, FingerprintsRows):
            found[node] = Landing(place.fingerprint(relation.name), place.checkpoint(node))
    return found


def mark_altered(result: BuildResult, before: Landings, after: Landings, graph: Graph) -> BuildResult:
    """The same result, in which what read a landing that was altered meanwhile has failed."""
    altered = {
        node
        for node, was in before.items()
        if after[node].fingerprint != was.fingerprint and after[node].checkpoint == was.checkpoint
    }
    if not altered:
        return result
    told = f"{', '.join(sorted(altered))} was altered while dbt ran, by a hook: what was built on it is not what landed"
    nodes = tuple(
        replace(one, status="error", message=told)
        if one.status in PASSED and not altered.isdisjoint(graph.list_read(one.unique_id))
        else one
        for one in result.nodes
    )
    return replace(result, success=False, nodes=nodes, error=result.error or told)


def _has_hooks(graph: Graph, nodes: Iterable[str]) -> bool:
    """Whether any SQL of the project's own runs before these nodes have all been built."""
    hooks = (hook for hook in graph.list_nodes(HOOK) if not hook.name.endswith(GHOSTS))
    if any("on-run-start" in hook.tags for hook in hooks):
        return True
    known = (graph.nodes[node] for node in nodes if node in graph.nodes)
    return any(node.config.get(key) for node in known for key in _ON_NODES)
