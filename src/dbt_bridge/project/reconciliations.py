"""Models with a `bridge` block: what each of them replaces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dbt.contracts.files import SchemaSourceFile
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import ModelNode, SeedNode, SnapshotNode

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.reconciliation import (
    Metric,
    Pairing,
    Reconciliation,
    resolve_references,
)
from dbt_bridge.nouns.table import TableName
from dbt_bridge.project.reconcile_block import MetricBlock, ReconcileBlock, read_reconcile_blocks

_JINJA_THIS = re.compile(r"\{\{\s*this\s*\}\}")
_Model = ModelNode | SeedNode | SnapshotNode


def list_reconciliations(manifest: Manifest) -> tuple[Reconciliation, ...]:
    """What models, seeds and snapshots replace, by unique_id.

    Raises:
        UsageError: a `bridge` block is wrong, or stands at a node that has no relation.
    """
    found: list[Reconciliation] = []
    for unique_id, node in sorted(manifest.nodes.items()):
        if not isinstance(node, _Model) or "bridge" not in node.config.meta:
            continue
        raw = list(_list_raw_blocks(node, manifest))
        file = (node.patch_path or "").partition("://")[2] if raw else ""
        where = f"{node.resource_type} {node.name} ({file or node.original_file_path})"
        blocks = read_reconcile_blocks(_restore_this_in_blocks(node, raw, where), where)
        if node.config.materialized == "ephemeral":
            raise UsageError(
                f"{where}: it is ephemeral, so there is no relation to reconcile",
                mend=f"materialize {node.name} as a view or table",
            )
        found += [_make_reconciliation(unique_id, node, block, manifest, where) for block in blocks]
    return tuple(found)


def _make_reconciliation(
    unique_id: str, node: _Model, block: ReconcileBlock, manifest: Manifest, where: str
) -> Reconciliation:
    this = node.relation_name or ""

    def new(sql: str) -> str:
        return resolve_references(sql, this, lambda model: _find_relation(manifest, model), where)

    given = {name: pair.tolerance for name, pair in block.columns.items() if pair.tolerance is not None}
    return Reconciliation(
        node=unique_id,
        name=node.name,
        this=this,
        display_name=f"{node.schema}.{node.alias}",
        origin=block.origin or "",
        relation=_parse_relation(block.relation) if block.relation else None,
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


def _parse_relation(said: str) -> TableName:
    """`schema.table` or `table`; a schema's name cannot hold a dot here, a table's can."""
    schema, dot, name = said.partition(".")
    return TableName(schema, name) if dot and schema and name else TableName("", said)


def _find_key(node: _Model) -> tuple[str, ...]:
    """The primary key that dbt infers of constraints and tests, or `unique_key`."""
    inferred: Sequence[str] = getattr(node, "primary_key", None) or ()
    given = inferred or getattr(node.config, "unique_key", None) or ()
    return (given,) if isinstance(given, str) else tuple(given)


def _find_relation(manifest: Manifest, model: str) -> str | None:
    """Of a model with versions, the latest is meant, as by dbt's own `ref`."""
    named = [node for node in manifest.nodes.values() if isinstance(node, _Model) and node.name == model]
    latest = [node for node in named if getattr(node, "is_latest_version", False)]
    return next((node.relation_name for node in (*latest, *named)), None)


def _restore_this_in_blocks(node: _Model, raw_blocks: Sequence[Any], where: str) -> Any:
    """The block with `{{ this }}` as `{this}`: dbt renders the YAML without knowing `this`, and leaves nothing of it.

    The text before it was rendered is kept in the manifest's files, for dbt's partial parsing.

    Raises:
        UsageError: `{{ this }}` stands beside other expressions, which are gone by now.
    """
    rendered = node.config.meta["bridge"]
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


def _list_raw_blocks(node: _Model, manifest: Manifest) -> Iterator[Any]:
    file = manifest.files.get(node.patch_path or "")
    if not isinstance(file, SchemaSourceFile):
        return
    for entry in file.dict_from_yaml.get(f"{node.resource_type}s") or ():
        if isinstance(entry, Mapping) and entry.get("name") == node.name:
            config = entry.get("config") or {}
            for meta in (entry.get("meta"), config.get("meta") if isinstance(config, Mapping) else None):
                if isinstance(meta, Mapping) and "bridge" in meta:
                    yield meta["bridge"]
