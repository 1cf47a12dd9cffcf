"""A warehouse that is only reached through dlt; the real engine behind it here is Postgres."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dlt
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.dlt.profile import dlt_credentials
from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.contracts.destination import Ledger, Load, Warehouse
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.checkpoint import Checkpoint, TableState
from dbt_bridge.nouns.project import (
    LandingSource,
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.observe.progress import Silent
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.run.sync import SyncOptions, sync


@pytest.fixture
def warehouse(database: str) -> DltWarehouse:
    url = database.replace("postgres@", "postgres:none@")
    return DltWarehouse("redshift", dlt.destinations.postgres(url))


def test_checkpoints_are_kept_replaced_and_forgotten(warehouse: DltWarehouse) -> None:
    orders = Checkpoint("source.shop.shop.orders", "shop_pg", "updated_at", "2026-01-01 00:00:00+00")
    items = replace(orders, node="source.shop.shop.items")
    assert warehouse.checkpoint(orders.node) is None

    warehouse.save([orders, items], [])
    warehouse.save([replace(orders, value="2026-02-01 00:00:00+00")], [])
    warehouse.forget(items.node)

    assert warehouse.checkpoint(orders.node) == replace(orders, value="2026-02-01 00:00:00+00")
    assert warehouse.checkpoint(items.node) is None


def test_every_field_of_a_checkpoint_is_kept_also_by_a_table_of_an_earlier_version(
    warehouse: DltWarehouse,
) -> None:
    orders = Checkpoint(
        "source.orders", "shop_pg", "", "0/1F", "7301/shop", '{"id": 23}', "type refused", TableState.SET_ASIDE
    )
    items = Checkpoint("source.items", "shop_pg", "id", "7")
    assert warehouse.checkpoints() == []
    name = TableName("_dbt_bridge", "checkpoints")
    earlier = pa.table({"node": [items.node], "origin": ["shop_pg"], "cursor": ["id"], "value": ["7"]})
    warehouse.load(Load(Table.of_schema(name, earlier.schema, ("node",)), "merge", "load-0"), earlier.to_reader())
    assert warehouse.checkpoints() == [items]

    warehouse.save([orders], [])

    assert sorted(warehouse.checkpoints(), key=lambda c: c.node) == [items, orders]


def test_relations_are_read_in_order_and_as_text(warehouse: DltWarehouse, origin: psycopg.Connection) -> None:
    origin.execute("CREATE SCHEMA marts")
    origin.execute("CREATE TABLE marts.dim (id int, amount numeric(12,2), born date)")
    origin.execute("INSERT INTO marts.dim VALUES (1, 1.50, '2000-01-02'), (2, NULL, NULL)")

    rows = warehouse.read(TableName("marts", "dim"), ["born", "id"], as_text=["born"]).read_all()

    assert rows.to_pylist() == [{"born": "2000-01-02", "id": 1}, {"born": None, "id": 2}]


def test_it_is_a_ledger_without_transactions_over_tables(warehouse: DltWarehouse) -> None:
    assert isinstance(warehouse, Ledger)
    assert not isinstance(warehouse, Warehouse)


def test_a_sync_lands_incrementally_through_dlt(
    origin: psycopg.Connection, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text, version int NOT NULL)")
    origin.execute("INSERT INTO orders VALUES (1, 'a', 1), (2, 'b', 2)")
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.setenv("DESTINATION__REDSHIFT__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__REDSHIFT__CREDENTIALS", database.replace("postgres@", "postgres:none@"))
    orders = LandingTable("source.shop.shop.orders", "orders", "orders", replication="incremental", cursor="version")
    defaults = LandingTable("source.shop.shop", "", "", replication="initial_copy")
    source = LandingSource(
        name="shop",
        origin="shop_pg",
        origin_schema="public",
        landing_schema="landing",
        landing_database="",
        tables=(orders,),
        defaults=defaults,
    )
    project = Project(tmp_path, "shop", WarehouseProfile("redshift", "d", "s", 1, {}), (source,), ())
    sync(project, SyncOptions(), Silent())
    origin.execute("UPDATE orders SET note = 'B', version = 3 WHERE id = 2")
    origin.execute("INSERT INTO orders VALUES (3, 'c', 4)")

    (receipt,) = sync(project, SyncOptions(), Silent())

    assert (receipt.status, receipt.rows_inserted, receipt.rows_updated) == ("success", 1, 1), receipt.error
    assert (receipt.checkpoint_from, receipt.checkpoint_to) == ("2", "4")
    rows = origin.execute("SELECT id, note FROM landing.orders ORDER BY id").fetchall()
    assert rows == [(1, "a"), (2, "B"), (3, "c")]
    statuses = origin.execute("SELECT status, count(*) FROM _dbt_bridge.receipts GROUP BY 1").fetchall()
    assert statuses == [("success", 2)]


@pytest.mark.parametrize(
    ("adapter", "given", "expected"),
    [
        ("snowflake", {"account": "ab1", "user": "u", "password": "p", "schema": "s"},
         {"host": "ab1", "username": "u", "password": "p"}),
        ("snowflake", {"account": "ab1", "user": "u", "host": "ab1.privatelink.snowflakecomputing.com", "port": 8443},
         {"host": "ab1", "username": "u",
          "query": {"host": "ab1.privatelink.snowflakecomputing.com", "port": 8443}}),
        ("redshift", {"host": "h", "port": 5439, "user": "u", "pass": "p", "dbname": "d"},
         {"host": "h", "port": 5439, "username": "u", "password": "p", "database": "d"}),
        ("databricks", {"host": "h", "http_path": "/sql", "token": "t", "catalog": "main"},
         {"server_hostname": "h", "http_path": "/sql", "access_token": "t", "catalog": "main"}),
    ],
)  # fmt: skip
def test_a_profiles_credentials_under_dlts_names(
    adapter: str, given: dict[str, object], expected: dict[str, object]
) -> None:
    assert dlt_credentials(WarehouseProfile(adapter, "d", "s", 1, given)) == expected


def test_a_bigquery_key_file_is_read(tmp_path: Path) -> None:
    key = {"type": "service_account", "project_id": "theirs", "private_key": "k", "client_email": "a@b.c"}
    (tmp_path / "key.json").write_text(json.dumps(key))
    profile = WarehouseProfile("bigquery", "d", "s", 1, {"project": "ours", "keyfile": str(tmp_path / "key.json")})

    assert dlt_credentials(profile) == {"private_key": "k", "client_email": "a@b.c", "project_id": "ours"}


def test_an_adapter_that_dlt_does_not_know_says_what_to_configure(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'oracle'[\s\S]*\[destination\.oracle\]"):
        open_warehouse(WarehouseProfile("oracle", "d", "s", 1, {}), project_root=tmp_path)


def test_loads_through_it_are_like_any_other(warehouse: DltWarehouse, origin: psycopg.Connection) -> None:
    rows = pa.table({"id": [1, 2]})

    loaded = warehouse.load(Load(Table.of_schema(TableName("x", "t"), rows.schema), "replace", "l"), rows.to_reader())

    assert (loaded.rows_inserted, origin.execute("SELECT count(*) FROM x.t").fetchone()) == (2, (2,))
