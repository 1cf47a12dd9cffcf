"""Every destination that follows changes passes the same tests, and those with one transaction some more.

What has no such transaction (Delta, MERGE through dlt) guards each apply by its position instead: see also
`connectors/lake/test_delta_apply.py` and `connectors/dlt/test_apply.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Application, Load, Loaded, Replica
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.table import TableName
from dbt_bridge.testing.application import ApplicationTests, Follower, FollowsTests
from dbt_bridge.testing.changes import Row
from dbt_bridge.testing.workload import COPIED_AT

_numbers = itertools.count(1)


class TestDuckDB(ApplicationTests):
    @pytest.fixture(scope="class")
    @classmethod
    def follower(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Follower]:
        path = tmp_path_factory.mktemp("duckdb")
        with DuckDBWarehouse.open(path / "warehouse.duckdb") as warehouse:

            def join(application: Application, replica: Replica, rows: pa.Table) -> Loaded:
                staged = warehouse.stage(Load(replica.table, "replace", "load-1"), rows.to_reader())
                return application.join(replica, staged, COPIED_AT)

            yield Follower(
                "duckdb",
                warehouse.open_application,
                join,
                lambda name: warehouse.read(name).read_all().to_pylist(),
                lambda statement: warehouse._connection.cursor().execute(statement),
            )


class TestPostgres(ApplicationTests):
    @pytest.fixture(scope="class")
    @classmethod
    def follower(cls, server: Server) -> Iterator[Follower]:
        name = f"applying_{next(_numbers)}"
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        with (
            PostgresWarehouse("postgres", server.url(name)) as warehouse,
            psycopg.connect(server.url(name), autocommit=True) as connection,
        ):

            def join(application: Application, replica: Replica, rows: pa.Table) -> Loaded:
                staged = warehouse.stage(Load(replica.table, "replace", "load-1"), rows.to_reader())
                return application.join(replica, staged, COPIED_AT)

            def execute(statement: str) -> Any:
                return connection.execute(statement.encode())

            def read(name: TableName) -> list[Row]:
                rows = warehouse.read(name).read_all().to_pylist()
                for row in rows:  # arrays are read as the server prints them
                    if row.get("_unchanged"):
                        row["_unchanged"] = row["_unchanged"].strip("{}").split(",")
                return rows

            yield Follower("postgres", warehouse.open_application, join, read, execute)


class TestDelta(FollowsTests):
    @pytest.fixture(scope="class")
    @classmethod
    def follower(cls, tmp_path_factory: pytest.TempPathFactory) -> Follower:
        lake = DeltaDestination("lake", Lake(str(tmp_path_factory.mktemp("delta"))))

        def join(application: Application, replica: Replica, rows: pa.Table) -> Loaded:
            loaded = lake.load(Load(replica.table, "replace", "load-1"), rows.to_reader())
            return application.join(replica, loaded, COPIED_AT)

        def read(name: TableName) -> list[Row]:
            table = lake.session.open(name)
            assert table is not None
            return list(table.to_pyarrow_table().to_pylist())

        return Follower("delta", lake.open_application, join, read, is_transactional=False, renames=False)
