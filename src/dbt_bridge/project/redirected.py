"""Models that read elsewhere than dbt's graph says, where a macro of the project stands in for `source` or `ref`.

https://docs.getdbt.com/reference/dbt-jinja-functions/builtins. What such a macro answers is known once dbt has compiled
its models: each must name the relations that it reads.
"""

from __future__ import annotations

import re
from dataclasses import replace

from dbt_bridge.nouns.graph import Graph, Node
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.table import Relation
from dbt_bridge.project.relations import RelationReader
from dbt_bridge.project.runners.contract import BuildResult, NodeResult

_QUOTE = r"[\"`\[\]]?"


def mark_redirected(project: Project, result: BuildResult) -> BuildResult:
    """The same result, in which a model has failed that read something else than its sources and models."""
    if not project.graph.overrides or result.deferred:
        return result
    landing = {table.node for source in project.sources if not source.destination for table in source.tables}
    reader = RelationReader.of_profile(project.warehouse)
    marked = [_mark(one, project.graph, landing, reader) for one in result.nodes]
    failed = next((one for one, before in zip(marked, result.nodes, strict=True) if one is not before), None)
    if failed is None:
        return result
    return replace(result, success=False, nodes=tuple(marked), error=result.error or failed.message)


def _mark(result: NodeResult, graph: Graph, landing: set[str], reader: RelationReader) -> NodeResult:
    if result.status != "success" or not result.compiled_code:
        return result
    for parent in graph.list_parents(result.unique_id):
        relation = _find_read(graph.nodes[parent], graph, landing, reader)
        if relation is not None and not _names(result.compiled_code, relation):
            macro = "source" if parent in landing else "ref"
            message = (
                f"{result.unique_id} does not read {relation}, which is {parent}: the macro `{macro}` of the project"
                " stands in for dbt's own, and leads elsewhere"
            )
            return replace(result, status="error", message=message)
    return result


def _find_read(parent: Node, graph: Graph, landing: set[str], reader: RelationReader) -> Relation | None:
    """What is read of a parent; None where that cannot be elsewhere."""
    if parent.unique_id in landing and "source" in graph.overrides:
        return reader.find(parent.relation_name)
    if parent.is_built and not parent.is_ephemeral and "ref" in graph.overrides:
        return reader.find(parent.relation_name)
    return None


def _names(sql: str, relation: Relation) -> bool:
    """Whether it names a relation, with or without its database and quotes."""
    schema, identifier = map(re.escape, (relation.schema, relation.identifier))
    return re.search(rf"{schema}{_QUOTE}\.{_QUOTE}{identifier}(?!\w)", sql, re.IGNORECASE) is not None
