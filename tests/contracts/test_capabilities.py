"""What origins and destinations of ours can do beyond their contract, they do as declared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.contracts.capabilities import AnswersQueries, OpensOnce
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.queries import Queries
from dbt_bridge.contracts.settings import OriginSettings
from dbt_bridge.contracts.side import Side
from dbt_bridge.nouns.reconciliation import Selection, in_parentheses
from dbt_bridge.nouns.table import TableName
from dbt_bridge.prove.sides import make_origin_side
from dbt_bridge.testing.capabilities import CancelsTests, DigestsTests, HasClockTests, RawCopyBench, RawCopyTests

PEOPLE = TableName("public", "people")
FILL = (
    "CREATE TABLE people AS SELECT n::bigint AS id, CASE WHEN n % 3 > 0 THEN 'n' || n END AS name, n / 7.0 AS score"
    " FROM generate_series(1, 1000) n",
    "ALTER TABLE people ADD PRIMARY KEY (id)",
)


@pytest.fixture
def people(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in FILL:
            connection.execute(statement.encode())
    return database


@pytest.fixture
def origin(people: str) -> Iterator[Origin]:
    with PostgresOrigin("shop", people) as opened:
        yield opened


class TestPostgresClock(HasClockTests):
    pass


class TestPostgresDigests(DigestsTests):
    @pytest.fixture
    def side(self, origin: Origin) -> Side:
        table = origin.describe(PEOPLE).table
        return make_origin_side(origin, table, table.columns, {}, 1, "shop: people")


class TestPostgresRawCopy(RawCopyTests):
    @pytest.fixture
    def raw(self, origin: Origin, people: str) -> Iterator[RawCopyBench]:
        with PostgresWarehouse("pg", people) as warehouse:
            yield RawCopyBench(origin, warehouse, PEOPLE)


def many(queries: Queries) -> Side:
    rows = in_parentheses("SELECT n AS id, repeat('x', 100) AS name FROM generate_series(1, 2000000) s(n)")
    return queries.side("many", Selection(rows, {"id": "id", "name": "name"}))


class TestPostgresCancels(CancelsTests):
    @pytest.fixture
    def side(self, database: str) -> Iterator[Side]:
        with closing(PostgresQueries("old", database)) as queries:
            yield many(queries)


class TestDuckDBCancels(CancelsTests):
    @pytest.fixture
    def side(self, tmp_path: Path) -> Iterator[Side]:
        with DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse:
            yield many(warehouse.queries())


def test_a_duckdb_knows_its_own_file(tmp_path: Path) -> None:
    with DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse:
        assert isinstance(warehouse, OpensOnce) and isinstance(warehouse, AnswersQueries)
        assert warehouse.is_database_of(OriginSettings("w", "duckdb:///w.duckdb", "duckdb", tmp_path))
        assert not warehouse.is_database_of(OriginSettings("w", "duckdb:///other.duckdb", "duckdb", tmp_path))
        assert not warehouse.is_database_of(OriginSettings("w", "sqlite:///w.duckdb", "sqlite", tmp_path))
