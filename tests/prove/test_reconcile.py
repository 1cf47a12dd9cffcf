"""One dbt project whose models replace four legacy systems: what agrees, and exactly what does not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.connectors.conftest import MariaDb, mariadb_server  # noqa: F401 (a fixture)
from tests.projects import dbt_result

from dbt_bridge.cli import run_command
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.parity import Aggregate, Parity
from dbt_bridge.nouns.project import DbtOptions, Project
from dbt_bridge.nouns.reconciliation import DeclaredTolerance, Pairing
from dbt_bridge.nouns.table import TableName
from dbt_bridge.observe.progress import Silent
from dbt_bridge.project.invoke import build as dbt_build
from dbt_bridge.project.load import load_project
from dbt_bridge.prove.reconcile import ReconcileOptions, reconcile
from dbt_bridge.run.build import build
from dbt_bridge.run.deliver import list_unproven, reconcile_built
from dbt_bridge.run.doctor import stream_findings
from dbt_bridge.run.sync import SyncOptions

CENT = DeclaredTolerance(Decimal("0.01"), False, "0.01")
MODELS = {
    # 1 same; 2 a cent apart; 3 another status; 4 five euros apart; 6 only here; 7 a test order
    "fct_orders": """
        select * from (values
          (1, 100.00::decimal(12,2), 'PAID', timestamp '2026-01-01 10:00:00', null),
          (2, 20.01, 'PAID', timestamp '2026-01-02 10:00:01', 'x'),
          (3, 30.00, 'OPEN', timestamp '2026-01-03 10:00:00', null),
          (4, 45.00, 'PAID', timestamp '2026-01-04 10:00:00', null),
          (6, 60.00, 'PAID', timestamp '2026-01-06 10:00:00', null),
          (7, 70.00, 'TEST', timestamp '2026-01-07 10:00:00', null)
        ) as t (order_id, amount, status, placed_at, note)""",
    "dim_customers": """
        select *
        from (values (1, 'Ann', date '1990-01-02', true), (2, 'Zoë', null, false)) as t (id, name, born, vip)""",
    "products": """
        select * from (values ('a', 1.5, 7), ('b', 2.25, 0), ('c', null, null)) as t (sku, price, "in:sto""ck %")""",
    "stock": "select i as id, i * 2 as held from range(100) as r (i)",
    "no_key": "select * from (values ('a', 1), ('a', 1), ('b', 2)) as t (x, y)",
    "revenue": "select amount, status from {{ ref('fct_orders') }}",
    "lonely": "select 1 as id",
}
YML = """
models:
  - name: fct_orders
    config:
      meta:
        bridge:
          reconcile:
            origin: legacy_my
            relation: Orders
            filter: {legacy: "st <> 'test'", new: "status <> 'TEST'"}
            key: {order_id: OrderNo}
            columns:
              amount: {legacy: cents / 100, tolerance: 0.01}
              status: upper(st)
              placed_at: {legacy: created, tolerance: 2 seconds}
            exclude: note
            levels: [aggregates, rows]
            required: true
  - name: dim_customers
    columns: [{name: id, data_tests: [unique, not_null]}]
    config: {meta: {bridge: {reconcile: {origin: legacy_lite, relation: customers, required: true}}}}
  - name: products
    config:
      meta:
        bridge:
          reconcile:
            origin: legacy_pg
            query: |
              select upper(code) as code, price, p."in:sto""ck %" from shop.products p -- 100%
            key: {sku: lower(code)}
            tolerances: {price: 1%}
  - name: stock
    config:
      meta:
        bridge:
          reconcile:
            - {origin: legacy_duck, relation: main.stock}
            - {origin: legacy_duck, relation: stock, filter: id < 50, levels: counts}
            - {origin: legacy_duck, relation: nowhere}
            - {origin: legacy_duck, relation: stock, columns: {helt: held}}
            - {origin: legacy_nowhere, relation: stock}
            - {origin: same_file, relation: main.stock, filter: {legacy: id <> 1}}
  - name: no_key
    config: {meta: {bridge: {reconcile: {query: "values ('b', 2), ('a', 1), ('c', 3)", columns: {x: col0, y: col1}}}}}
  - name: revenue
    config:
      meta:
        bridge:
          reconcile:
            origin: legacy_my
            metrics:
              - name: totals
                legacy: select count(*) n, sum(cents) / 100 total, max(st) last from Orders
                new: select count(*) as orders, sum(amount) as total, max(lower(status)) from {{ this }}
              - name: by status
                legacy: select upper(st) as status, sum(cents) / 100 as total from Orders group by 1
                new: select status, sum(amount) as total from {this} group by 1
                tolerance: 20%
  - name: lonely
    config:
      meta:
        bridge:
          reconcile:
            - metrics: [{name: broken, legacy: select count(*) from nowhere, new: select 1}]
            - metrics: [{name: shapes, legacy: "select 1, 2", new: select 1}]
            - metrics: [{name: nothing, legacy: "select 1 where false", new: "select 1 where false"}]
