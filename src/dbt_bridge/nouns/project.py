"""A dbt project as the bridge sees it: the only reader of dbt's YAML, manifest and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

    from dbt_bridge.nouns.reconciliation import Reconciliation

Replication = Literal["initial_copy", "incremental", "cdc"]


@dataclass(frozen=True, slots=True)
class DbtOptions:
    """dbt's own command line options, as they were given to the bridge; None leaves the choice to dbt.

    Attributes:
        project_dir: the folder of `dbt_project.yml`.
        vars: `--vars`, parsed.
        select, exclude: each one or more of dbt's selectors.
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


@dataclass(frozen=True, slots=True)
class WarehouseProfile:
    """dbt's profile output: where models are built and, by default, rows land.

    Attributes:
        adapter: dbt's adapter type: duckdb, postgres, snowflake, ...
        credentials: the rendered profile; never printed.
    """

    adapter: str
    database: str
    schema: str
    threads: int
    credentials: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LandingTable:
    """One declared table of a source with `config.meta.bridge`.

    Attributes:
        node: dbt's unique_id: `source.project.shop.orders`.
        name: as declared in dbt.
        identifier: the table's name at the origin and in the landing schema.
        primary_key: overrides the origin's catalog; empty to use it.
        types: overrides per column: `text`, `decimal(38,10)`, `timestamp`, ...
        lag: seconds (dates and timestamps) or units (numbers) to read again before the checkpoint.
        include, exclude: globs of column names: which columns land; all of them when empty.
        mask: column -> how its values are made unreadable before they leave the process (`sha256`).
        of_source: those names in include, exclude and mask that the source gives to all its tables: a table that
            lacks such a column is no mistake.
        deletes, history: for cdc, see `load.destination.Replica`; `write_disposition: append` there is a change log.
    """

    node: str
    name: str
    identifier: str
    replication: Replication
    cursor: str | None = None
    write_disposition: Literal["append", "merge"] | None = None
    primary_key: tuple[str, ...] = ()
    lag: float = 0
    types: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mask: Mapping[str, Literal["sha256"]] = field(default_factory=dict)
    deletes: Literal["hard", "soft"] = "hard"
    history: bool = False
    of_source: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LandingSource:
    """A dbt source whose rows live elsewhere.

    Attributes:
        name: the dbt source's.
        origin: reads dlt's `[sources.ORIGIN] credentials`.
        origin_schema: the schema at the origin; the origin's default when None.
        landing_schema, landing_database: where rows land in the warehouse.
        destination: a dlt destination's name when rows land elsewhere than the warehouse.
        tables: the declared ones.
        every_table: `tables: "*"`: all tables of the origin's schema that `include` and `exclude` leave; those that
            are not declared get the node `source.project.shop.<table>` and `defaults`.
        defaults: the source's own settings, as a table that is not declared gets them (its name is empty).
        slot: for cdc: the replication slot's name, and its publication's. The default names project, source and dbt
            target, as each warehouse needs a slot of its own.
        max_wal: for cdc: bytes of log that the slot may retain at the origin; None for no bound.
    """

    name: str
    origin: str
    origin_schema: str | None
    landing_schema: str
    landing_database: str | None
    destination: str | None
    tables: tuple[LandingTable, ...]
    defaults: LandingTable
    every_table: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    slot: str = ""
    max_wal: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An exposure with `config.meta.bridge`: reverse ETL.

    Attributes:
        node: dbt's unique_id: `exposure.project.crm_segments`.
        model: unique_id of the one model (or seed, snapshot) that is delivered.
        relation_schema, relation_name: where that model is in the warehouse.
        relation_database: its database, where that is not the warehouse's own.
        ancestors: unique_ids of every node upstream of the exposure.
        gates: unique_ids of the tests on those ancestors.
        destination: reads dlt's `[destination.NAME]`.
    """

    node: str
    name: str
    model: str
    relation_schema: str
    relation_name: str
    ancestors: frozenset[str]
    gates: frozenset[str]
    destination: str
    schema: str
    table: str
    write_disposition: Literal["replace", "append", "merge"]
    primary_key: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    relation_database: str | None = None


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
        manifest: dbt's own, parsed; `dbt build` uses it again.
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
    manifest: Manifest | None = field(default=None, repr=False, compare=False)

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


def nearest_project(folder: Path) -> Path:
    """The folder, or the one nearest above it, that holds a `dbt_project.yml`; the folder itself without any."""
    folder = folder.resolve()
    return next((f for f in (folder, *folder.parents) if (f / "dbt_project.yml").is_file()), folder)


def load_project(options: DbtOptions) -> Project:
    """Read a dbt project: its warehouse, its sources that live elsewhere, its deliveries, and the selection.

    Runs `dbt parse` (and `dbt ls` when something is selected) in this process; opens no connection.

    Raises:
        UsageError: no project is there, a `bridge` block is wrong, or dbt cannot parse the project or its profile.
    """
    from dbt_bridge.project.manifest import read_project

    root = options.project_dir.resolve()
    places = (Path.cwd(), Path.home() / ".dbt")
    if options.profiles_dir is None and not any((place / "profiles.yml").exists() for place in places):
        options = replace(options, profiles_dir=root)  # where dbt itself would give up
    return read_project(options)
