"""Snowflake and BigQuery, as far as their emulators go: landed, verified, repaired, reconciled, delivered from."""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from tests.clouds.emulators import (
    Cloud,
    Emulator,
    cloud,
    emulator,
)
from tests.projects import NODE, table
from tests.prove.spoilt import Shop

from dbt_bridge.contracts.destination import Load
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.reconciliation import (
    DeclaredTolerance,
    Metric,
    Pairing,
    Reconciliation,
)
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.reconcile import ReconcileOptions, reconcile
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify

COLUMNS = (
    "i2 smallint, f4 real, f8 double precision, n numeric(12,2), big numeric(38,9), free numeric, b boolean, s text,"
    " c char(5), d date, ts timestamp, tz timestamptz, tm time, by bytea, j jsonb, u uuid, a int[], ta text[]"
)
ROWS = """
INSERT INTO things SELECT g, g % 100, g / 3.0, g / 7.0, g / 4.0, g / 8.0, g / 16.0, g % 2 = 0, 'né ☃ ' || g, 'ab',
    date '2020-01-01' + g, timestamp '2020-01-01 00:00:00.123456' + g * interval '1 h',
    timestamptz '2020-01-01 00:00:00.654321+02' + g * interval '1 h', time '12:34:56.789',
    decode(lpad(to_hex(g), 8, '0'), 'hex'), jsonb_build_object('b', g, 'a', array[1, 2]), gen_random_uuid(),
    array[g, NULL, 2], array['x,y', '"q"', NULL]
FROM generate_series(1, 200) g;
INSERT INTO things (id) VALUES (0);
INSERT INTO things (id, s, by, f8) VALUES (-1, '', '', '-0'), (-2, E'tab\\t nl\\n "q" '' \\\\ %s', '\\x00ff', 1e300);
"""


