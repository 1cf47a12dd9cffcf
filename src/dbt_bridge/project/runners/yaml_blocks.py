"""What no manifest holds of a project's YAML, read and rendered by dbt itself; see `reading/yaml_files.py`.

dbt keeps each YAML file's content in the manifest (also for its partial parsing), unrendered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dbt.config.runtime import RuntimeConfig
from dbt.context.configured import generate_schema_yml_context
from dbt.contracts.files import SchemaSourceFile
from dbt.contracts.graph.manifest import Manifest
from dbt.parser.schema_renderer import SchemaYamlRenderer

from dbt_bridge.nouns.graph import BUILT, BareSource
from dbt_bridge.project.reading.yaml_files import is_bare, list_blocks, list_entries, make_bare_source


def list_bare_sources(manifest: Manifest, config: RuntimeConfig) -> Iterator[BareSource]:
    """Sources without any table leave no node in the manifest, but `tables: "*"` needs none: read their YAML."""
    for file in _list_files(manifest):
        for raw in filter(is_bare, list_entries(file.dict_from_yaml, "sources")):
            package = str(file.project_name)
            renderer = SchemaYamlRenderer(generate_schema_yml_context(config, package), "sources")
            source = make_bare_source(renderer.render_data(dict(raw)), package, file.path.original_file_path)
            if source is not None:
                yield source


def list_raw_blocks(manifest: Manifest) -> dict[str, tuple[Any, ...]]:
    """The `bridge` blocks that stand in YAML beside models, seeds and snapshots, unrendered, by unique_id."""
    files = {file.file_id: file.dict_from_yaml for file in _list_files(manifest)}
    found: dict[str, tuple[Any, ...]] = {}
    for unique_id, node in manifest.nodes.items():
        content = files.get(getattr(node, "patch_path", None) or "")
        if node.resource_type in BUILT and (blocks := tuple(list_blocks(node.resource_type, node.name, content))):
            found[unique_id] = blocks
    return found


def _list_files(manifest: Manifest) -> Iterator[SchemaSourceFile]:
    return (file for file in manifest.files.values() if isinstance(file, SchemaSourceFile))
