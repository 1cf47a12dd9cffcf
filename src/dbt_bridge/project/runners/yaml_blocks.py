"""What no manifest holds of a project's YAML: sources without any table, and `bridge` blocks before rendering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dbt.config.runtime import RuntimeConfig
from dbt.context.configured import generate_schema_yml_context
from dbt.contracts.files import SchemaSourceFile
from dbt.contracts.graph.manifest import Manifest
from dbt.parser.schema_renderer import SchemaYamlRenderer

from dbt_bridge.nouns.graph import BUILT, BareSource


def list_bare_sources(manifest: Manifest, config: RuntimeConfig) -> Iterator[BareSource]:
    """Sources without any table leave no node in the manifest, but `tables: "*"` needs none: read their YAML.

    dbt keeps each YAML file's content in the manifest (also for its partial parsing), unrendered.
    """
    for file in _list_files(manifest):
        for raw in file.dict_from_yaml.get("sources") or ():
            if not isinstance(raw, Mapping) or raw.get("tables") or "overrides" in raw:
                continue
            package = str(file.project_name)
            context = generate_schema_yml_context(config, package)
            entry = SchemaYamlRenderer(context, "sources").render_data(dict(raw))
            settings = entry.get("config") or {}
            meta = {**(entry.get("meta") or {}), **(settings.get("meta") or {})}
            name = str(entry.get("name"))
            if "bridge" in meta and settings.get("enabled", True):
                yield BareSource(
                    package,
                    name,
                    file.path.original_file_path,
                    entry.get("schema") or name,
                    entry.get("database") or None,
                    meta,
                    entry.get("quoting") or {},
                )


def list_raw_blocks(manifest: Manifest) -> dict[str, tuple[Any, ...]]:
    """The `bridge` blocks that stand in YAML beside models, seeds and snapshots, unrendered, by unique_id."""
    files = {file.file_id: file.dict_from_yaml for file in _list_files(manifest)}
    found: dict[str, tuple[Any, ...]] = {}
    for unique_id, node in manifest.nodes.items():
        content = files.get(getattr(node, "patch_path", None) or "")
        if node.resource_type in BUILT and content and (blocks := tuple(_list_blocks(node, content))):
            found[unique_id] = blocks
    return found


def _list_files(manifest: Manifest) -> Iterator[SchemaSourceFile]:
    return (file for file in manifest.files.values() if isinstance(file, SchemaSourceFile))


def _list_blocks(node: Any, content: Mapping[str, Any]) -> Iterator[Any]:
    for entry in content.get(f"{node.resource_type}s") or ():
        if isinstance(entry, Mapping) and entry.get("name") == node.name:
            config = entry.get("config") or {}
            for meta in (entry.get("meta"), config.get("meta") if isinstance(config, Mapping) else None):
                if isinstance(meta, Mapping) and "bridge" in meta:
                    yield meta["bridge"]
