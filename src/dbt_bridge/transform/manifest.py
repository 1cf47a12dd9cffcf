"""From dbt's manifest to the Project: sources that live elsewhere, and exposures that are delivered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dbt.config.runtime import RuntimeConfig
from dbt.context.configured import generate_schema_yml_context
from dbt.contracts.files import SchemaSourceFile
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import SourceDefinition
from dbt.parser.schema_renderer import SchemaYamlRenderer

from dbt_bridge.declared import SourceBridge, TableBridge, checked, checked_table
from dbt_bridge.project import DbtOptions, LandingSource, LandingTable, Project
from dbt_bridge.transform import invoke, profile, selection
from dbt_bridge.transform.exposures import deliveries


@dataclass(frozen=True, slots=True)
class _Group:
    """Source tables that share a dbt source, and what their source's block says."""

    package: str
    source: str
    file: str
    schema: str
    database: str | None
    bridge: Mapping[str, Any]
    tables: tuple[SourceDefinition, ...] = field(default=())

    @property
    def where(self) -> str:
        return f"source {self.source} ({self.file})"


def read_project(options: DbtOptions) -> Project:
    """Parse with dbt, and read what concerns the bridge."""
    root = options.project_dir.resolve()
    manifest = invoke.parse(options)
    config = profile.runtime_config(options)
    sources = tuple(_landing(group) for group in _groups(manifest, config))
    picked = selection.pick(options, manifest, sources)
    return Project(
        root=root,
        name=config.project_name,
        warehouse=profile.warehouse(config),
        sources=sources,
        deliveries=deliveries(manifest),
        needed=picked.needed,
        selected=picked.selected,
        needed_undeclared=picked.undeclared,
        not_needed_undeclared=picked.not_undeclared,
        options=options,
        manifest=manifest,
    )


def _groups(manifest: Manifest, config: RuntimeConfig) -> Iterator[_Group]:
    """The dbt sources that have a `bridge` block, or a table with one."""
    declared: dict[tuple[str, str], list[SourceDefinition]] = {}
    for table in manifest.sources.values():
        declared.setdefault((table.package_name, table.source_name), []).append(table)
    for (package, source), tables in declared.items():
        if any("bridge" in table.config.meta or "bridge" in table.source_meta for table in tables):
            first = tables[0]
            bridge = first.source_meta.get("bridge", {})
            yield _Group(package, source, first.original_file_path, first.schema, first.database, bridge, tuple(tables))
    yield from _without_tables(manifest, config, declared.keys())


def _without_tables(manifest: Manifest, config: RuntimeConfig, declared: Any) -> Iterator[_Group]:
    """Sources without any table leave no node in the manifest, but `tables: "*"` needs none: read their YAML.

    dbt keeps each YAML file's content in the manifest (also for its partial parsing), unrendered.
    """
    for file in manifest.files.values():
        if not isinstance(file, SchemaSourceFile):
            continue
        for raw in file.dict_from_yaml.get("sources") or ():
            if not isinstance(raw, Mapping) or raw.get("tables") or "overrides" in raw:
                continue
            package = str(file.project_name)
            context = generate_schema_yml_context(config, package)
            entry = SchemaYamlRenderer(context, "sources").render_data(dict(raw))
            settings = entry.get("config") or {}
            meta = {**(entry.get("meta") or {}), **(settings.get("meta") or {})}
            name = str(entry.get("name"))
            if "bridge" in meta and settings.get("enabled", True) and (package, name) not in declared:
                schema, database = entry.get("schema") or name, entry.get("database") or config.credentials.database
                yield _Group(package, name, file.path.original_file_path, schema, database, meta["bridge"])


def _landing(group: _Group) -> LandingSource:
    source = checked(SourceBridge, group.bridge, group.where)
    prefix = f"source.{group.package}.{group.source}."
    if source.tables == "*":
        # Tables that dbt does not know get these as they are, so they must do.
        checked_table({}, group.where, group.bridge)
    return LandingSource(
        name=group.source,
        origin=source.origin,
        origin_schema=source.schema_,
        landing_schema=group.schema,
        landing_database=group.database,
        destination=source.destination,
        tables=tuple(_table(group, table) for table in group.tables),
        defaults=_landing_table(prefix, "", "", source),
        every_table=source.tables == "*",
        include=source.include,
        exclude=source.exclude,
    )


def _table(group: _Group, table: SourceDefinition) -> LandingTable:
    """A table's own block over its source's. dbt hands the source's block down to a table that has none."""
    own = table.config.meta.get("bridge", {})
    where = f"source {group.source}.{table.name} ({table.original_file_path})"
    block = checked_table({} if own == group.bridge else own, where, group.bridge)
    return _landing_table(table.unique_id, table.name, table.identifier, block)


def _landing_table(node: str, name: str, identifier: str, block: TableBridge) -> LandingTable:
    return LandingTable(
        node=node,
        name=name,
        identifier=identifier,
        replication=block.replication,
        cursor=block.cursor,
        write_disposition=block.write_disposition,
        primary_key=block.primary_key,
        lag=block.lag,
        types=block.types,
    )
