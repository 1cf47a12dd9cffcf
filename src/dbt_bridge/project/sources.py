"""Sources with a `bridge` block: which tables live elsewhere, and how they land."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.bridge_keys import SourceBlock, SourceKeys, TableKeys
from dbt_bridge.nouns.graph import Graph, Node
from dbt_bridge.nouns.project import LandingSource, LandingTable
from dbt_bridge.nouns.table import Relation
from dbt_bridge.project.bridge_block import (
    INSERTS,
    SLOT_LENGTH,
    Block,
    read_block,
    read_table_block,
    refuse_unused,
    select_keys,
)
from dbt_bridge.project.relations import RelationReader


@dataclass(frozen=True, slots=True)
class _Group:
    """Source tables that share a dbt source, and what their source's block says."""

    package: str
    source: str
    file: str
    schema: str
    database: str | None
    bridge: Mapping[str, Any]
    tables: tuple[Node, ...] = field(default=())
    quoting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"source {self.source} ({self.file})"


def list_sources(graph: Graph, reader: RelationReader, target: str) -> tuple[LandingSource, ...]:
    """The sources that have a `bridge` block, or a table with one.

    Args:
        reader: of what dbt renders.
        target: dbt's target: a part of the name of each slot that has no other.

    Raises:
        UsageError: a block is wrong, or two sources share a replication slot.
    """
    sources = tuple(_make_source(group, graph.project, target, reader) for group in _list_groups(graph))
    _refuse_shared_slots(sources)
    return sources


def _list_groups(graph: Graph) -> Iterator[_Group]:
    """The dbt sources that have a `bridge` block, or a table with one."""
    declared: dict[tuple[str, str], list[Node]] = {}
    for table in graph.list_nodes("source"):
        declared.setdefault((table.package, table.source_name), []).append(table)
    for (package, source), tables in declared.items():
        if any("bridge" in table.meta or "bridge" in table.source_meta for table in tables):
            first = tables[0]
            bridge = _find_source_block(tables)
            yield _Group(package, source, first.path, first.schema, first.database or None, bridge, tuple(tables))
    for bare in graph.bare_sources:
        if (bare.package, bare.name) not in declared:
            meta = bare.meta["bridge"]
            yield _Group(bare.package, bare.name, bare.path, bare.schema, bare.database, meta, quoting=bare.quoting)


def _find_source_block(tables: Sequence[Node]) -> Any:
    """The block that a source gives to its tables: its own, or that of a folder of dbt_project.yml (`+meta`).

    dbt gives a folder's block to the tables alone, whole, and a table's own in its place: what names an origin is
    meant for the source.
    """
    if "bridge" in tables[0].source_meta:
        return tables[0].source_meta["bridge"]
    blocks = [table.meta["bridge"] for table in tables if "bridge" in table.meta]
    return next((block for block in blocks if isinstance(block, Mapping) and "origin" in block), {})


def _read_relation(group: _Group, table: Node, reader: RelationReader) -> Relation:
    """Where dbt reads a table, which is where it lands."""
    where = f"source {group.source}.{table.name} ({table.path})"
    if "plugin" in {**table.source_meta, **table.meta}:
        raise UsageError(
            f"{where}: dbt-duckdb's `plugin` brings its rows, over those that land",
            mend="take `plugin` out of it, or the `bridge` block",
        )
    return reader.read(table.relation_name, where)


def _make_source(group: _Group, project: str, target: str, reader: RelationReader) -> LandingSource:
    block = read_block(SourceBlock, group.bridge, group.where)
    source = block.keys
    tables = [_read_table(group, table, block) for table in group.tables]
    refuse_unused(block, tables, group.where)
    if source.every_table:
        # Tables that dbt does not know get the source's keys as they are, so these must do.
        read_table_block({}, group.where, block)
    given = select_keys(SourceKeys, source)
    given["slot"] = source.slot or default_slot(project, group.source, target)
    relations = [None if source.destination else _read_relation(group, table, reader) for table in group.tables]
    first = next((relation for relation in relations if relation is not None), None)
    if first is None and not source.destination:
        first = reader.read_parts(group.database, group.schema, group.quoting, group.where)
    return LandingSource(
        name=group.source,
        landing_schema=first.schema if first else group.schema,
        landing_database=first.database if first else "",
        tables=tuple(
            replace(_make_table(table.unique_id, table.name, table.identifier, keys, source), relation=relation)
            for table, keys, relation in zip(group.tables, tables, relations, strict=True)
        ),
        defaults=_make_table(f"source.{group.package}.{group.source}.", "", "", source, source),
        owner=f"{project}/{target}",
        **given,
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
    """A slot has one position: two sources that move on at different times cannot share it, nor its publications,
    `<slot>` and `<slot>_inserts`."""
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
    for (origin, slot), source in taken.items():
        near = taken.get((origin, slot.removesuffix(INSERTS)))
        if near is not None and near is not source:
            raise UsageError(
                f"the slot {slot!r} of the source {source.name} has the name of the second publication of"
                f" {near.slot!r}, the slot of {near.name}, at the origin {origin}",
                mend="give one of them another `slot:`",
            )


def _read_table(group: _Group, table: Node, source: Block[SourceBlock]) -> TableKeys:
    """A table's own block over its source's. dbt hands the source's block down to a table that has none."""
    own = table.meta.get("bridge", {})
    where = f"source {group.source}.{table.name} ({table.path})"
    return read_table_block({} if own == group.bridge else own, where, source)


def _make_table(node: str, name: str, identifier: str, keys: TableKeys, source: TableKeys) -> LandingTable:
    of_source = frozenset((*source.columns.include, *source.columns.exclude, *source.mask))
    return LandingTable(node, name, identifier, of_source=of_source, **select_keys(TableKeys, keys))
