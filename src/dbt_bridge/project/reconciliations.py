"""Models with a `bridge` block: what each of them replaces."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.graph import BUILT, Graph, Node
from dbt_bridge.nouns.reconciliation import (
    Metric,
    Pairing,
    Reconciliation,
    resolve_references,
)
from dbt_bridge.nouns.table import TableName
from dbt_bridge.project.reconcile_block import MetricBlock, ReconcileBlock, read_reconcile_blocks
from dbt_bridge.project.relations import RelationReader

_JINJA_THIS = re.compile(r"\{\{\s*this\s*\}\}")


def list_reconciliations(graph: Graph, reader: RelationReader) -> tuple[Reconciliation, ...]:
    """What models, seeds and snapshots replace, by unique_id.

    Raises:
        UsageError: a `bridge` block is wrong, or stands at a node that has no relation.
    """
    found: list[Reconciliation] = []
    bridged = (node for node in graph.list_nodes(*BUILT) if "bridge" in node.meta)
    for node in sorted(bridged, key=lambda node: node.unique_id):
        raw = graph.raw_blocks.get(node.unique_id, ())
        file = node.patch_path.partition("://")[2] if raw else ""
        where = f"{node.kind} {node.name} ({file or node.path})"
        blocks = read_reconcile_blocks(_restore_this_in_blocks(node, raw, where), where)
        if node.is_ephemeral:
            raise UsageError(
                f"{where}: it is ephemeral, so there is no relation to reconcile",
                mend=f"materialize {node.name} as a view or table",
            )
        found += [_make_reconciliation(node, block, graph, reader, where) for block in blocks]
    return tuple(found)


def _make_reconciliation(
    node: Node, block: ReconcileBlock, graph: Graph, reader: RelationReader, where: str
) -> Reconciliation:
    this = node.relation_name

    def new(sql: str) -> str:
        return resolve_references(sql, this, lambda model: _find_relation(graph, model), where)

    given = {name: pair.tolerance for name, pair in block.columns.items() if pair.tolerance is not None}
    relation, database = parse_relation(block.relation, block.origin) if block.relation else (None, "")
    return Reconciliation(
        node=node.unique_id,
        name=node.name,
        this=this,
        display_name=str(reader.find(this) or f"{node.schema}.{node.identifier}"),
        origin=block.origin or "",
        relation=relation,
        legacy_database=reader.read_database(database, where),
        query=_resolve_legacy(block.query or "", block, new),
        legacy_filter=block.filter.legacy or "",
        new_filter=new(block.filter.new or ""),
        key=block.key,
        default_key=_find_key(node),
        only=block.only,
        columns={name: Pairing(pair.legacy or "", pair.new or "") for name, pair in block.columns.items()},
        exclude=block.exclude,
        tolerances={**block.tolerances, **given},
        levels=block.levels,
        metrics=tuple(_make_metric(metric, block, new) for metric in block.metrics),
        required=block.required,
    )


def _make_metric(metric: MetricBlock, block: ReconcileBlock, new: Any) -> Metric:
    return Metric(metric.name, _resolve_legacy(metric.legacy, block, new), new(metric.new), metric.tolerance, metric.by)


def _resolve_legacy(sql: str, block: ReconcileBlock, new: Any) -> str:
    """Of a legacy relation in the warehouse itself, `{ref('...')}` may be said too."""
    return sql if block.origin else str(new(sql))


def parse_relation(said: str, origin: str | None) -> tuple[TableName, str]:
    """`schema.table` or `table`, and in the warehouse itself also `database.schema.table`; answers the database apart.

    A schema's name cannot hold a dot here, a table's can, but for one of the warehouse.
    """
    parts = said.split(".")
    if not origin and len(parts) == 3 and all(parts):
        return TableName(parts[1], parts[2]), parts[0]
    schema, dot, name = said.partition(".")
    return (TableName(schema, name) if dot and schema and name else TableName("", said)), ""


def _find_key(node: Node) -> tuple[str, ...]:
    """The primary key that dbt infers of constraints and tests, or `unique_key`."""
    given = node.primary_key or node.config.get("unique_key") or ()
    return (given,) if isinstance(given, str) else tuple(given)


def _find_relation(graph: Graph, model: str) -> str | None:
    """Of a model with versions, the latest is meant, as by dbt's own `ref`."""
    named = [node for node in graph.list_nodes(*BUILT) if node.name == model]
    latest = [node for node in named if node.is_latest_version]
    return next((node.relation_name or None for node in (*latest, *named)), None)


def _restore_this_in_blocks(node: Node, raw_blocks: Sequence[Any], where: str) -> Any:
    """The block with `{{ this }}` as `{this}`: dbt renders the YAML without knowing `this`, and leaves nothing of it.

    The text before it was rendered is in the graph's raw blocks.

    Raises:
        UsageError: `{{ this }}` stands beside other expressions, which are gone by now.
    """
    rendered = node.meta["bridge"]
    for raw in raw_blocks:
        rendered = _restore_this(rendered, raw, where)
    return rendered


def _restore_this(rendered: Any, raw: Any, where: str) -> Any:
    if isinstance(rendered, Mapping) and isinstance(raw, Mapping):
        return {key: _restore_this(value, raw.get(key), where) for key, value in rendered.items()}
    if isinstance(rendered, list) and isinstance(raw, list) and len(rendered) == len(raw):
        return [_restore_this(one, other, where) for one, other in zip(rendered, raw, strict=True)]
    if not isinstance(rendered, str) or not isinstance(raw, str) or not _JINJA_THIS.search(raw):
        return rendered
    if "{{" in _JINJA_THIS.sub("", raw) or "{%" in raw:
        raise UsageError(f"{where}: dbt does not know `this` in YAML", mend="write {this} for the model's relation")
    return _JINJA_THIS.sub("{this}", raw)
