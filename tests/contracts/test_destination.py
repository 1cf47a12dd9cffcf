"""Every destination passes the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import fsspec
import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.connectors.lake.parquet import ParquetDestination
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Replica
from dbt_bridge.nouns.table import Table
from dbt_bridge.testing.destination import DestinationBench, DestinationTests, Row


def bench_of(destination: Any) -> DestinationBench:
    def read(table: Table) -> list[Row]:
        with destination.open_state() as state:
            rows: list[Row] = state.rows(Replica("model.shop.people", table)).read_all().to_pylist()
            return rows

    return DestinationBench(destination, read)


class TestDuckDB(DestinationTests):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[DestinationBench]:
        with DuckDBWarehouse.open(tmp_path / "w.duckdb") as opened:
            yield bench_of(opened)


class TestPostgres(DestinationTests):
    @pytest.fixture
    def bench(self, database: str) -> Iterator[DestinationBench]:
        with PostgresWarehouse("pg", database) as opened:
            yield bench_of(opened)


class TestDelta(DestinationTests):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> DestinationBench:
        return bench_of(DeltaDestination("lake", Lake(str(tmp_path))))


class TestParquet(DestinationTests):
    merges = False
    has_windows = False

    @pytest.fixture
    def bench(self, tmp_path: Path) -> DestinationBench:
        return bench_of(ParquetDestination("files", Lake(str(tmp_path)), fsspec.filesystem("file")))


class TestDlt(DestinationTests):
    has_windows = False  # it cannot delete and append at once

    @pytest.fixture
    def bench(self, tmp_path: Path) -> DestinationBench:
        return bench_of(DltWarehouse("dlt", dlt.destinations.duckdb(str(tmp_path / "d.duckdb"))))
