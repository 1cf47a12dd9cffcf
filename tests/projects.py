"""A project made of values: a Postgres origin `shop_pg` and a DuckDB warehouse in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.node_record import NodeRecord
from dbt_bridge.nouns.project import (
    LandingSource,
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.project.invoke import BuildResult, NodeResult
from dbt_bridge.run.sync import SyncOptions, sync


def dbt_result(statuses: Mapping[str, str], *, ok: bool = True) -> BuildResult:
    """What a `dbt build` with these statuses answers."""
    return BuildResult(ok, tuple(NodeResult(node, status, None, 0.0) for node, status in statuses.items()))


def known(statuses: Mapping[str, str]) -> dict[str, NodeRecord]:
    """What a project knows of nodes whose last build ended so, at noon of some day."""
    noon = datetime(2026, 11, 30, 12, tzinfo=UTC)
    return {
        node: NodeRecord(node, "shop", "", "", "", "", status, "dbt-bridge build", "1", "", noon, noon)
        for node, status in statuses.items()
    }


NODE = "source.shop.shop."
"""How dbt names the tables of the source `shop`."""

MakeSource = Callable[..., LandingSource]
Rows = list[tuple[Any, ...]]
SyncTables = Callable[..., dict[str, Receipt]]


def table(name: str, replication: Any = "cdc", *, node: str = NODE, **keys: Any) -> LandingTable:
    """A declared table of the source, which lands under its own name."""
    return LandingTable(f"{node}{name}", name, name, replication=replication, **keys)


def landing_source(
    *tables: LandingTable | str, replication: Any = "cdc", node: str = NODE, schema: str = "shop_landing", **keys: Any
) -> LandingSource:
    """The dbt source `shop`: of the origin `shop_pg`, from `public` to `shop_landing`, where nothing else is said.

    Args:
        tables: those that are only named have no keys of their own.
        keys: of `LandingSource`, such as `slot`, `destination`, `origin_schema` or `every_table`.
    """
    declared = tuple(t if isinstance(t, LandingTable) else table(t, replication, node=node) for t in tables)
    defaults = LandingTable(node.removesuffix("."), "", "", replication=replication)
    named = {"origin": "shop_pg", "origin_schema": "public", "landing_database": "", **keys}
    return LandingSource(name="shop", landing_schema=schema, tables=declared, defaults=defaults, **named)


def cdc_source(
    *tables: LandingTable | str, schema: str = "landing", slot: str = "dbt_bridge_test", **keys: Any
) -> LandingSource:
    """A source that is followed into a schema of its own, under nodes of its name."""
    return landing_source(*tables, node=f"source.shop.{schema}.", schema=schema, slot=slot, **keys)


@pytest.fixture
def warehouse_file(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def project(tmp_path: Path, warehouse_file: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Without sources: tests add theirs with `dataclasses.replace`."""
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.setenv("DESTINATION__CRM_PG__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__CRM_PG__CREDENTIALS", database)
    profile = WarehouseProfile(
        "duckdb", "warehouse", "main", 2, {"type": "duckdb", "path": str(warehouse_file), "schema": "main"}
    )
    return Project(tmp_path, "shop", profile, (), ())


@pytest.fixture
def source() -> MakeSource:
    """Builds the source `shop`, whose tables are copied unless they say otherwise."""

    def make(*tables: LandingTable, every: bool = False, exclude: tuple[str, ...] = ()) -> LandingSource:
        return landing_source(*tables, replication="initial_copy", every_table=every, exclude=exclude)

    return make


@pytest.fixture
def sync_sources(project: Project) -> SyncTables:
    """One sync of sources; answers the last receipt of each table by its name."""

    def once(*sources: LandingSource, **options: Any) -> dict[str, Receipt]:
        receipts = sync(replace(project, sources=sources), SyncOptions(**options), Silent())
        return {receipt.node.rsplit(".", 1)[1]: receipt for receipt in receipts}

    return once


@pytest.fixture
def landed(warehouse_file: Path) -> Callable[[str], list[tuple[object, ...]]]:
    """Ask the warehouse, after the run has let go of its file."""

    def ask(sql: str) -> list[tuple[object, ...]]:
        with duckdb.connect(str(warehouse_file), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    return ask


@pytest.fixture
def there(project: Project, server: Server, database: str) -> Iterator[tuple[Project, Callable[[str], Rows]]]:
    """A project whose warehouse is a Postgres database, and what asks that."""
    name = f"{database.rsplit('/', 1)[1]}_warehouse"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"'.encode())
    parameters = {"type": "postgres", **psycopg.conninfo.conninfo_to_dict(server.url(name))}
    with psycopg.connect(server.url(name), autocommit=True) as warehouse:

        def ask(statement: str) -> Rows:
            done = warehouse.execute(statement.encode())
            return done.fetchall() if done.description else [(done.rowcount,)]

        yield replace(project, warehouse=WarehouseProfile("postgres", name, "public", 2, parameters)), ask
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
