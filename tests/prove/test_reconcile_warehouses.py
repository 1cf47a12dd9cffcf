"""Models in a Postgres warehouse, and in one that is only reached through dlt, against what they replace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from dbt_bridge.nouns.parity import Method
from dbt_bridge.nouns.project import Project, WarehouseProfile
from dbt_bridge.nouns.reconciliation import Metric, Pairing, Reconciliation
from dbt_bridge.nouns.table import TableName
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.reconcile import ReconcileOptions, reconcile

HOSTILE = 'na"me:x %s'
ORDERS = Reconciliation(
    node="model.shop.orders",
    name="orders",
    this='marts."fct;orders"',
    display_name="marts.fct;orders",
    origin="legacy",
    relation=TableName("old", "Orders"),
    legacy_filter="kind <> 'test'",
    new_filter="true -- every one",
    columns={HOSTILE: Pairing("title"), "moment": Pairing("at", "\"moment\" + interval '1 hour'")},
    metrics=(Metric("count", 'SELECT count(*) FROM old."Orders"', 'SELECT count(*) + 1 FROM marts."fct;orders"'),),
)


def made(root: Path, database: str, monkeypatch: pytest.MonkeyPatch, adapter: str) -> Project:
    to = conninfo_to_dict(database)
    credentials = {"host": to["host"], "port": int(str(to["port"])), "user": to["user"], "dbname": to["dbname"]}
    if adapter != "postgres":
        monkeypatch.setenv("DESTINATION__REDSHIFT__DESTINATION_TYPE", "postgres")
        monkeypatch.setenv("DESTINATION__REDSHIFT__CREDENTIALS", database.replace("postgres@", "postgres:none@"))
    monkeypatch.setenv("SOURCES__LEGACY__CREDENTIALS", database)
    profile = WarehouseProfile(adapter, str(to["dbname"]), "marts", 1, credentials)
    return Project(root, "shop", profile, (), (), (ORDERS,))


def fill(origin: psycopg.Connection) -> None:
    quoted = '"' + HOSTILE.replace('"', '""') + '"'
    for statement in (
        "CREATE SCHEMA old",
        "CREATE SCHEMA marts",
        'CREATE TABLE old."Orders" (id bigint PRIMARY KEY, title text, at timestamptz, kind text, amount numeric)',
        f'CREATE TABLE marts."fct;orders" (id int, {quoted} text, moment timestamp, amount numeric(12,2))',
        "INSERT INTO old.\"Orders\" SELECT i, 'title ' || i, '2026-01-01 12:00+00', 'real', i / 4.0"
        " FROM generate_series(1, 500) AS i",
        "INSERT INTO old.\"Orders\" VALUES (0, 'x', now(), 'test', 1)",
        "INSERT INTO marts.\"fct;orders\" SELECT i, 'title ' || i, '2026-01-01 11:00', i / 4.0"
        " FROM generate_series(1, 500) AS i",
    ):
        origin.execute(statement.encode())


@pytest.mark.parametrize("adapter", ["postgres", "redshift"])
def test_a_model_in_a_warehouse_of_this_kind_reconciles(
    adapter: str, tmp_path: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(origin)
    project = made(tmp_path, database, monkeypatch, adapter)

    (equal,) = reconcile(project, ReconcileOptions(), Silent())
    origin.execute('DELETE FROM marts."fct;orders" WHERE id = 7')
    origin.execute('UPDATE marts."fct;orders" SET amount = NULL WHERE id = 400')
    (apart,) = reconcile(project, ReconcileOptions(), Silent())

    assert (equal.status, equal.error, equal.rows_origin, equal.key) == ("equal", None, 500, ("id",)), equal
    assert equal.method == ("digests" if adapter == "postgres" else equal.method)
    assert (apart.only_in_origin, apart.only_in_destination, apart.different) == (1, 0, 1), apart.error
    assert dict(apart.columns) == {"amount": 1}
    assert apart.aggregates[0].what == "count.?column?"
    assert not apart.aggregates[0].same
    kept = origin.execute("SELECT status, count(*) FROM _dbt_bridge.parity GROUP BY 1 ORDER BY 1").fetchall()
    assert kept == [("different", 1), ("equal", 1)]


@pytest.mark.parametrize("method", ["digests", "buckets", "values"])
def test_rows_are_compared_by_the_method_that_is_asked_for(
    method: Method, tmp_path: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(origin)
    project = made(tmp_path, database, monkeypatch, "postgres")
    origin.execute('UPDATE marts."fct;orders" SET amount = amount + 0.25 WHERE id IN (7, 400)')

    (found,) = reconcile(project, ReconcileOptions(method=method), Silent())

    assert (found.method, found.why) == (method, "as it was asked for" if method != "buckets" else found.why)
    assert (found.differences, dict(found.columns)) == (2, {"amount": 2})


def test_a_legacy_duckdb_against_postgres(
    tmp_path: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(origin)
    with duckdb.connect(str(tmp_path / "old.duckdb")) as file:
        file.execute("CREATE SCHEMA old")  # like the file: `old.Orders` alone is ambiguous to DuckDB
        file.execute(
            "CREATE TABLE old.old.Orders AS SELECT i AS id, 'title ' || i AS title, timestamp '2026-01-01 12:00' AS at,"
            " 'real' AS kind, i / 4 AS amount FROM range(1, 501) AS r (i)"
        )
    project = made(tmp_path, database, monkeypatch, "postgres")
    monkeypatch.setenv("SOURCES__LEGACY__CREDENTIALS", "duckdb:///old.duckdb")
    keyed = replace(ORDERS, default_key=("id",), metrics=())

    (found,) = reconcile(replace(project, reconciliations=(keyed,)), ReconcileOptions(), Silent())

    assert (found.status, found.error, found.rows_destination) == ("equal", None, 500)


def test_a_legacy_system_that_cannot_be_reached_fails_its_models_alone(
    tmp_path: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(origin)
    project = made(tmp_path, database, monkeypatch, "postgres")
    monkeypatch.setenv("SOURCES__GONE__CREDENTIALS", "postgresql://postgres@127.0.0.1:1/nothing")
    gone = replace(ORDERS, node="model.shop.gone", origin="gone")

    found = reconcile(replace(project, reconciliations=(gone, ORDERS)), ReconcileOptions(), Silent())

    assert [(p.node, p.status) for p in found] == [("model.shop.gone", "failed"), ("model.shop.orders", "equal")]
    assert "127.0.0.1:1" in str(found[0].error)


def test_a_legacy_relation_of_an_attached_database_is_no_namesake(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.duckdb" for name in ("wh", "legacy", "marts")}
    for name, rows in (("wh", "VALUES (9)"), ("legacy", "VALUES (1), (2)"), ("marts", "VALUES (1), (2)")):
        with duckdb.connect(str(files[name])) as connection:
            connection.execute(f"CREATE SCHEMA shop; CREATE TABLE shop.orders AS SELECT * FROM ({rows}) AS t(id)")  # noqa: S608
    prepare = tuple(f"ATTACH '{files[name]}' AS {name}" for name in ("legacy", "marts"))
    profile = WarehouseProfile("duckdb", "wh", "main", 1, {"type": "duckdb", "path": str(files["wh"])}, prepare)
    declared = Reconciliation(
        node="model.shop.orders", name="orders", this='"marts"."shop"."orders"', display_name="marts.shop.orders",
        relation=TableName("shop", "orders"), legacy_database="legacy", key={"id": "id"},
    )  # fmt: skip
    project = Project(tmp_path, "shop", profile, (), (), (declared,))

    (equal,) = reconcile(project, ReconcileOptions(), Silent())
    with duckdb.connect(str(files["legacy"])) as connection:
        connection.execute("INSERT INTO shop.orders VALUES (3)")
    (apart,) = reconcile(project, ReconcileOptions(), Silent())

    assert (equal.status, equal.error, equal.rows_origin) == ("equal", None, 2)
    assert (equal.origin, equal.destination) == ("warehouse: legacy.shop.orders", "duckdb: marts.shop.orders")
    assert (apart.only_in_origin, apart.only_in_destination) == (1, 0)
