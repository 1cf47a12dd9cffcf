"""Every warehouse keeps the audit tables, and those with transactions over many tables show rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dlt
import psycopg
import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Ledger, Warehouse
from dbt_bridge.testing.warehouse import LedgerTests, WarehouseTests

Ask = Callable[[str], list[tuple[Any, ...]]]


def ask_postgres(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


class TestDuckDB(WarehouseTests):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Warehouse]:
        with DuckDBWarehouse.open(tmp_path / "w.duckdb") as opened:
            yield opened

    @pytest.fixture
    def ask(self, ledger: DuckDBWarehouse) -> Ask:
        return lambda statement: ledger._connection.cursor().execute(statement).fetchall()


class TestPostgres(WarehouseTests):
    @pytest.fixture
    def ledger(self, database: str) -> Iterator[Warehouse]:
        with PostgresWarehouse("pg", database) as opened:
            yield opened

    @pytest.fixture
    def ask(self, database: str) -> Ask:
        return lambda statement: ask_postgres(database, statement)


class TestDlt(LedgerTests):
    @pytest.fixture
    def ask(self, database: str) -> Ask:
        return lambda statement: ask_postgres(database, statement)

    @pytest.fixture
    def ledger(self, database: str) -> Ledger:
        return DltWarehouse("redshift", dlt.destinations.postgres(database.replace("postgres@", "postgres:none@")))
