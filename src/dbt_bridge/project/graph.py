"""dbt's manifest, as JSON (v12, which dbt 1.8 and later and dbt 2 write), to the graph that this room reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from dbt_bridge.errors import DbtFailed
from dbt_bridge.nouns.graph import BareSource, Graph, Node

_ENABLED = (
    "nodes",
    "sources",
    "exposures",
    "metrics",
    "saved_queries",
    "semantic_models",
    "unit_tests",
    "functions",
)
"""The parts of a manifest that hold enabled nodes, each by unique_id."""


def make_graph(
    manifest: Mapping[str, Any],
    bare_sources: Iterable[BareSource] = (),
    raw_blocks: Mapping[str, tuple[Any, ...]] | None = None,
) -> Graph:
    """The graph of a manifest.

    Args:
        manifest: `manifest.json`, or what dbt would write into it.
        bare_sources, raw_blocks: what no manifest holds, read from the YAML: see `Graph`.

    Raises:
        DbtFailed: it is no manifest of the schema that is known here.
    """
    metadata = manifest.get("metadata") or {}
    schema = str(metadata.get("dbt_schema_version", ""))
    if not schema.endswith("/manifest/v12.json"):
        raise DbtFailed(
            f"dbt's manifest has the schema {schema or 'of no name'}, and only v12 is known",
            mend="use dbt 1.8 or later",
        )
    parts = [manifest.get(part) or {} for part in _ENABLED]
    disabled = manifest.get("disabled") or {}
    return Graph(
        project=str(metadata.get("project_name") or ""),
        adapter=str(metadata.get("adapter_type") or ""),
        dbt_version=str(metadata.get("dbt_version") or ""),
        nodes={unique_id: _make_node(node) for part in parts for unique_id, node in part.items()},
        disabled={unique_id: _make_node(same[0], enabled=False) for unique_id, same in disabled.items() if same},
        bare_sources=tuple(replace(one, meta=_as_json(one.meta)) for one in bare_sources),
        raw_blocks={node: tuple(map(_as_json, blocks)) for node, blocks in (raw_blocks or {}).items()},
        overrides=frozenset(name.rpartition(".")[2] for name in manifest.get("macros") or ()) & {"source", "ref"},
    )


def _make_node(node: Mapping[str, Any], *, enabled: bool = True) -> Node:
    config = node.get("config") or {}
    depends_on = node.get("depends_on") or {}
    return Node(
        unique_id=node["unique_id"],
        kind=node["resource_type"],
        name=node["name"],
        package=node["package_name"],
        path=node.get("original_file_path") or "",
        patch_path=node.get("patch_path") or "",
        database=node.get("database") or "",
        schema=node.get("schema") or "",
        identifier=node.get("identifier") or node.get("alias") or "",
        relation_name=node.get("relation_name") or "",
        quoting={**(config.get("quoting") or {}), **(node.get("quoting") or {})},
        materialized=config.get("materialized") or "",
        enabled=enabled,
        tags=tuple(_list_texts(node.get("tags"))),
        config=_as_json(config),
        meta=_as_json({**(node.get("meta") or {}), **(config.get("meta") or {})}),
        depends_on=tuple(depends_on.get("nodes") or ()),
        attached_node=node.get("attached_node") or "",
        version=node.get("version"),
        latest_version=node.get("latest_version"),
        primary_key=tuple(_list_texts(node.get("primary_key"))),
        language=node.get("language") or "",
        source_name=node.get("source_name") or "",
        source_meta=_as_json(node.get("source_meta") or {}),
        fqn=tuple(_list_texts(node.get("fqn"))),
    )


def _list_texts(given: Any) -> Iterator[str]:
    """What dbt writes as one text, or as a list of them, or leaves out."""
    yield from (given,) if isinstance(given, str) else given or ()


def _as_key(key: Any) -> str:
    key = _as_json(key)
    return key if isinstance(key, str) else json.dumps(key)


def _as_json(value: Any) -> Any:
    """As it would be read from the file: dates of YAML are texts there, and so is every key."""
    match value:
        case dict():
            return {_as_key(key): _as_json(one) for key, one in value.items()}
        case list() | tuple():
            return [_as_json(one) for one in value]
        case date():
            return value.isoformat()
    return value
