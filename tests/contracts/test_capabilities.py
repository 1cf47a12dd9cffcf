"""What origins and destinations of ours can do beyond their contract, they do as declared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.queries import Queries
from dbt_bridge.contracts.settings import OriginSettings
from dbt_bridge.contracts.side import Side
from dbt_bridge.nouns.reconciliation import Selection, in_parentheses
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.prove.sides import make_landing_side, make_origin_side
from dbt_bridge.testing.capabilities import (
    CancelsTests,
    DigestsReplicasTests,
    DigestsTests,
    HasClockTests,
    OpensOnceBench,
    OpensOnceTests,
    RawCopyBench,
    RawCopyTests,
    ReplicaBench,
)
from dbt_bridge.testing.changes import Change, changes_of, rows_of
from dbt_bridge.testing.workload import COPIED_AT, COPY, orders, replica_of

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


@pytest.fixture
def replica() -> Replica:
    return replica_of(orders(), deletes="soft")


class TestPostgresReplicaDigests(DigestsReplicasTests):
    @pytest.fixture
    def held(self, database: str, replica: Replica) -> Iterator[ReplicaBench]:
        rows = [{**row, "id": 10 * n + row["id"]} for n in range(50) for row in COPY]
        deleted = changes_of(replica.table, [Change("delete", row, 1, 1) for row in rows[:7]])
        with PostgresWarehouse("pg", database) as warehouse:
            staged = warehouse.stage(Load(replica.table, "replace", "load-1"), rows_of(replica.table, rows).to_reader())
            with warehouse.open_application("load-1") as application:
                application.join(replica, staged, COPIED_AT)
                application.apply(replica, deleted)
                application.commit(2)
            with warehouse.open_state() as state:
                assert state.count(replica) == 143
                yield ReplicaBench(state, replica)


class TestPostgresRawCopy(RawCopyTests):
    @pytest.fixture
    def raw(self, origin: Origin, people: str) -> Iterator[RawCopyBench]:
        with PostgresWarehouse("pg", people) as warehouse:
            yield RawCopyBench(origin, warehouse, PEOPLE)


SELECT_MANY = "SELECT n AS id, repeat('x', 100) AS name FROM generate_series(1, 2000000) s(n)"
LAND_MANY = f"CREATE SCHEMA landing; CREATE TABLE landing.many AS {SELECT_MANY}"
MANY = replica_of(Table(TableName("landing", "many"), (Column("id", pa.int64()), Column("name", pa.string()))))


def many(queries: Queries) -> Side:
    rows = in_parentheses(SELECT_MANY)
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


class TestPostgresStateCancels(CancelsTests):
    @pytest.fixture
    def side(self, database: str) -> Iterator[Side]:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(LAND_MANY.encode())
        with PostgresWarehouse("pg", database) as warehouse, warehouse.open_state() as state:
            yield make_landing_side(state, MANY, "many")


class TestDuckDBStateCancels(CancelsTests):
    @pytest.fixture
    def side(self, tmp_path: Path) -> Iterator[Side]:
        with DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse:
            warehouse._connection.execute(LAND_MANY)
            with warehouse.open_state() as state:
                yield make_landing_side(state, MANY, "many")


class TestDuckDBOpensOnce(OpensOnceTests):
    @pytest.fixture
    def once(self, tmp_path: Path) -> Iterator[OpensOnceBench]:
        def credentials(url: str) -> OriginSettings:
            return OriginSettings("w", url, url.partition(":")[0], tmp_path)

        others = [credentials("duckdb:///other.duckdb"), credentials("sqlite:///w.duckdb")]
        with DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse:
            yield OpensOnceBench(warehouse, credentials("duckdb:///w.duckdb"), others)
