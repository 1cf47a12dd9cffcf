"""Every database that can be a side of a reconciliation answers the same selection alike."""
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dlt
import duckdb
import psycopg
import pyarrow as pa
import pytest
from tests.connectors.conftest import MariaDatabase, mariadb, mariadb_server  # noqa: F401 (fixtures)

from dbt_bridge.connectors.dlt.queries import DltQueries
from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.queries import DuckDBQueries
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.connectors.sqlalchemy.queries import SqlQueries
from dbt_bridge.errors import BridgeError, TypeRefused
from dbt_bridge.nouns.reconciliation import Queries, Selection, in_parentheses
from dbt_bridge.nouns.table import TableName

TABLE = TableName("", 'Or"d`er:s %')
AMOUNT, NAME = 'am"ou`nt', "na:me %s"
ROWS = [(1, Decimal("10.50"), "a:b 100%"), (2, Decimal("-3.25"), None), (3, None, "NULL")]
ENGINES = ("postgres", "duckdb", "sqlite", "mariadb", "dlt", "sqlalchemy")


def _filled(queries: Queries, run: Callable[[str], object]) -> Queries:
    """A table with hostile names: its key is only in the catalog of those that keep one."""
    q = queries.quote_identifier
    run(
        f"CREATE TABLE {queries.relation(TABLE)} (id int PRIMARY KEY, {q(AMOUNT)} decimal(12,2), {q(NAME)} varchar(20))"
    )
    for number, amount, name in ROWS:
        told = "NULL" if name is None else f"'{name}'"
        run(f"INSERT INTO {queries.relation(TABLE)} VALUES ({number}, {amount if amount else 'NULL'}, {told})")
    return queries


@pytest.fixture(params=ENGINES)
def queries(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queries]:
    match request.param:
        case "postgres":
            url = request.getfixturevalue("database")
            with psycopg.connect(url, autocommit=True) as connection:
                made = _filled(PostgresQueries("old", url), lambda sql: connection.execute(sql.encode()))
        case "dlt":  # what is behind it here is Postgres
            url = request.getfixturevalue("database")
            warehouse = DltWarehouse("redshift", dlt.destinations.postgres(url.replace("postgres@", "postgres:none@")))
            with psycopg.connect(url, autocommit=True) as connection:
                made = _filled(DltQueries(warehouse.session, "public"), lambda sql: connection.execute(sql.encode()))
        case "sqlalchemy":  # a database that nothing is known of but what SQLAlchemy says
            url = request.getfixturevalue("database")
            with psycopg.connect(url, autocommit=True) as connection:
                other = SqlQueries("old", url.replace("postgresql://", "postgresql+psycopg://"))
                made = _filled(other, lambda sql: connection.execute(sql.encode()))
        case "duckdb":
            database = duckdb.connect()
            made = _filled(DuckDBQueries("old", database, "memory"), database.execute)
        case "sqlite":
            made = SqlQueries("old", f"sqlite:///{tmp_path / 'old.sqlite'}")
            with sqlite3.connect(tmp_path / "old.sqlite") as file:
                _filled(made, file.execute)
        case _:
            legacy: MariaDatabase = request.getfixturevalue("mariadb")
            made = SqlQueries("old", legacy.url)
            with legacy.connection.cursor() as cur:
                _filled(made, cur.execute)
    yield made
    made.close()


def selection(queries: Queries, rows: str, relation: TableName | None = None, condition: str = "") -> Selection:
    q = queries.quote_identifier
    values = {"id": q("id"), AMOUNT: q(AMOUNT), "shout: %": f"upper({q(NAME)}) -- {{{{ not jinja }}}}\n"}
    return Selection(rows, values, condition, relation, {"id": "id", AMOUNT: AMOUNT} if relation else {})


def test_a_relation_is_selected_filtered_counted_and_found_by_key(queries: Queries) -> None:
    rows = queries.relation(TABLE)
    chosen = selection(queries, rows, TABLE, f"{queries.quote_identifier(NAME)} LIKE '%:%' OR id = 2 -- and no more")

    side = queries.side("for people", chosen)

    assert queries.names(rows) == ["id", AMOUNT, NAME]
    assert queries.key(TABLE) == (() if isinstance(queries, DltQueries) else ("id",))
    assert (side.name, side.count()) == ("for people", 2)
    read = side.rows(["shout: %", "id", AMOUNT]).read_all().sort_by("id")
    assert read.schema.types == [side.table.column(name).type for name in read.column_names]  # type: ignore[union-attr]
    assert read.to_pylist() == [
        {"shout: %": "A:B 100%", "id": 1, AMOUNT: Decimal("10.50")},
        {"shout: %": None, "id": 2, AMOUNT: Decimal("-3.25")},
    ]
    keys = pa.table({"id": pa.array([2, 3, 99], read.schema.field("id").type)})
    assert side.rows([AMOUNT], keys).read_all().to_pylist() == [{AMOUNT: Decimal("-3.25")}]
    both = read.select(["shout: %", AMOUNT])  # NULL equals NULL
    assert sorted(side.rows(["id"], both).read_all()["id"].to_pylist()) == [1, 2]


def test_a_query_is_a_relation_too(queries: Queries) -> None:
    sql = f"SELECT * FROM {queries.relation(TABLE)} WHERE id <> 2 -- it ends in a comment;\n;"

    side = queries.side("q", selection(queries, in_parentheses(sql)))

    assert side.rows(["id", AMOUNT]).read_all().sort_by("id")[AMOUNT].to_pylist() == [10.5, None]
    assert side.count() == 2


def test_a_metric_is_a_small_table(queries: Queries) -> None:
    sql = f"SELECT count(*) AS n, sum({queries.quote_identifier(AMOUNT)}) AS total FROM {queries.relation(TABLE)};"

    columns, rows = queries.result(sql)

    assert [column.name for column in columns] == ["n", "total"]
    (row,) = rows.to_pylist()
    assert (row["n"], Decimal(str(row["total"]))) == (3, Decimal("7.25"))


@pytest.mark.parametrize("sql", ["SELECT nothing FROM nowhere", "SELEC 1"])
def test_what_the_database_refuses_is_an_error_of_ours(queries: Queries, sql: str) -> None:
    with pytest.raises(BridgeError):
        queries.result(sql)
    with pytest.raises(BridgeError):
        queries.names(in_parentheses(sql))
    assert queries.result("SELECT 1 AS a")[1].to_pylist() == [{"a": 1}]  # and it goes on


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


@pytest.mark.parametrize("queries", ["dlt"], indirect=True)
def test_a_number_that_does_not_fit_is_refused_and_wraps_around_to_none(queries: Queries) -> None:
    """Arrow's own cast made 18960114910927365649.47 of it."""
    with pytest.raises(TypeRefused, match="does not fit"):
        queries.result("SELECT 1e30::numeric(38, 0) AS n")
    assert queries.result("SELECT 1e15::numeric(38, 0) AS n")[1].to_pylist() == [{"n": Decimal(10**15)}]


def test_columns_of_one_name_are_both_given_or_refused(queries: Queries) -> None:
    """Postgres calls each sum `sum`."""
    try:
        columns, rows = queries.result(f"SELECT sum(id) AS sum, sum(id * 2) AS sum FROM {queries.relation(TABLE)}")
    except BridgeError as error:
        assert "two columns named 'sum'" in error.what or "Duplicate column name 'sum'" in error.what
    else:
        assert [int(column[0].as_py()) for column in rows.columns] == [6, 12]
        assert len(columns) == 2
