"""A cdc source in the hands of people: tables go and come back, runs are bounded, origins are asked at bad moments."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.projects import SyncTables, cdc_source, table

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.changes import feed, receiver
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.nouns.project import Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.build import build
from dbt_bridge.run.sync import SyncOptions


@pytest.fixture
def shop(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    origin.execute("INSERT INTO orders SELECT g, 'n' || g FROM generate_series(1, 500) g")
    origin.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    origin.execute("INSERT INTO customers SELECT g, 'c' || g FROM generate_series(1, 50) g")
    return origin


def same(shop: psycopg.Connection, file: Path, *names: str) -> None:
    """Both ends hold the same rows."""
    for name in names:
        with duckdb.connect(str(file), read_only=True) as connection:
            landed = connection.execute(f"SELECT * FROM landing.{name} ORDER BY 1").fetchall()  # noqa: S608
        assert landed == shop.execute(f"SELECT * FROM {name} ORDER BY 1".encode()).fetchall()  # noqa: S608


def asked(file: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_an_origin_that_breaks_off_while_it_is_asked_sets_no_table_aside(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a network's hiccup would have every table copied anew."""
    sync_sources(cdc_source("orders", "customers"))
    describe = shapes.describe_shapes

    def broken(connections: Any, *look: Any) -> Any:
        shop.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return describe(connections, *look)

    with monkeypatch.context() as patched:
        patched.setattr(shapes, "describe_shapes", broken)
        receipts = sync_sources(cdc_source("orders", "customers"))
        assert {receipt.status for receipt in receipts.values()} == {"failed"}
    assert asked(warehouse_file, "SELECT DISTINCT set_aside FROM _dbt_bridge.checkpoints") == [("",)]
    shop.execute("UPDATE orders SET note = 'x' WHERE id = 1")
    assert sync_sources(cdc_source("orders", "customers"))["orders"].hop == "cdc"
    same(shop, warehouse_file, "orders", "customers")


