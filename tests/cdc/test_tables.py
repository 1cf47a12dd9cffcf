"""What a cdc source does beside its changes: tables that come, change their columns or names, and partitions."""

from __future__ import annotations

from pathlib import Path

import duckdb
import psycopg
import pytest
from tests.projects import SyncTables, cdc_source


@pytest.fixture
def shop(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(10,2), note text)")
    origin.execute("INSERT INTO orders SELECT g, g, 'n' || g FROM generate_series(1, 500) g")
    return origin


def same(shop: psycopg.Connection, file: Path, name: str) -> None:
    """Both ends hold the same rows."""
    with duckdb.connect(str(file), read_only=True) as connection:
        landed = connection.execute(f"SELECT * FROM landing.{name} ORDER BY 1").fetchall()  # noqa: S608
    assert landed == shop.execute(f"SELECT * FROM {name} ORDER BY 1".encode()).fetchall()  # noqa: S608


def staging_tables(file: Path) -> list[str]:
    with duckdb.connect(str(file), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    return [name for (name,) in names if name.startswith("_dbt_bridge_stage")]


def test_a_new_table_joins_although_another_one_is_set_aside(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    shop.execute("CREATE TABLE later (id int PRIMARY KEY)")
    sync_sources(cdc_source("orders"))
    shop.execute("INSERT INTO orders VALUES (1000, 'NaN')")
    shop.execute("INSERT INTO later VALUES (1)")
    receipts = sync_sources(cdc_source("orders", "later"))
    assert "'amount'" in (receipts["orders"].error or "")
    assert (receipts["later"].hop, receipts["later"].status) == ("initial_copy", "success")
    same(shop, warehouse_file, "later")
    shop.execute("INSERT INTO later VALUES (2)")
    sync_sources(cdc_source("orders", "later"))
    same(shop, warehouse_file, "later")


def test_a_copy_that_was_not_joined_leaves_no_rows_behind(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    shop.execute("CREATE TABLE later (id int PRIMARY KEY)")
    sync_sources(cdc_source("orders"))
    shop.execute("ALTER TABLE orders ADD COLUMN x int DEFAULT 5")  # is copied anew, in a second round
    shop.execute("INSERT INTO orders (id) VALUES (1000)")
    receipts = sync_sources(cdc_source("orders", "later"))
    assert {r.status for r in receipts.values()} == {"success"}
    assert staging_tables(warehouse_file) == []
    same(shop, warehouse_file, "orders")
    same(shop, warehouse_file, "later")


def test_a_table_that_was_renamed_and_renamed_back_goes_on(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    sync_sources(cdc_source("orders"))
    shop.execute("ALTER TABLE orders RENAME TO elsewhere")
    shop.execute("UPDATE elsewhere SET note = 'there' WHERE id = 1")
    shop.execute("ALTER TABLE elsewhere RENAME TO orders")
    shop.execute("UPDATE orders SET note = 'back' WHERE id = 2")
    receipts = sync_sources(cdc_source("orders"))
    assert (receipts["orders"].hop, receipts["orders"].status, receipts["orders"].rows_loaded) == ("cdc", "success", 2)
    same(shop, warehouse_file, "orders")


@pytest.mark.parametrize(
    ("ddl", "hop"),
    [
        ("TRUNCATE parts_a", "initial_copy"),
        ("ALTER TABLE parts DETACH PARTITION parts_a", "initial_copy"),
        ("DROP TABLE parts_a", "initial_copy"),
        (
            "CREATE TABLE more (LIKE parts); INSERT INTO more VALUES (9, 'c');"
            " ALTER TABLE parts ATTACH PARTITION more FOR VALUES IN ('c')",
            "initial_copy",
        ),
        ("CREATE TABLE more PARTITION OF parts FOR VALUES IN ('c'); INSERT INTO more VALUES (9, 'c')", "cdc"),
    ],
)
def test_what_is_done_to_a_partition_by_its_own_name_is_noticed(
    ddl: str, hop: str, shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    """pgoutput, which publishes the root, is silent of it."""
    shop.execute("CREATE TABLE parts (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)")
    shop.execute("CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a')")
    shop.execute("CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b')")
    shop.execute("INSERT INTO parts VALUES (1, 'a'), (2, 'b'), (3, 'a')")
    sync_sources(cdc_source("parts"))
    shop.execute(ddl.encode())
    shop.execute("INSERT INTO parts VALUES (77, 'b')")
    assert sync_sources(cdc_source("parts"))["parts"].hop == hop
    same(shop, warehouse_file, "parts")
