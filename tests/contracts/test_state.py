"""Every destination that gives back what it holds passes the same tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dlt
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.demo.postgres import Server
from dbt_bridge.testing.state import Holder, RandomStateTests, StateTests

_numbers = itertools.count(1)


def _staging(warehouse: Any) -> Holder:
    def copy(replica: Replica, rows: pa.Table, at: int) -> None:
        with warehouse.open_application("load-1") as application:
            staged = warehouse.stage(Load(replica.table, "replace", "load-1"), rows.to_reader())
            application.join(replica, staged, at)
            application.commit(0)

    return Holder(warehouse, copy)


def _loading(destination: Any) -> Holder:
    """Where what is loaded is visible at once."""

    def copy(replica: Replica, rows: pa.Table, at: int) -> None:
        loaded = destination.load(Load(replica.table, "replace", "load-1"), rows.to_reader())
        with destination.open_application("load-1") as application:
            application.join(replica, loaded, at)
            application.commit(0)

    return Holder(destination, copy, renames=False, begins=False)


class TestDuckDB(RandomStateTests):
    @pytest.fixture(scope="class")
    @classmethod
    def holder(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holder]:
        with DuckDBWarehouse.open(tmp_path_factory.mktemp("duckdb") / "warehouse.duckdb") as warehouse:
            yield _staging(warehouse)


class TestPostgres(RandomStateTests):
    @pytest.fixture(scope="class")
    @classmethod
    def holder(cls, server: Server) -> Iterator[Holder]:
        name = f"state_{next(_numbers)}"
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        with PostgresWarehouse("postgres", server.url(name)) as warehouse:
            yield _staging(warehouse)


class TestDelta(RandomStateTests):
    @pytest.fixture(scope="class")
    @classmethod
    def holder(cls, tmp_path_factory: pytest.TempPathFactory) -> Holder:
        return _loading(DeltaDestination("lake", Lake(str(tmp_path_factory.mktemp("delta")))))


class TestDlt(StateTests):  # one application takes it seconds: too long for random workloads
    @pytest.fixture(scope="class")
    @classmethod
    def holder(cls, tmp_path_factory: pytest.TempPathFactory) -> Holder:
        database = tmp_path_factory.mktemp("dlt") / "dlt.duckdb"
        return replace(_loading(DltWarehouse("dlt", dlt.destinations.duckdb(str(database)))), holds=False)