def test_a_table_that_left_the_project_comes_back_as_a_new_copy(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    sync_sources(cdc_source("orders", "customers"))
    shop.execute("UPDATE customers SET name = 'unseen' WHERE id < 10")
    shop.execute("UPDATE orders SET note = 'seen' WHERE id = 1")
    sync_sources(cdc_source("orders"))
    shop.execute("DELETE FROM customers WHERE id > 40")
    receipts = sync_sources(cdc_source("orders", "customers"))
    assert (receipts["customers"].hop, receipts["customers"].status) == ("initial_copy", "success")
    assert (receipts["orders"].hop, receipts["orders"].status) == ("cdc", "success")
    same(shop, warehouse_file, "orders", "customers")


def test_nothing_is_built_on_a_table_that_did_not_join_in_time(
    shop: psycopg.Connection, project: Project, sync_sources: SyncTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends after its first batch, which comes whatever the bound is."""
    sync_sources(cdc_source("orders"))
    for order in range(1, 9):
        shop.execute("UPDATE orders SET note = 'a' WHERE id = %s", [order])
    monkeypatch.setattr(DuckDBWarehouse, "chunk_rows", 1)
    monkeypatch.setattr(receiver, "RUN_MESSAGES", 4)  # Begin, Relation, Update, Commit

    def built() -> tuple[Mapping[str, str], bool]:
        raise AssertionError("dbt was run")

    chosen = replace(project, sources=(cdc_source("orders", "customers"),))
    outcome = build(chosen, built, SyncOptions(max_seconds=0), Silent())
    receipts = {receipt.node: receipt for receipt in outcome.receipts}
    assert not outcome.ok
    assert "max-seconds" in (receipts["source.shop.landing.customers"].error or "")
    assert 1 <= (receipts["source.shop.landing.orders"].rows_loaded or 0) < 8


def test_a_bounded_run_finishes_the_transaction_that_it_is_in(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a transaction that takes longer than each run would never arrive."""
    from dbt_bridge.cdc.applier import Applier

    sync_sources(cdc_source("orders"))
    shop.execute("UPDATE orders SET note = 'all'")
    monkeypatch.setattr(DuckDBWarehouse, "chunk_rows", 10)
    monkeypatch.setattr(receiver, "RUN_MESSAGES", 10)
    monkeypatch.setattr(feed, "_HUGE", 5)
    pieces, apply, clock = 0, Applier._apply, time.monotonic

    def counted(self: Applier, node: str, event: object) -> None:
        nonlocal pieces
        pieces += 1
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600)
        apply(self, node, event)

    monkeypatch.setattr(Applier, "_apply", counted)
    sync_sources(cdc_source("orders"), max_seconds=600)
    assert pieces > 1
    same(shop, warehouse_file, "orders")


def test_columns_that_changed_behind_the_bound_are_left_for_a_later_run(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    sync_sources(cdc_source("orders"))
    (until,) = shop.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("0/0",)
    shop.execute("INSERT INTO orders VALUES (1000, 'before')")
    shop.execute("ALTER TABLE orders ADD COLUMN size int")
    sync_sources(cdc_source("orders"), until_lsn=until)
    assert sync_sources(cdc_source("orders"))["orders"].hop == "cdc"
    same(shop, warehouse_file, "orders")


def test_columns_that_change_while_another_table_is_copied_are_taken_from_the_log(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_sources(cdc_source("orders"))
    stage = DuckDBWarehouse.stage

    def altering(self: DuckDBWarehouse, *given: Any) -> Any:
        monkeypatch.setattr(DuckDBWarehouse, "stage", stage)
        shop.execute("ALTER TABLE orders ADD COLUMN size int")
        shop.execute("INSERT INTO orders VALUES (1000, 'new', 5)")
        return stage(self, *given)

    monkeypatch.setattr(DuckDBWarehouse, "stage", altering)
    receipts = sync_sources(cdc_source("orders", "customers"))
    assert receipts["customers"].hop == "initial_copy" and receipts["orders"].hop == "cdc"
    same(shop, warehouse_file, "orders", "customers")


def test_a_hidden_column_that_is_renamed_between_two_looks_does_not_land(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the source hides it in all of its tables, so that this one need not have it."""
    hiding = {"mask": {"note": "sha256"}, "of_source": frozenset(("note",))}
    orders = table("orders", node="source.shop.landing.", **hiding)
    sync_sources(cdc_source(orders))
    stage = DuckDBWarehouse.stage

    def renaming(self: DuckDBWarehouse, *given: Any) -> Any:
        monkeypatch.setattr(DuckDBWarehouse, "stage", stage)
        shop.execute("ALTER TABLE orders RENAME note TO remark")
        shop.execute("UPDATE orders SET remark = 'open'")
        return stage(self, *given)

    monkeypatch.setattr(DuckDBWarehouse, "stage", renaming)
    receipts = sync_sources(cdc_source(orders, "customers"))
    assert "renamed to 'remark'" in (receipts["orders"].error or "")
    assert receipts["customers"].status == "success"
    columns = "SELECT column_name FROM duckdb_columns() WHERE table_name = 'orders' AND schema_name = 'landing'"
    assert asked(warehouse_file, columns) == [("id",), ("note",)]


def test_a_slot_that_is_not_ours_is_refused_before_anything_is_copied(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    shop.execute("SELECT pg_create_physical_replication_slot('dbt_bridge_standby')")
    try:
        receipts = sync_sources(cdc_source("orders", slot="dbt_bridge_standby"))
    finally:
        shop.execute("SELECT pg_drop_replication_slot('dbt_bridge_standby')")
    assert "physical" in (receipts["orders"].error or "")
    assert asked(warehouse_file, "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'landing'") == [(0,)]


def test_many_tables_need_few_connections(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{i}" for i in range(20)]
    for name in names:
        shop.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)".encode())
    sync_sources(cdc_source(*names))
    for name in names:
        shop.execute(f"INSERT INTO {name} VALUES (1)".encode())  # noqa: S608
    connect, count = psycopg.connect, 0

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        return connect(*given, **more)

    monkeypatch.setattr(psycopg, "connect", counted)
    receipts = sync_sources(cdc_source(*names))
    assert {receipt.rows_loaded for receipt in receipts.values()} == {1}
    assert count < 15
    same(shop, warehouse_file, *names)


def test_a_view_is_told_from_a_table_that_is_not_there(shop: psycopg.Connection, sync_sources: SyncTables) -> None:
    shop.execute("CREATE VIEW recent AS SELECT * FROM orders")
    receipts = sync_sources(cdc_source("orders", "recent", "nowhere"))
    assert receipts["orders"].status == "success"
    assert "public.recent is no table but a view" in (receipts["recent"].error or "")
    assert "has no table public.nowhere" in (receipts["nowhere"].error or "")


def test_a_slot_that_nothing_follows_lets_the_origin_go_on(shop: psycopg.Connection, sync_sources: SyncTables) -> None:
    """Its only table is set aside and copied anew when it is mended: the log until then is of no use."""
    confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_test'"
    sync_sources(cdc_source("orders"))
    shop.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    assert sync_sources(cdc_source("orders"))["orders"].status == "failed"
    before = shop.execute(confirmed).fetchall()
    shop.execute("UPDATE customers SET name = 'x'")
    assert sync_sources(cdc_source("orders"))["orders"].status == "failed"
    assert shop.execute(confirmed).fetchall() > before


def test_a_table_that_was_landed_otherwise_in_between_is_copied_anew(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    """Its rows are newer than its checkpoint; without a key, what came since would be there twice."""
    shop.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    shop.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    sync_sources(cdc_source("orders"))
    shop.execute("INSERT INTO orders VALUES (1000, 'once')")
    copied = cdc_source("orders", replication="initial_copy")
    assert sync_sources(copied)["orders"].hop == "initial_copy"
    assert sync_sources(cdc_source("orders"))["orders"].status == "success"
    same(shop, warehouse_file, "orders")