@pytest.fixture(scope="module", params=["snowflake", "bigquery"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def there(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return cloud(running, monkeypatch)


@pytest.fixture
def shop_of(there: Cloud, project: Project, tmp_path: Path) -> Project:
    return Project(tmp_path, "shop", there.profile, (), ())


def verified(project: Project, **how: object) -> dict[str, Parity]:
    found = verify(project, VerifyOptions(**how), Silent())  # type: ignore[arg-type]
    assert [parity.error for parity in found if parity.error] == []
    return {parity.node.removeprefix(NODE): parity for parity in found}


def test_what_landed_is_verified_and_repaired(
    there: Cloud, shop_of: Project, warehouse_file: Path, origin: psycopg.Connection
) -> None:
    origin.execute(f"CREATE TABLE things (id bigint PRIMARY KEY, {COLUMNS})".encode())
    origin.execute(ROWS.encode())
    origin.execute("CREATE TABLE bag (name text, x int)")
    origin.execute("INSERT INTO bag SELECT 'n' || g % 50, g % 7 FROM generate_series(1, 300) g")
    shop = Shop(shop_of, warehouse_file, table("things", "initial_copy"), table("bag", "initial_copy"))

    for level in ("counts", "aggregates", "rows"):
        found = verified(shop.project, level=level)
        apart = [(e.key, e.values) for p in found.values() for e in p.examples]
        wrong = [a for p in found.values() for a in p.aggregates if not a.same]
        assert {name: p.status for name, p in found.items()} == dict.fromkeys(found, "equal"), (apart, wrong)
    assert found["things"].rows_destination == 203

    for statement in (
        "UPDATE {} SET s = NULL WHERE id = -1",
        "UPDATE {} SET s = '' WHERE id = 0",
        "UPDATE {} SET n = n + 0.01 WHERE id = 7",
        "UPDATE {} SET b = NOT b WHERE id = 8",
        "UPDATE {} SET f8 = f8 + 1e-12 WHERE id = 9",
        "DELETE FROM {} WHERE id = 10",
        "UPDATE {} SET id = 1000 WHERE id = 11",
    ):
        there.ask(statement, "shop_landing.things")
    found = verified(shop.project)
    things = found["things"]
    assert (things.only_in_origin, things.only_in_destination, things.different) == (2, 1, 5)
    assert dict(things.columns) == {"s": 2, "n": 1, "b": 1, "f8": 1}
    assert found["bag"].status == "equal"

    (receipt,) = shop.repair()
    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (2, 5, 1)
    assert {p.status for p in verified(shop.project).values()} == {"equal"}
    assert there.ask("SELECT count(*) FROM {} WHERE hop = 'repair'", "_dbt_bridge.receipts") == [(1,)]


def test_a_log_is_followed_verified_and_repaired(
    there: Cloud, shop_of: Project, warehouse_file: Path, origin: psycopg.Connection
) -> None:
    origin.execute('CREATE TABLE things (id bigint PRIMARY KEY, "Note" text, at timestamptz, amount numeric(12,2))')
    origin.execute("INSERT INTO things SELECT g, 'n' || g, now(), g / 4.0 FROM generate_series(1, 300) g")
    is_soft = there.adapter != "bigquery"  # to whose emulator dlt cannot add a column
    shop = Shop(shop_of, warehouse_file, table("things", deletes="soft" if is_soft else "hard"))
    origin.execute("UPDATE things SET \"Note\" = 'later' WHERE id IN (3, 4)")
    origin.execute("DELETE FROM things WHERE id = 5")
    shop.sync()
    assert {p.status for p in verified(shop.project).values()} == {"equal"}

    things = "shop_landing.things"
    there.ask("UPDATE {} SET Note = NULL WHERE id = 7", things)
    there.ask("DELETE FROM {} WHERE id = 9", things)
    found = verified(shop.project)["things"]
    assert (found.only_in_origin, found.different, dict(found.columns)) == (1, 1, {"Note": 1})
    (receipt,) = shop.repair()
    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (1, 1, 0)
    if is_soft:
        assert there.ask("SELECT count(*) FROM {} WHERE _deleted_at IS NOT NULL", things) == [(1,)]


def test_models_are_reconciled_with_what_they_replace(
    there: Cloud, shop_of: Project, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__LEGACY__CREDENTIALS", database)
    origin.execute("CREATE TABLE old_orders (no bigint PRIMARY KEY, title text, at timestamptz, kind text, cents int)")
    origin.execute(
        "INSERT INTO old_orders SELECT g, 'title ' || g, '2026-01-01 12:00+00', 'real', g * 25"
        " FROM generate_series(1, 500) g"
    )
    origin.execute("INSERT INTO old_orders VALUES (0, 'x', now(), 'test', 1)")
    there.warehouse().load(_EMPTY, _EMPTY.table.arrow_schema.empty_table().to_reader())  # makes the schema
    model = "marts.fct_orders"
    types = "id INT64, label STRING, moment TIMESTAMP, amount NUMERIC"
    if there.adapter == "snowflake":
        types = "id NUMBER(19,0), label VARCHAR, moment TIMESTAMP_TZ, amount NUMBER(12,2)"
    there.ask(f"CREATE TABLE {{}} ({types})", model)
    values = ", ".join(f"({i}, 'title {i}', '2026-01-01 11:00:00+00:00', {i / 4})" for i in range(1, 501))
    there.ask(f"INSERT INTO {{}} VALUES {values}", model)
    hour = "dateadd(hour, 1, moment)" if there.adapter == "snowflake" else "timestamp_add(moment, INTERVAL 1 HOUR)"
    this = "marts.fct_orders" if there.adapter == "snowflake" else f"`{there.profile.database}`.`marts`.`fct_orders`"
    declared = Reconciliation(
        node="model.shop.orders",
        name="orders",
        this=this,
        display_name=model,
        origin="legacy",
        relation=TableName("public", "old_orders"),
        legacy_filter="kind <> 'test'",
        new_filter="id < 1000 -- every one",
        key={"id": "no"},
        columns={
            "label": Pairing("title"),
            "moment": Pairing("at", hour),
            "amount": Pairing("cents / 100.0"),
        },
        tolerances={"amount": DeclaredTolerance(Decimal("0.001"), False, "0.001")},
        levels=("aggregates", "rows"),
        metrics=(
            Metric(
                "revenue",
                "SELECT kind, count(*), sum(cents) / 100.0 FROM old_orders WHERE kind = 'real' GROUP BY 1",
                f"SELECT 'real' AS kind, count(*) AS c, sum(amount) AS s FROM {this}",
            ),
        ),
    )
    project = replace(shop_of, reconciliations=(declared,))

    def reconciled(one: Reconciliation = declared) -> Parity:
        (found,) = reconcile(replace(project, reconciliations=(one,)), ReconcileOptions(), Silent())
        return found

    equal = reconciled()
    assert (equal.status, equal.error) == ("equal", None), (equal.examples, equal.aggregates)
    assert (equal.rows_origin, equal.rows_destination) == (500, 500)

    there.ask("DELETE FROM {} WHERE id = 7", model)
    there.ask("UPDATE {} SET amount = amount + 1 WHERE id = 400", model)
    there.ask("UPDATE {} SET amount = amount + 0.001 WHERE id = 401", model)
    there.ask("UPDATE {} SET label = NULL WHERE id = 9", model)
    apart = reconciled()
    assert apart.error is None
    assert (apart.only_in_origin, apart.only_in_destination, apart.different) == (1, 0, 2), apart.examples
    assert {name.lower(): n for name, n in apart.columns.items()} == {"amount": 1, "label": 1}
    assert not next(a for a in apart.aggregates if a.what.startswith("revenue") or "count" in a.what).same

    wrong = reconciled(replace(declared, new_filter="no_such_column = 1"))
    assert wrong.status == "failed"
    assert "no_such_column" in str(wrong.error).lower()

    itself = replace(
        declared, origin="", relation=TableName("marts", "fct_orders"), legacy_filter="", key={}, metrics=()
    )
    itself = replace(itself, columns={}, default_key=("id",), tolerances={})
    same = reconciled(itself)
    assert (same.status, same.error, same.rows_origin) == ("equal", None, 499)


_EMPTY = Load(Table(TableName("marts", "nothing"), (Column("id", pa.int64()),)), "replace", "load-0")