exposures:
  - name: crm_orders
    type: application
    owner: {name: growth}
    depends_on: [ref('fct_orders')]
    config: {meta: {bridge: {destination: crm, schema: crm, table: orders, write_disposition: replace}}}
  - name: crm_customers
    type: application
    owner: {name: growth}
    depends_on: [ref('dim_customers')]
    config: {meta: {bridge: {destination: crm, schema: crm, table: customers, write_disposition: replace}}}
"""


@dataclass(frozen=True)
class Shop:
    root: Path
    project: Project
    statuses: dict[str, str]

    def reconciled(self, *models: str, **options: object) -> list[Parity]:
        chosen = replace(self.project, selected=frozenset(f"model.shop.{model}" for model in models))
        return reconcile(chosen, ReconcileOptions(**options), Silent())  # type: ignore[arg-type]


def declared_otherwise(shop: Shop, **changes: object) -> Project:
    """The project whose only reconciliation is that of fct_orders, with other words."""
    (orders,) = [declared for declared in shop.project.reconciliations if declared.name == "fct_orders"]
    only: Any = {"levels": ("rows",), "columns": {}, "tolerances": {}, "key": {}, "legacy_filter": "", "exclude": ()}
    return replace(shop.project, reconciliations=(replace(orders, **{**only, **changes}),))


def fill_mariadb(server: MariaDb) -> str:
    with server.connect() as connection, connection.cursor() as cur:
        cur.execute("DROP DATABASE IF EXISTS legacy")
        cur.execute("CREATE DATABASE legacy CHARACTER SET utf8mb4")
        cur.execute("USE legacy")
        cur.execute(
            "CREATE TABLE Orders (OrderNo BIGINT PRIMARY KEY, cents INT, st VARCHAR(10), created DATETIME, note TEXT)"
        )
        cur.execute(
            "INSERT INTO Orders VALUES (1, 10000, 'paid', '2026-01-01 10:00:00', 'a'), "
            "(2, 2000, 'paid', '2026-01-02 10:00:00', 'b'), (3, 3000, 'paid', '2026-01-03 10:00:00', 'c'), "
            "(4, 4000, 'paid', '2026-01-04 10:00:00', 'd'), (5, 5000, 'paid', '2026-01-05 10:00:00', 'e'), "
            "(9, 9000, 'test', '2026-01-05 10:00:00', 'f')"
        )
        cur.execute("SET sql_mode = ''")
        cur.execute("CREATE TABLE zero (order_id INT PRIMARY KEY, placed_at DATETIME)")
        cur.execute("INSERT INTO zero VALUES (1, '0000-00-00'), (2, '2026-01-02 10:00:01')")
    return server.url("legacy")


def fill_files(root: Path) -> None:
    with sqlite3.connect(root / "legacy.sqlite") as file:
        file.execute(
            "CREATE TABLE customers (ID INTEGER PRIMARY KEY, Name TEXT, born DATE, vip BOOLEAN, shoe_size INT)"
        )
        file.execute("INSERT INTO customers VALUES (1, 'Ann', '1990-01-02', 1, 40), (2, 'Zoë', NULL, 0, 41)")
    with duckdb.connect(str(root / "legacy.duckdb")) as other:
        other.execute("CREATE TABLE stock (id BIGINT PRIMARY KEY, held HUGEINT)")
        other.execute("INSERT INTO stock SELECT i, i * 2 FROM range(100) AS r (i)")


def fill_postgres(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA shop")
        connection.execute('CREATE TABLE shop.products (code text, price numeric, "in:sto""ck %" int)')
        connection.execute("INSERT INTO shop.products VALUES ('a', 1.51, 7), ('b', 2.30, NULL), ('c', NULL, NULL)")


@pytest.fixture(scope="module")
def shop(server: Server, mariadb_server: MariaDb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:  # noqa: F811
    root = tmp_path_factory.mktemp("reconcile") / "shop"
    (root / "models").mkdir(parents=True)
    (root / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\nprofile: shop\n")
    output = {"type": "duckdb", "path": str(root / "warehouse.duckdb"), "threads": 2}
    (root / "profiles.yml").write_text(json.dumps({"shop": {"target": "dev", "outputs": {"dev": output}}}))
    for name, sql in MODELS.items():
        (root / "models" / f"{name}.sql").write_text(sql)
    (root / "models" / "models.yml").write_text(YML)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS reconcile WITH (FORCE)")
        connection.execute("CREATE DATABASE reconcile")
    fill_postgres(server.url("reconcile"))
    fill_files(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "false")
        patch.setenv("SOURCES__LEGACY_MY__CREDENTIALS", fill_mariadb(mariadb_server))
        patch.setenv("SOURCES__LEGACY_LITE__CREDENTIALS", "sqlite:///legacy.sqlite")
        patch.setenv("SOURCES__LEGACY_PG__CREDENTIALS", server.url("reconcile"))
        patch.setenv("SOURCES__LEGACY_DUCK__CREDENTIALS", "duckdb:///legacy.duckdb")
        patch.setenv("SOURCES__SAME_FILE__CREDENTIALS", "duckdb:///warehouse.duckdb")
        patch.setenv("DESTINATION__CRM__DESTINATION_TYPE", "postgres")
        patch.setenv("DESTINATION__CRM__CREDENTIALS", server.url("reconcile"))
        project = load_project(DbtOptions(project_dir=root))
        built = dbt_build(project.options, quiet=True)
        assert built.success, built
        yield Shop(root, project, {node.unique_id: node.status for node in built.nodes})


def test_across_mariadb_and_duckdb_every_row_has_its_status(shop: Shop) -> None:
    (parity,) = shop.reconciled("fct_orders")

    assert (parity.status, parity.error, parity.words) == ("different", None, ("legacy", "new"))
    assert (parity.origin, parity.destination) == ("legacy_my: Orders", "duckdb: main.fct_orders")
    assert (parity.rows_origin, parity.rows_destination) == (5, 5)
    assert (parity.only_in_origin, parity.only_in_destination, parity.different) == (1, 1, 2)
    assert parity.columns == {"amount": 1, "status": 1}
    assert parity.key == ("order_id",)
    found = {(e.kind, e.key["order_id"]): (dict(e.origin), dict(e.destination)) for e in parity.examples}
    assert found["different", "3"] == ({"status": "PAID"}, {"status": "OPEN"})
    assert set(found["different", "4"][0]) == {"amount"}
    assert {key for kind, key in found if kind == "only_in_origin"} == {"5"}
    assert {key for kind, key in found if kind == "only_in_destination"} == {"6"}


def test_the_variance_of_aggregates_stands_beside_the_rows(shop: Shop) -> None:
    (parity,) = shop.reconciled("fct_orders")

    (total,) = [a for a in parity.aggregates if (a.column, a.what) == ("amount", "sum")]
    assert not total.same
    assert total.variance == pytest.approx((255.01 - 240) / 240)
    assert total.tolerance == "0.01"


def test_names_types_and_the_key_are_found_by_themselves(shop: Shop) -> None:
    (parity,) = shop.reconciled("dim_customers")

    assert (parity.status, parity.error, parity.rows_origin, parity.key) == ("equal", None, 2, ("id",))
    assert "only legacy has shoe_size" in parity.why


def test_a_query_of_postgres_with_a_mapped_key_and_a_percentage(shop: Shop) -> None:
    (parity,) = shop.reconciled("products")

    assert (parity.error, parity.only_in_origin, parity.only_in_destination) == (None, 0, 0)
    assert dict(parity.columns) == {"price": 1, 'in:sto"ck %': 1}  # 1.51 is within 1% of 1.5; NULL is not 0
    (example,) = parity.examples
    assert (example.key, example.origin['in:sto"ck %'], example.destination['in:sto"ck %']) == ({"sku": "b"}, None, "0")


def test_a_legacy_file_of_duckdb_and_what_cannot_be_compared(shop: Shop) -> None:
    same, counted, missing, slip, unknown, own_file = shop.reconciled("stock")

    assert (same.status, same.rows_origin, same.key, same.error) == ("equal", 100, ("id",), None)
    assert (counted.status, counted.level, counted.rows_origin) == ("equal", "counts", 50)
    assert [parity.status for parity in (missing, slip, unknown)] == ["failed"] * 3
    assert "nowhere" in str(missing.error)
    assert "no column 'helt'" in str(slip.error)
    assert "did you mean 'held'" in str(slip.error)
    assert "legacy_nowhere" in str(unknown.error)
    assert (own_file.error, own_file.only_in_destination, own_file.rows_origin) == (None, 1, 99)


def test_without_a_key_rows_are_compared_with_how_often_they_come(shop: Shop) -> None:
    (parity,) = shop.reconciled("no_key")

    assert (parity.origin.startswith("warehouse: values"), parity.key) == (True, ())
    assert (parity.only_in_origin, parity.only_in_destination, parity.error) == (1, 1, None)


def test_metrics_fail_beyond_their_tolerance_alone(shop: Shop) -> None:
    (parity,) = shop.reconciled("revenue")

    assert (parity.status, parity.level, parity.error) == ("different", "aggregates", None)
    told = {a.what: a for a in parity.aggregates}
    assert told["totals.orders"].same
    assert (told["totals.total"].origin, told["totals.total"].destination) == ("330.0000", "325.01")
    assert (told["totals.total"].same, told["totals.total"].tolerance) == (False, "0.01%")
    assert told["by status.total [TEST]"] == Aggregate(
        "", "by status.total [TEST]", "90.0000", "70.00", False, pytest.approx(-20 / 90), "20%"
    )
    assert told["by status.total [PAID]"].same  # 250 and 225.01
    assert not told["by status.total [OPEN]"].same  # nobody has it there


def test_a_metric_that_cannot_be_asked_is_a_failure(shop: Shop) -> None:
    errors = [(parity.status, str(parity.error)) for parity in shop.reconciled("lonely")]

    assert [status for status, _ in errors] == ["failed"] * 3
    assert "metric 'broken'" in errors[0][1]
    assert "the legacy query gives 2 columns, and the new one 1" in errors[1][1]
    assert "neither query gives a row" in errors[2][1]


def test_what_is_required_gates_the_deliveries_of_a_build(shop: Shop) -> None:
    outcome = build(shop.project, lambda: dbt_result(shop.statuses), SyncOptions(), Silent())

    assert {p.node: p.status for p in outcome.parities} == {
        "model.shop.fct_orders": "different",
        "model.shop.dim_customers": "equal",
    }
    told = {receipt.node: (receipt.status, receipt.error) for receipt in outcome.receipts}
    assert told["exposure.shop.crm_customers"] == ("success", None)
    status, why = told["exposure.shop.crm_orders"]
    assert status == "skipped"
    assert "it does not reconcile with legacy_my: Orders" in str(why)
    assert not outcome.ok
    only = replace(shop.project, selected=frozenset({"exposure.shop.crm_customers"}))
    assert [p.node for p in reconcile_built(only, shop.statuses, Silent(), for_deliveries=True)] == [
        "model.shop.dim_customers"
    ]
    found = reconcile_built(shop.project, {"model.shop.fct_orders": "error"}, Silent())
    assert (found, list_unproven(found)) == ([], {})


def test_what_a_legacy_value_cannot_be_is_mended_in_the_block_of_the_model(shop: Shop) -> None:
    zero: dict[str, Any] = {"relation": TableName("", "zero"), "only": ("order_id", "placed_at"), "new_filter": ""}
    (refused,) = reconcile(declared_otherwise(shop, **zero), ReconcileOptions(), Silent())
    assert refused.status == "failed"
    assert "'0000-00-00 00:00:00' cannot be kept" in (refused.error or "")
    assert "an expression in `columns:`" in (refused.error or "")

    zero["columns"] = {"placed_at": Pairing("NULLIF(placed_at, '0000-00-00')")}
    zero["new_filter"] = "order_id < 3"
    (mended,) = reconcile(declared_otherwise(shop, **zero), ReconcileOptions(), Silent())
    assert (mended.different, mended.columns) == (1, {"placed_at": 1})


@pytest.mark.parametrize(
    ("column", "tolerance", "mend"),
    [
        ("placed_at", DeclaredTolerance(Decimal("0.01"), True, "1%"), "2 seconds"),
        ("placed_at", DeclaredTolerance(Decimal(2), False, "2"), "2 seconds"),
        ("amount", DeclaredTolerance(Decimal(2), False, "2 seconds", time=True), "0.1%"),
    ],
)
def test_a_tolerance_is_of_its_columns_unit(shop: Shop, column: str, tolerance: DeclaredTolerance, mend: str) -> None:
    columns = {"placed_at": Pairing("created"), "amount": Pairing("cents / 100")}
    (found,) = reconcile(
        declared_otherwise(shop, key={"order_id": "OrderNo"}, columns=columns, tolerances={column: tolerance}),
        ReconcileOptions(), Silent(),
    )  # fmt: skip
    assert found.status == "failed"
    assert f"{column!r} is " in (found.error or "")
    assert mend in (found.error or "")


ORDER = {"key": {"order_id": "OrderNo"}}
MOMENT = DeclaredTolerance(Decimal(2), False, "2 seconds", time=True)


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({**ORDER, "columns": {"amount": Pairing("cents / hundred")}}, "correct the name in the dbt YAML"),
        ({**ORDER, "columns": {"amount": Pairing("cents /")}}, "correct its SQL in the YAML"),
        ({**ORDER, "legacy_filter": "nothing = 1"}, "correct the name in the dbt YAML"),
        ({"relation": None, "query": "select 1 as amount", "tolerances": {"amount": CENT}}, "declare `key:`"),
        ({**ORDER, "columns": {"status": Pairing("st")}, "tolerances": {"status": CENT}}, "take status out of"),
        ({**ORDER, "columns": {"amount": Pairing("cents")}, "tolerances": {"amount": MOMENT}}, "write it like `0.5`"),
    ],
    ids=["name", "syntax", "filter", "no key", "text", "no moment"],
)
def test_the_doctor_tries_what_reconcile_would_ask(shop: Shop, changes: dict[str, Any], mend: str) -> None:
    project = replace(declared_otherwise(shop, **changes), selected=frozenset({"model.shop.fct_orders"}))
    (found,) = [f for f in stream_findings(lambda: project) if f.subject.endswith(", reconcile")]
    assert found.status == "fault"
    assert found.mend.startswith(mend)


def test_the_doctor_looks_at_legacy_systems_and_names(shop: Shop) -> None:
    chosen = frozenset({"model.shop.fct_orders", "model.shop.stock", "model.shop.revenue"})
    found = [
        finding
        for finding in stream_findings(lambda: replace(shop.project, selected=chosen))
        if finding.subject.endswith(", reconcile")
    ]

    assert [finding.status for finding in found] == ["ok", "ok", "ok", "ok", "fault", "fault", "fault", "ok"]
    assert found[0].what == "legacy_my: Orders: 4 columns, by order_id"
    assert (found[5].what.endswith("no column 'helt'"), found[5].mend) == (True, "did you mean 'held'?")


def test_the_command_prints_reports_keeps_and_exits(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--project-dir", str(shop.root), "--json", "--report", str(shop.root / "r.html")]

    code = run_command(["reconcile", "--select", "fct_orders", *place])

    document = json.loads(capsys.readouterr().out)
    assert (code, document["status"], document["parity"][0]["different"]) == (1, "failed", 2)
    assert "legacy" in (shop.root / "r.html").read_text()
    assert run_command(["reconcile", "--select", "dim_customers", *place]) == 0
    capsys.readouterr()
    assert run_command(["reconcile", "--select", "dim_customers", "--level", "counts", *place]) == 0
    assert json.loads(capsys.readouterr().out)["parity"][0]["level"] == "counts"
    assert run_command(["reconcile", "--select", "dim_customers", "--method", "digests", *place]) == 0
    (told,) = json.loads(capsys.readouterr().out)["parity"]
    assert (told["method"], told["why"].split(";")[0].split(",")[0]) == ("values", "neither side computes digests")
    assert run_command(["reconcile", "--method", "guess", *place]) == 2
    with duckdb.connect(str(shop.root / "warehouse.duckdb"), read_only=True) as warehouse:
        kept = warehouse.execute(
            "SELECT level, status, rows_origin FROM _dbt_bridge.parity ORDER BY started_at DESC LIMIT 4"
        ).fetchall()
    assert kept == [("rows", "equal", 2), ("counts", "equal", 2), ("rows", "equal", 2), ("rows", "different", 5)]
