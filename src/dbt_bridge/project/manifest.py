"""From dbt's manifest to the Project: sources that live elsewhere, and exposures that are delivered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbt.config.runtime import RuntimeConfig
from dbt.context.configured import generate_schema_yml_context
from dbt.contracts.files import SchemaSourceFile
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import SourceDefinition
from dbt.parser.schema_renderer import SchemaYamlRenderer

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import (
    DbtOptions,
    LandingSource,
    LandingTable,
    Project,
)
from dbt_bridge.project import invoke, profile, selection
from dbt_bridge.project.bridge_block import (
    SLOT_LENGTH,
    SourceBridge,
    TableBridge,
    checked,
    checked_table,
    refuse_unused,
)
from dbt_bridge.project.exposures import deliveries
from dbt_bridge.project.reconciliations import reconciliations


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
    sources = tuple(_landing(group, config) for group in _groups(manifest, config))
    _refuse_shared_slots(sources)
    picked = selection.pick(options, manifest, sources)
    return Project(
        root=root,
        name=config.project_name,
        warehouse=profile.warehouse(config),
        sources=sources,
        deliveries=deliveries(manifest),
        reconciliations=reconciliations(manifest),
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


def _landing(group: _Group, config: RuntimeConfig) -> LandingSource:
    source = checked(SourceBridge, group.bridge, group.where)
    blocks = [_block(group, table) for table in group.tables]
    refuse_unused(source, group.bridge, blocks, group.where)
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
        tables=tuple(
            _landing_table(table.unique_id, table.name, table.identifier, block, source)
            for table, block in zip(group.tables, blocks, strict=True)
        ),
        defaults=_landing_table(prefix, "", "", source, source),
        every_table=source.tables == "*",
        include=source.include,
        exclude=source.exclude,
        slot=source.slot or default_slot(config.project_name, group.source, config.target_name),
        max_wal=source.max_wal,
    )


def default_slot(project: str, source: str, target: str) -> str:
    """A replication slot's name that no other source, and no other dbt target, has.

    Postgres takes lower-case letters, digits and underscores. Where that or the length changes the name, a hash of
    the whole of it keeps it apart from others.
    """
    whole = f"dbt_bridge_{project}_{source}_{target}"
    cleaned = re.sub(r"[^a-z0-9_]", "_", whole.lower())
    if cleaned == whole and len(whole) <= SLOT_LENGTH:
        return whole
    suffix = "_" + hashlib.sha256(whole.encode()).hexdigest()[:8]
    return cleaned[: SLOT_LENGTH - len(suffix)] + suffix


def _refuse_shared_slots(sources: Sequence[LandingSource]) -> None:
    """A slot has one position: two sources that move on at different times cannot share it."""
    taken: dict[tuple[str, str], LandingSource] = {}
    for source in sources:
        if "cdc" not in {source.defaults.replication, *(table.replication for table in source.tables)}:
            continue
        other = taken.setdefault((source.origin, source.slot), source)
        if other is not source:
            raise UsageError(
                f"the sources {other.name} and {source.name} share the slot {source.slot!r} of the origin "
                f"{source.origin}",
                mend="give one of them another `slot:`, or take it out of both for names of their own",
            )


def _block(group: _Group, table: SourceDefinition) -> TableBridge:
    """A table's own block over its source's. dbt hands the source's block down to a table that has none."""
    own = table.config.meta.get("bridge", {})
    where = f"source {group.source}.{table.name} ({table.original_file_path})"
    return checked_table({} if own == group.bridge else own, where, group.bridge)


def _landing_table(node: str, name: str, identifier: str, block: TableBridge, source: SourceBridge) -> LandingTable:
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
        include=block.columns.include,
        exclude=block.columns.exclude,
        mask=block.mask,
        deletes=block.deletes,
        history=block.history,
        of_source=frozenset((*source.columns.include, *source.columns.exclude, *source.mask)),
    )
