"""Models that read elsewhere than dbt's graph says, where a macro of the project stands in for `source` or `ref`.

https://docs.getdbt.com/reference/dbt-jinja-functions/builtins. What such a macro answers is known once dbt has compiled
its models: each must name the relations that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dbt_bridge.nouns.graph import Graph, Node
from dbt_bridge.nouns.node_record import PASSED
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.table import Relation
from dbt_bridge.project.relations import RelationReader
from dbt_bridge.project.run_results import DbtRun
from dbt_bridge.project.runners.contract import BuildResult, NodeResult

_QUOTE = r"[\"`\[\]]?"


def mark_redirected(project: Project, result: BuildResult) -> BuildResult:
    """The same result, in which a model or a test has failed that read something else than its sources and models."""
    look = _Look.of(project, [one.unique_id for one in result.nodes] if result.deferred else None)
    if look is None:
        return result
    marked = [_mark(one, look) for one in result.nodes]
    failed = next((one for one, before in zip(marked, result.nodes, strict=True) if one is not before), None)
    if failed is None:
        return result
    return replace(result, success=False, nodes=tuple(marked), error=result.error or failed.message)


def find_redirected(project: Project, run: DbtRun) -> dict[str, str]:
    """The same of a run that the bridge has not started: what read elsewhere -> why that is no success."""
    look = _Look.of(project, [one.unique_id for one in run.nodes] if run.deferred else None)
    if look is None:
        return {}
    found = {one.unique_id: look.find(one.unique_id, one.sql) for one in run.nodes if one.status in PASSED}
    return {node: f"error: {message}" for node, message in found.items() if message is not None}


def _mark(result: NodeResult, look: _Look) -> NodeResult:
    message = look.find(result.unique_id, result.compiled_code) if result.status in PASSED else None
    return result if message is None else replace(result, status="error", message=message)


@dataclass(frozen=True, slots=True)
class _Look:
    """What is known of a project whose macros stand in for dbt's own.

    Attributes:
        landing: unique_ids of the tables that land in the warehouse.
        built: of what the run built, where all others may be elsewhere (`--defer`); None for everything.
    """

    graph: Graph
    landing: frozenset[str]
    reader: RelationReader
    built: frozenset[str] | None

    @classmethod
    def of(cls, project: Project, built: Iterable[str] | None) -> _Look | None:
        """None where nothing stands in for them."""
        if not project.graph.overrides:
            return None
        landing = frozenset(t.node for source in project.sources if not source.destination for t in source.tables)
        reader = RelationReader.of_profile(project.warehouse)
        return cls(project.graph, landing, reader, None if built is None else frozenset(built))

    def find(self, node: str, sql: str) -> str | None:
        """What the SQL that a node ran does not read, and why; None where it reads all that the graph says."""
        if not sql or node.startswith("unit_test."):  # whose inputs are written in it
            return None
        for parent in sorted(self.graph.list_read(node)):
            macro = "source" if parent in self.landing else "ref"
            relation = self._find_relation(self.graph.nodes[parent], macro)
            if relation is not None and not _names(sql, relation):
                return (
                    f"{node} does not read {relation}, which is {parent}: the macro `{macro}` of the project stands in"
                    " for dbt's own, and leads elsewhere"
                )
        return None

    def _find_relation(self, parent: Node, macro: str) -> Relation | None:
        """What is read of a parent; None where that cannot be elsewhere, or may be."""
        if macro not in self.graph.overrides or not (parent.is_built or parent.unique_id in self.landing):
            return None
        if parent.is_built and self.built is not None and parent.unique_id not in self.built:
            return None
        return self.reader.find(parent.relation_name)


def _names(sql: str, relation: Relation) -> bool:
    """Whether it names a relation, with or without its database and quotes."""
    schema, identifier = map(re.escape, (relation.schema, relation.identifier))
    return re.search(rf"{schema}{_QUOTE}\.{_QUOTE}{identifier}(?!\w)", sql, re.IGNORECASE) is not None
