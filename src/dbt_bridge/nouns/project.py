"""A dbt project as the bridge sees it: the warehouse, sources that live elsewhere, deliveries, the selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.nouns.bridge_keys import DeliveryKeys, SourceKeys, TableKeys
from dbt_bridge.nouns.dbt_flags import FlagValue
from dbt_bridge.nouns.graph import Graph
from dbt_bridge.nouns.table import Relation

if TYPE_CHECKING:
    from dbt_bridge.nouns.reconciliation import Reconciliation


@dataclass(frozen=True, slots=True)
class DbtOptions:
    """dbt's own command line options, as they were given to the bridge; None leaves the choice to dbt.

    Attributes:
        project_dir: the folder of `dbt_project.yml`.
        vars: `--vars`, parsed.
        select, exclude: each one or more of dbt's selectors.
        flags: dbt's other flags, by `dbt_flags.DbtFlag.key`; what is not there is left to dbt.
        dbt: the command that runs as dbt; None for the module in this environment, else the one on PATH.
    """

    project_dir: Path = field(default_factory=Path)
    profiles_dir: Path | None = None
    profile: str | None = None
    target: str | None = None
    vars: Mapping[str, Any] = field(default_factory=dict, repr=False)
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    threads: int | None = None
    full_refresh: bool = False
    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    dbt: str | None = None


@dataclass(frozen=True, slots=True)
class WarehouseProfile:
    """dbt's profile output: where models are built and, by default, rows land.

    Attributes:
        adapter: dbt's adapter type: duckdb, postgres, snowflake, ...
        credentials: the rendered profile; never printed.
        prepare: SQL that the adapter runs first on each new connection, with secrets in it; never printed.
    """

    adapter: str
    database: str
    schema: str
    threads: int
    credentials: Mapping[str, Any] = field(repr=False)
    prepare: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class LandingTable(TableKeys):
    """One declared table of a source with `config.meta.bridge`, and what the block says of it.

    Attributes:
        node: dbt's unique_id: `source.project.shop.orders`.
        name: as declared in dbt.
        identifier: the table's name at the origin.
        relation: where dbt reads it, and so where it lands; None for a table that dbt does not know, which lands under
            its origin's name (`LandingSource.relation_of`).
        of_source: those names in `columns` and `mask` that the source gives to all its tables: a table that lacks such
            a column is no mistake.
    """

    node: str
    name: str
    identifier: str
    relation: Relation | None = field(default=None, kw_only=True)
    of_source: frozenset[str] = field(default=frozenset(), kw_only=True)


@dataclass(frozen=True, kw_only=True)
class LandingSource(SourceKeys):
    """A dbt source whose rows live elsewhere, and what its block says of it.

    Attributes:
        name: the dbt source's.
        landing_schema, landing_database: where tables land that dbt does not know; as in `Relation`.
        tables: the declared ones. With `every_table`, those that are not declared get the node
            `source.project.shop.<table>` and `defaults`.
        defaults: the source's own settings, as a table that is not declared gets them (its name is empty).
        slot: the default one names project, source and dbt target, as each warehouse needs a slot of its own.
        owner: `project/target`.
    """

    name: str
    landing_schema: str
    landing_database: str
    tables: tuple[LandingTable, ...]
    defaults: LandingTable
    slot: str = ""
    owner: str = ""

    def relation_of(self, table: LandingTable) -> Relation:
        """Where one of its tables lands."""
        return table.relation or Relation(self.landing_schema, table.identifier, self.landing_database)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Where its declared tables land; with `every_table` also a name for all others, whose identifier is empty."""
        declared = (*self.tables, self.defaults) if self.every_table else self.tables
        return tuple(map(self.relation_of, declared))

    @property
    def follows_log(self) -> bool:
        """Whether any of its tables has `replication: cdc`."""
        declared = any(table.replication == "cdc" for table in self.tables)
        return declared or (self.every_table and self.defaults.replication == "cdc")


@dataclass(frozen=True, kw_only=True)
class Delivery(DeliveryKeys):
    """An exposure with `config.meta.bridge`: reverse ETL.

    Attributes:
        node: dbt's unique_id: `exposure.project.crm_segments`.
        model: unique_id of the one model (or seed, snapshot) that is delivered.
        relation: where that model is in the warehouse.
        ancestors: unique_ids of every node upstream of the exposure.
        gates: unique_ids of the tests on those ancestors.
        relations: ancestor -> the relation that it is built as, as dbt writes it into SQL.
        tested: data test of `gates` -> the nodes whose rows it sees.
        hooks: unique_ids of the project's hooks: what any of them was to do may be wanted of what is delivered.
        schema, table: where the rows go at the destination.
    """

    node: str
    name: str
    model: str
    relation: Relation
    ancestors: frozenset[str]
    gates: frozenset[str]
    relations: Mapping[str, str] = field(default_factory=dict, repr=False)
    tested: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    hooks: frozenset[str] = field(default=frozenset(), repr=False)
    schema: str
    table: str


@dataclass(frozen=True, slots=True)
class Project:
    """Everything that a run needs to know, read once.

    Attributes:
        root: the folder of `dbt_project.yml`; `.dlt/` is beside it.
        reconciliations: models that replace something of a legacy system.
        needed: unique_ids of the sources that the selection needs; None for all of them. Ask `needs`.
        selected: unique_ids of all nodes that the selection names; None for all of them.
        needed_undeclared: globs of the unique_ids of tables that dbt does not know (`tables: "*"`) and that the
            selection names.
        not_needed_undeclared: and those that it excludes.
        options: dbt's options that this project was read with.
        profile, target: the names of dbt's profile and of the output that it is built in.
        target_path: the folder of dbt's artifacts.
        graph: all nodes as dbt parsed them; empty for a project made of values.
        other_targets: names of the profile's outputs beside the one that is used.
    """

    root: Path
    name: str
    warehouse: WarehouseProfile
    sources: tuple[LandingSource, ...]
    deliveries: tuple[Delivery, ...]
    reconciliations: tuple[Reconciliation, ...] = ()
    needed: frozenset[str] | None = None
    selected: frozenset[str] | None = None
    needed_undeclared: tuple[str, ...] = ()
    not_needed_undeclared: tuple[str, ...] = ()
    options: DbtOptions = field(default_factory=DbtOptions)
    profile: str = ""
    target: str = ""
    target_path: Path = field(default_factory=Path)
    graph: Graph = field(default=Graph("", "", "", {}), repr=False, compare=False)
    other_targets: tuple[str, ...] = ()

    def selects(self, node: str) -> bool:
        """Whether the selection names the node with this unique_id."""
        return self.selected is None or node in self.selected

    def needs(self, node: str) -> bool:
        """Whether the selection needs the source table with this unique_id, declared in dbt or not."""
        if self.needed is None or node in self.needed:
            return True
        if any(node == table.node for source in self.sources for table in source.tables):
            return False
        named = any(fnmatchcase(node, glob) for glob in self.needed_undeclared)
        return named and not any(fnmatchcase(node, glob) for glob in self.not_needed_undeclared)

    def needs_source(self, source: LandingSource) -> bool:
        """Whether the selection needs any table of a source, declared in dbt or not."""
        prefix = source.defaults.node.removesuffix(".") + "."
        if self.needed is None or any(node.startswith(prefix) for node in self.needed):
            return True
        undeclared = any(glob == "*" or glob.startswith(prefix) for glob in self.needed_undeclared)
        return source.every_table and undeclared and f"{prefix}*" not in self.not_needed_undeclared
