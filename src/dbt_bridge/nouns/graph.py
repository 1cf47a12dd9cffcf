"""What dbt knows of a project after parsing it, as plain values: its manifest (v12), free of dbt's own classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

TESTS = frozenset({"test", "unit_test"})
BUILT = frozenset({"model", "seed", "snapshot"})
"""The kinds that have a relation that `dbt build` makes."""
HOOK = "operation"
"""The kind of a project's on-run-start and on-run-end hooks."""
GHOSTS = "-ghost-sources"
"""So end the names of the bridge's own hooks: they write to no table that stands."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of dbt's graph, of any resource type; what its type does not have is empty.

    Attributes:
        kind: dbt's resource type: model, seed, snapshot, source, exposure, test, unit_test, metric, saved_query,
            semantic_model, analysis, operation, ...
        name: as declared; a source table's own name, without its source's.
        package: the dbt project that declares it.
        fqn: its fully qualified name: package, folders, name.
        path: its file, from the root of its package (`original_file_path`).
        patch_path: the YAML file that describes it, `package://path`; empty without one.
        database, schema, identifier: the three parts of its relation as dbt renders them (`identifier` is the alias of
            what dbt builds, and the identifier of a source table), before quoting; empty for what has no relation.
        relation_name: the whole relation, quoted, as dbt writes it into SQL; empty for what has none (ephemeral ones).
        quoting: which parts dbt quotes: `database`, `schema`, `identifier`, each True, False or None (the adapter's
            own choice).
        materialized: `view`, `table`, `ephemeral`, ...; empty for what is not built.
        config: the node's whole config.
        meta: its `meta`, with that of its config over it.
        depends_on: unique_ids of what it reads directly.
        attached_node: of a generic test, the node that it guards; empty for others.
        version, latest_version: of a model with versions, as they are written (`1`, `"2a"`).
        primary_key: the columns that dbt infers as the key of a model, of its constraints and tests.
        language: `sql`, `python`; empty for what has no code.
        source_name: of a source table, its source's name.
        source_meta: of a source table, its source's `meta`.
    """

    unique_id: str
    kind: str
    name: str
    package: str
    path: str
    patch_path: str = ""
    database: str = ""
    schema: str = ""
    identifier: str = ""
    relation_name: str = ""
    quoting: Mapping[str, Any] = field(default_factory=dict)
    materialized: str = ""
    enabled: bool = True
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    depends_on: tuple[str, ...] = ()
    attached_node: str = ""
    version: str | float | None = None
    latest_version: str | float | None = None
    primary_key: tuple[str, ...] = ()
    language: str = ""
    source_name: str = ""
    source_meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    fqn: tuple[str, ...] = ()

    @property
    def is_built(self) -> bool:
        """A model, seed or snapshot: `dbt build` makes its relation (an ephemeral model has none)."""
        return self.kind in BUILT

    @property
    def is_test(self) -> bool:
        """A data test or a unit test."""
        return self.kind in TESTS

    @property
    def is_hook(self) -> bool:
        """SQL that dbt runs before or after everything else: `on-run-start`, `on-run-end`."""
        return self.kind == HOOK

    @property
    def is_ephemeral(self) -> bool:
        """A model that is part of its children's SQL: it has no relation, and no result of its own."""
        return self.materialized == "ephemeral"

    @property
    def is_stored(self) -> bool:
        """Whether its relation holds rows of its own, which stay as they are when what it reads is built anew."""
        return self.kind in ("seed", "snapshot") or self.materialized in ("table", "incremental")

    @property
    def is_latest_version(self) -> bool:
        """Whether `ref` without a version means it, among models of its name with versions."""
        return self.version is not None and self.version == self.latest_version


@dataclass(frozen=True, slots=True)
class BareSource:
    """A source that declares no table: dbt leaves no node of it, but `tables: "*"` in its `bridge` block needs none.

    Attributes:
        path: its YAML file, from the root of its package.
        database: None for the warehouse's own.
        meta: its `meta`, with that of its config over it, rendered.
        quoting: as `Node.quoting`, of the source alone.
    """

    package: str
    name: str
    path: str
    schema: str
    database: str | None
    meta: Mapping[str, Any] = field(repr=False)
    quoting: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """All nodes of a project and of its packages, as dbt parsed them for one target.

    Attributes:
        project: the root project's name.
        adapter: dbt's adapter type: duckdb, postgres, ...
        dbt_version: of the dbt that parsed it.
        nodes: everything that is enabled, by unique_id: models, sources, exposures, tests, metrics, ...
        disabled: what is disabled, by unique_id; the first of several that share one.
        bare_sources: enabled sources with a `bridge` block and without any table.
        overrides: those of dbt's `source` and `ref` that a macro of the project or of a package stands in for.
        raw_blocks: by unique_id, the `bridge` blocks of models, seeds and snapshots that stand in YAML, before dbt
            rendered them.
    """

    project: str
    adapter: str
    dbt_version: str
    nodes: Mapping[str, Node] = field(repr=False)
    disabled: Mapping[str, Node] = field(default_factory=dict, repr=False)
    bare_sources: tuple[BareSource, ...] = ()
    raw_blocks: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, repr=False)
    overrides: frozenset[str] = frozenset()

    def list_nodes(self, *kinds: str) -> Iterator[Node]:
        """The enabled nodes of these kinds, in dbt's order."""
        return (node for node in self.nodes.values() if node.kind in kinds)

    def list_parents(self, unique_id: str) -> tuple[str, ...]:
        """unique_ids of what a node reads directly, as far as they are enabled; nothing of what is not known."""
        node = self.nodes.get(unique_id)
        return () if node is None else tuple(parent for parent in node.depends_on if parent in self.nodes)

    def list_read(self, unique_id: str) -> frozenset[str]:
        """unique_ids of the relations that a node's SQL reads: its parents, and those of the ephemeral ones."""
        read: set[str] = set()
        waiting = list(self.list_parents(unique_id))
        while waiting:
            parent = self.nodes[waiting.pop()]
            if parent.is_ephemeral:
                waiting += self.list_parents(parent.unique_id)
            else:
                read.add(parent.unique_id)
        return frozenset(read)

    def list_children(self, unique_id: str) -> tuple[str, ...]:
        """unique_ids of what reads a node directly. Each call looks at every node."""
        return tuple(node.unique_id for node in self.nodes.values() if unique_id in node.depends_on)

    def list_descendants(self, *unique_ids: str) -> frozenset[str]:
        """unique_ids of everything downstream of these nodes, without themselves."""
        children: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for parent in node.depends_on:
                children.setdefault(parent, []).append(node.unique_id)
        seen: set[str] = set()
        waiting = list(unique_ids)
        while waiting:
            fresh = [child for child in children.get(waiting.pop(), ()) if child not in seen]
            seen.update(fresh)
            waiting += fresh
        return frozenset(seen)

    def list_ancestors(self, unique_id: str) -> frozenset[str]:
        """unique_ids of everything upstream of a node, without itself: also of what is disabled or not there."""
        seen: set[str] = set()
        waiting = [unique_id]
        while waiting:
            node = self.nodes.get(waiting.pop())
            fresh = [parent for parent in node.depends_on if parent not in seen] if node is not None else []
            seen.update(fresh)
            waiting += fresh
        return frozenset(seen)
