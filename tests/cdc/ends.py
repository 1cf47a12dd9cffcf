"""A native destination of each kind, for stories that every one of them must tell alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.projects import landing_source

from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.project import (
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

Rows = list[tuple[Any, ...]]


class End:
    """A destination: how a project names it, and how its rows are read."""

    def __init__(self, project: Project, destination: str | None, rows: Callable[[str, str], Rows]) -> None:
        self.project = project
        self.destination = destination
        self.rows = rows

    @property
    def kind(self) -> str:
        """duckdb, postgres or lake."""
        return self.destination or str(self.project.warehouse.adapter)

    def sync(self, *tables: LandingTable, full_refresh: bool = False, check: bool = True) -> list[Receipt]:
        source = landing_source(*tables, destination=self.destination, slot="dbt_bridge_ends")
        chosen = replace(self.project, sources=(source,))
        receipts = sync(chosen, SyncOptions(full_refresh=full_refresh), Silent())
        assert not check or {r.status for r in receipts} == {"success"}, [r.error for r in receipts]
        return receipts


@pytest.fixture(params=["duckdb", "postgres", "delta"])
def end(
    request: pytest.FixtureRequest,
    project: Project,
    server: Server,
    warehouse_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> End:
    if request.param == "duckdb":

        def from_duckdb(table: str, columns: str) -> Rows:
            with duckdb.connect(str(warehouse_file), read_only=True) as connection:
                return connection.execute(f"SELECT {columns} FROM shop_landing.{table} ORDER BY 1").fetchall()  # noqa: S608

        return End(project, None, from_duckdb)
    if request.param == "delta":
        monkeypatch.setenv("DESTINATION__LAKE__DESTINATION_TYPE", "filesystem")
        monkeypatch.setenv("DESTINATION__LAKE__BUCKET_URL", str(tmp_path / "lake"))

        def from_delta(table: str, columns: str) -> Rows:
            from deltalake import DeltaTable

            rows = DeltaTable(str(tmp_path / "lake" / "shop_landing" / table)).to_pyarrow_table()  # noqa: F841
            return duckdb.sql(f"SELECT {columns} FROM rows ORDER BY 1").fetchall()  # noqa: S608

        return End(project, "lake", from_delta)
    name = f"warehouse_{tmp_path.name[:20].lower()}".replace("-", "_")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())

    def drop() -> None:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    request.addfinalizer(drop)
    parameters = {"type": "postgres", **psycopg.conninfo.conninfo_to_dict(server.url(name))}

    def from_postgres(table: str, columns: str) -> Rows:
        with psycopg.connect(server.url(name)) as connection:
            query = f"SELECT {columns} FROM shop_landing.{table} ORDER BY 1"  # noqa: S608
            return connection.execute(query.encode()).fetchall()

    return End(
        replace(project, warehouse=WarehouseProfile("postgres", name, "public", 2, parameters)), None, from_postgres
    )
