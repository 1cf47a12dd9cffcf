"""Every database that can be a side of a reconciliation answers the same selection alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dlt
import duckdb
import psycopg
import pytest
from tests.connectors.conftest import MariaDatabase, mariadb, mariadb_server  # noqa: F401 (fixtures)

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.queries import DuckDBQueries
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.connectors.sqlalchemy.queries import SqlQueries
from dbt_bridge.contracts.capabilities import AnswersQueries
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.contracts.queries import Queries
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import TableName
from dbt_bridge.testing.queries import QueriesTests, create_orders


def ask_warehouse(warehouse: Ledger, schema: str) -> Queries:
    assert isinstance(warehouse, AnswersQueries)
    return warehouse.queries(schema)


@pytest.fixture
def postgres_through_dlt(database: str) -> Iterator[Queries]:
    destination = dlt.destinations.postgres(database.replace("postgres@", "postgres:none@"))
    with psycopg.connect(database, autocommit=True) as connection:
        made = ask_warehouse(DltWarehouse("redshift", destination), "public")
        create_orders(made, lambda sql: connection.execute(sql.encode()))
    with closing(made):
        yield made


class TestPostgres(QueriesTests):
    @pytest.fixture
    def queries(self, database: str) -> Iterator[Queries]:
        with psycopg.connect(database, autocommit=True) as connection:
            made = create_orders(PostgresQueries("old", database), lambda sql: connection.execute(sql.encode()))
        with closing(made):
            yield made


class TestPostgresWarehouse(QueriesTests):
    @pytest.fixture
    def queries(self, database: str) -> Iterator[Queries]:
        with (
            PostgresWarehouse("pg", database) as warehouse,
            psycopg.connect(database, autocommit=True) as connection,
            closing(ask_warehouse(warehouse, "public")) as made,
        ):
            yield create_orders(made, lambda sql: connection.execute(sql.encode()))


class TestDlt(QueriesTests):
    has_keys = False

    @pytest.fixture
    def queries(self, postgres_through_dlt: Queries) -> Queries:
        return postgres_through_dlt


class TestSqlAlchemy(QueriesTests):
    """A database of which nothing is known but what SQLAlchemy says."""

    @pytest.fixture
    def queries(self, database: str) -> Iterator[Queries]:
        made = SqlQueries("old", database.replace("postgresql://", "postgresql+psycopg://"))
        with psycopg.connect(database, autocommit=True) as connection:
            create_orders(made, lambda sql: connection.execute(sql.encode()))
        with closing(made):
            yield made


class TestDuckDB(QueriesTests):
    @pytest.fixture
    def queries(self) -> Iterator[Queries]:
        database = duckdb.connect()
        with closing(create_orders(DuckDBQueries("old", database, "memory"), database.execute)) as made:
            yield made


class TestDuckDBWarehouse(QueriesTests):
    @pytest.fixture
    def queries(self, tmp_path: Path) -> Iterator[Queries]:
        with (
            DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse,
            closing(ask_warehouse(warehouse, "main")) as made,
        ):
            yield create_orders(made, warehouse._connection.execute)


class TestSqlite(QueriesTests):
    @pytest.fixture
    def queries(self, tmp_path: Path) -> Iterator[Queries]:
        made = SqlQueries("old", f"sqlite:///{tmp_path / 'old.sqlite'}")
        with sqlite3.connect(tmp_path / "old.sqlite") as file:
            create_orders(made, file.execute)
        with closing(made):
            yield made


class TestMariaDb(QueriesTests):
    @pytest.fixture
    def queries(self, mariadb: MariaDatabase) -> Iterator[Queries]:  # noqa: F811
        made = SqlQueries("old", mariadb.url)
        with mariadb.connection.cursor() as cur:
            create_orders(made, cur.execute)
        with closing(made):
            yield made


def test_mariadb_tells_the_types_of_expressions(mariadb: MariaDatabase) -> None:  # noqa: F811
    queries = SqlQueries("old", mariadb.url)
    mariadb.execute("CREATE TABLE t (a BIGINT UNSIGNED, b DECIMAL(30,10), c TIMESTAMP NULL, d VARBINARY(5), e TEXT)")
    mariadb.execute("INSERT INTO t VALUES (18446744073709551615, 0.0000000001, '2026-01-02 03:04:05', x'ff', 'é')")

    columns, rows = queries.result(
        "SELECT a AS a, b * 3 AS b, coalesce(c, c) AS c, coalesce(d, '') AS d, concat(e, '!') AS e, 1.50 AS f,"
        " 1e0 AS g, date(c) AS h, a > 1 AS i, count(*) OVER () AS j FROM t"
    )
    queries.close()

    assert rows.to_pylist() == [
        {
            "a": Decimal(2**64 - 1), "b": Decimal("0.0000000003"), "c": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "d": b"\xff", "e": "é!", "f": Decimal("1.50"), "g": 1.0, "h": datetime(2026, 1, 2).date(), "i": 1, "j": 1,
        }
    ]  # fmt: skip
    assert columns[1].origin_type.startswith("decimal(")


def test_two_kinds_of_values_in_a_column_of_sqlite_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.sqlite") as file:
        file.execute("CREATE TABLE t (a)")
        file.execute("INSERT INTO t VALUES (1), ('one')")
    queries = SqlQueries("old", f"sqlite:///{tmp_path / 'old.sqlite'}")
    with pytest.raises(TypeRefused, match="'a' gives integer and text values"):
        queries.result("SELECT a FROM t")
    assert queries.result("SELECT cast(a AS text) AS a FROM t ORDER BY 1")[1]["a"].to_pylist() == ["1", "one"]
    queries.close()


def test_names_without_a_schema_are_found_by_the_users_own_path(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE SCHEMA legacy")
    origin.execute("CREATE TABLE legacy.orders AS SELECT 7 AS id")
    origin.execute("ALTER ROLE CURRENT_USER SET search_path = legacy")
    queries = PostgresQueries("old", database)
    try:
        assert queries.result("SELECT id FROM orders")[1].to_pylist() == [{"id": 7}]
        assert queries.names(queries.relation(TableName("", "orders"))) == ["id"]
        assert queries.key(TableName("", "orders")) == ()
    finally:
        queries.close()
        origin.execute("ALTER ROLE CURRENT_USER RESET search_path")


def test_a_number_that_does_not_fit_is_refused_and_wraps_around_to_none(postgres_through_dlt: Queries) -> None:
    """Arrow's own cast made 18960114910927365649.47 of it."""
    with pytest.raises(TypeRefused, match="does not fit"):
        postgres_through_dlt.result("SELECT 1e30::numeric(38, 0) AS n")
    assert postgres_through_dlt.result("SELECT 1e15::numeric(38, 0) AS n")[1].to_pylist() == [{"n": Decimal(10**15)}]
