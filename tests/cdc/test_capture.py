"""A cdc source from end to end: a real Postgres, a real DuckDB file, `sync` as the command calls it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from tests.projects import NODE, landing_source, table

from dbt_bridge.connectors.postgres.changes.lsn import parse_lsn
from dbt_bridge.nouns.project import LandingTable, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions
from dbt_bridge.run.sync import sync as run_sync

Ask = Callable[[str], list[tuple[object, ...]]]
Sync = Callable[..., list[Receipt]]


@pytest.fixture
def shop(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE customers (id bigint PRIMARY KEY, name text, city text)")
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, customer_id bigint, amount numeric(12,2), note text)")
    origin.execute("INSERT INTO customers SELECT g, 'c' || g, 'Bern' FROM generate_series(1, 100) g")
    origin.execute("INSERT INTO orders SELECT g, g % 100 + 1, g * 1.25, NULL FROM generate_series(1, 1000) g")
    return origin


@pytest.fixture
def sync(project: Project) -> Sync:
    """`dbt-bridge sync` of the source `shop`, with these tables."""

    def once(
        *tables: LandingTable, full_refresh: bool = False, needed: set[str] | None = None, **given: object
    ) -> list[Receipt]:
        source = landing_source(*tables, slot="dbt_bridge_test", **given)
        nodes = None if needed is None else frozenset(f"{NODE}{name}" for name in needed)
        chosen = replace(project, sources=(source,), needed=nodes)
        return run_sync(chosen, SyncOptions(full_refresh=full_refresh), Silent())

    return once


def same(shop: psycopg.Connection, landed: Ask, name: str, columns: str) -> None:
    """Both ends hold the same rows, value by value."""
    query = f"SELECT {columns} FROM {{}} ORDER BY 1"  # noqa: S608
    assert landed(query.format(f"shop_landing.{name}")) == shop.execute(query.format(name).encode()).fetchall()


def test_the_first_sync_copies_and_the_next_one_brings_what_changed(
    shop: psycopg.Connection, sync: Sync, landed: Ask
) -> None:
    first = sync(table("customers"), table("orders"))
    assert [(r.hop, r.status, r.rows_loaded) for r in first] == [
        ("initial_copy", "success", 100),
        ("initial_copy", "success", 1000),
    ]
    same(shop, landed, "orders", "id, customer_id, amount, note")

    shop.execute("INSERT INTO orders VALUES (2000, 1, 9.99, 'new')")
    shop.execute("UPDATE orders SET amount = amount + 1 WHERE id <= 10")
    shop.execute("DELETE FROM orders WHERE id BETWEEN 11 AND 15")
    second = {r.node: r for r in sync(table("customers"), table("orders"))}
    changed = second[f"{NODE}orders"]
    assert (changed.hop, changed.status, changed.rows_loaded) == ("cdc", "success", 16)
    assert (changed.rows_inserted, changed.rows_updated, changed.rows_deleted) == (1, 10, 5)
    assert changed.last_commit_at is not None and changed.lag_seconds is not None
    assert parse_lsn(changed.checkpoint_from or "") < parse_lsn(changed.checkpoint_to or "")
    assert second[f"{NODE}customers"].rows_loaded == 0
    same(shop, landed, "orders", "id, customer_id, amount, note")
    same(shop, landed, "customers", "id, name, city")


def test_all_tables_stand_at_one_lsn(shop: psycopg.Connection, sync: Sync, landed: Ask) -> None:
    sync(table("customers"), table("orders"))
    shop.execute("UPDATE customers SET city = 'Basel' WHERE id = 1")
    sync(table("customers"), table("orders"))
    assert landed("SELECT count(DISTINCT value), count(*) FROM _dbt_bridge.checkpoints") == [(1, 2)]


def test_a_table_that_is_added_later_is_copied_and_joins_the_others(
    shop: psycopg.Connection, sync: Sync, landed: Ask
) -> None:
    sync(table("orders"))
    shop.execute("UPDATE orders SET note = 'seen' WHERE id = 7")
    receipts = {r.node: r for r in sync(table("customers"), table("orders"))}
    assert receipts[f"{NODE}customers"].hop == "initial_copy"
    assert receipts[f"{NODE}orders"].hop == "cdc"
    assert landed("SELECT count(DISTINCT value) FROM _dbt_bridge.checkpoints") == [(1,)]
    shop.execute("UPDATE customers SET name = 'later' WHERE id = 3")
    sync(table("customers"), table("orders"))
    same(shop, landed, "customers", "id, name, city")
    same(shop, landed, "orders", "id, customer_id, amount, note")


def test_one_table_is_copied_anew_while_the_others_go_on(shop: psycopg.Connection, sync: Sync, landed: Ask) -> None:
    both = (table("customers"), table("orders"))
    sync(*both)
    shop.execute("UPDATE customers SET city = 'Chur'")
    shop.execute("DELETE FROM orders WHERE id > 500")
    receipts = {r.node: r for r in sync(*both, full_refresh=True, needed={"orders"})}
    assert receipts[f"{NODE}orders"].hop == "initial_copy" and receipts[f"{NODE}orders"].rows_loaded == 500
    assert receipts[f"{NODE}customers"].hop == "cdc"
    same(shop, landed, "customers", "id, name, city")
    same(shop, landed, "orders", "id, customer_id, amount, note")


def test_a_column_that_is_added_comes_with_its_values(shop: psycopg.Connection, sync: Sync, landed: Ask) -> None:
    sync(table("orders"))
    shop.execute("ALTER TABLE orders ADD COLUMN tag text")
    shop.execute("UPDATE orders SET tag = 'a' WHERE id = 1")
    shop.execute("ALTER TABLE orders ADD COLUMN size int DEFAULT 5")
    shop.execute("INSERT INTO orders (id) VALUES (3000)")
    sync(table("orders"))
    same(shop, landed, "orders", "id, customer_id, amount, note, tag, size")


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE orders ADD COLUMN x int",
        "ALTER TABLE orders RENAME COLUMN note TO remark",
        "ALTER TABLE orders DROP COLUMN note",
        "ALTER TABLE orders ALTER COLUMN amount TYPE numeric(20,4)",
        "ALTER TABLE orders ALTER COLUMN customer_id TYPE bigint USING customer_id * 2",
        "ALTER TABLE orders ADD COLUMN y text DEFAULT 'd'",
        "ALTER TABLE orders DROP COLUMN note, ADD COLUMN note text",
        "TRUNCATE orders",
        "VACUUM FULL orders",
    ],
)
def test_ddl_in_the_middle_of_the_log_leaves_the_same_rows(
    ddl: str, shop: psycopg.Connection, sync: Sync, landed: Ask
) -> None:
    sync(table("orders"), table("customers"))
    shop.execute("INSERT INTO orders (id, amount, note) VALUES (5000, 1, 'before')")
    shop.execute(ddl.encode())
    shop.execute("INSERT INTO orders (id, amount) VALUES (5001, 2)")
    shop.execute("UPDATE customers SET city = 'Zug' WHERE id = 9")
    receipts = sync(table("orders"), table("customers"))
    assert {r.status for r in receipts} == {"success"}
    columns = [c.name for c in shop.execute("SELECT * FROM orders LIMIT 0").description or ()]
    same(shop, landed, "orders", ", ".join(columns))
    same(shop, landed, "customers", "id, name, city")


def test_a_slot_that_was_dropped_is_noticed(shop: psycopg.Connection, sync: Sync) -> None:
    sync(table("orders"))
    shop.execute("SELECT pg_drop_replication_slot('dbt_bridge_test')")
    shop.execute("DELETE FROM orders WHERE id = 1")
    (receipt,) = sync(table("orders"))
    assert receipt.status == "failed"
    assert "is gone" in (receipt.error or "") and "--full-refresh --select source:shop.orders" in (receipt.error or "")
    (again,) = sync(table("orders"), full_refresh=True)
    assert (again.status, again.rows_loaded) == ("success", 999)


def test_a_slot_that_somebody_else_advanced_is_noticed(shop: psycopg.Connection, sync: Sync) -> None:
    sync(table("orders"))
    shop.execute("DELETE FROM orders WHERE id = 1")
    shop.execute("SELECT pg_replication_slot_advance('dbt_bridge_test', pg_current_wal_lsn())")
    (receipt,) = sync(table("orders"))
    assert receipt.status == "failed" and "has moved on" in (receipt.error or "")


def test_a_table_without_identity_is_refused_and_the_origin_can_still_update_it(
    shop: psycopg.Connection, sync: Sync, landed: Ask
) -> None:
    shop.execute("CREATE TABLE events (at timestamptz, what text)")
    shop.execute("INSERT INTO events VALUES (now(), 'one')")
    receipts = {r.node: r for r in sync(table("events"), table("orders"))}
    assert receipts[f"{NODE}events"].status == "failed"
    assert "REPLICA IDENTITY FULL" in (receipts[f"{NODE}events"].error or "")
    assert receipts[f"{NODE}orders"].status == "success"
    shop.execute("UPDATE events SET what = 'two'")
    receipts = {r.node: r for r in sync(table("events", write_disposition="append"), table("orders"))}
    assert receipts[f"{NODE}events"].status == "success"
    shop.execute("INSERT INTO events VALUES (now(), 'three')")
    shop.execute("UPDATE events SET what = 'four'")
    sync(table("events", write_disposition="append"), table("orders"))
    assert landed("SELECT what, _change FROM shop_landing.events ORDER BY _lsn NULLS FIRST")[-1] == ("three", "insert")


def test_a_value_that_does_not_fit_sets_its_table_aside_and_the_others_go_on(
    shop: psycopg.Connection, sync: Sync, landed: Ask
) -> None:
    shop.execute("CREATE TABLE odd (id int PRIMARY KEY, n numeric(10,2))")
    sync(table("odd"), table("orders"))
    shop.execute("INSERT INTO odd VALUES (1, 'NaN')")
    shop.execute("INSERT INTO orders (id) VALUES (4000)")
    receipts = {r.node: r for r in sync(table("odd"), table("orders"))}
    assert receipts[f"{NODE}odd"].status == "failed" and "'n'" in (receipts[f"{NODE}odd"].error or "")
    assert receipts[f"{NODE}orders"].status == "success"
    same(shop, landed, "orders", "id, customer_id, amount, note")
    aside = "SELECT set_aside <> '' FROM _dbt_bridge.checkpoints WHERE node LIKE '%odd'"
    assert landed(aside) == [(True,)]
    shop.execute("UPDATE odd SET n = 1")
    receipts = {r.node: r for r in sync(table("odd"), table("orders"))}
    assert receipts[f"{NODE}odd"].status == "success"
    assert landed("SELECT id, n::text FROM shop_landing.odd") == [(1, "1.00")]
    assert landed(aside) == [(False,)]


def test_a_checkpoint_of_another_server_is_refused(shop: psycopg.Connection, sync: Sync, warehouse_file: Path) -> None:
    import duckdb

    sync(table("orders"))
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute("UPDATE _dbt_bridge.checkpoints SET slot = '123/dbt_bridge_test'")
    (receipt,) = sync(table("orders"))
    assert receipt.status == "failed" and "another server" in (receipt.error or "")


def test_a_checkpoint_ahead_of_the_origin_is_refused(
    shop: psycopg.Connection, sync: Sync, warehouse_file: Path
) -> None:
    import duckdb

    sync(table("orders"))
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute("UPDATE _dbt_bridge.checkpoints SET value = 'FFFF/0'")
    (receipt,) = sync(table("orders"))
    assert receipt.status == "failed" and "restored from a backup" in (receipt.error or "")


def test_a_dropped_and_a_renamed_table_keep_their_rows_and_say_so(
    shop: psycopg.Connection, sync: Sync, landed: Ask
) -> None:
    shop.execute("CREATE TABLE gone (id int PRIMARY KEY)")
    shop.execute("INSERT INTO gone VALUES (1)")
    sync(table("gone"), table("customers"), table("orders"))
    shop.execute("DROP TABLE gone")
    shop.execute("ALTER TABLE customers RENAME TO clients")
    receipts = {r.node: r for r in sync(table("gone"), table("customers"), table("orders"))}
    assert "was dropped" in (receipts[f"{NODE}gone"].error or "")
    assert "renamed to public.clients" in (receipts[f"{NODE}customers"].error or "")
    assert receipts[f"{NODE}orders"].status == "success"
    assert landed("SELECT count(*) FROM shop_landing.gone") == [(1,)]
    assert landed("SELECT count(*) FROM shop_landing.customers") == [(100,)]


def test_generated_columns_are_as_the_origin_has_them(shop: psycopg.Connection, sync: Sync, landed: Ask) -> None:
    shop.execute("CREATE TABLE boxes (id int PRIMARY KEY, w int, twice int GENERATED ALWAYS AS (w * 2) STORED)")
    shop.execute("INSERT INTO boxes VALUES (1, 2)")
    sync(table("boxes"))
    shop.execute("UPDATE boxes SET w = 5")
    sync(table("boxes"))
    same(shop, landed, "boxes", "id, w, twice")


def test_the_slot_advances_so_that_the_origin_can_let_go_of_its_log(shop: psycopg.Connection, sync: Sync) -> None:
    sync(table("orders"))
    shop.execute("UPDATE orders SET note = repeat('x', 1000)")
    sync(table("orders"))
    row = shop.execute(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_test'"
    ).fetchone()
    end = shop.execute("SELECT pg_current_wal_lsn()").fetchone()
    assert row and end and parse_lsn(end[0]) - parse_lsn(row[0]) < 100_000


def test_a_table_that_somebody_took_out_of_the_publication_is_copied_anew(
    shop: psycopg.Connection, sync: Sync, landed: Ask
) -> None:
    both = (table("customers"), table("orders"))
    sync(*both)
    shop.execute("ALTER PUBLICATION dbt_bridge_test DROP TABLE orders")
    shop.execute("DELETE FROM orders WHERE id <= 100")
    shop.execute("UPDATE customers SET city = 'Thun' WHERE id = 4")
    receipts = {r.node: r for r in sync(*both)}
    assert receipts[f"{NODE}orders"].hop == "initial_copy"
    same(shop, landed, "orders", "id, customer_id, amount, note")
    same(shop, landed, "customers", "id, name, city")


@pytest.mark.parametrize(
    ("ddl", "said"),
    [
        ("CREATE UNLOGGED TABLE odd (id int PRIMARY KEY)", "unlogged"),
        ("CREATE TABLE odd (id int PRIMARY KEY); CREATE TABLE heir () INHERITS (odd)", "inherit"),
        ("CREATE TABLE odd (id int PRIMARY KEY DEFERRABLE)", "which row they mean"),
    ],
)
def test_a_table_that_cannot_be_followed_whole_leaves_the_others_alone(
    ddl: str, said: str, shop: psycopg.Connection, sync: Sync
) -> None:
    shop.execute(ddl.encode())
    receipts = {r.node: r for r in sync(table("odd"), table("orders"))}
    assert receipts[f"{NODE}odd"].status == "failed" and said in (receipts[f"{NODE}odd"].error or "")
    assert receipts[f"{NODE}orders"].status == "success"


def test_the_log_that_a_slot_retains_has_a_bound(shop: psycopg.Connection, sync: Sync, database: str) -> None:
    sync(table("orders"), max_wal=1 << 30)
    with psycopg.connect(database) as other:  # a transaction that stays open holds the log
        other.execute("INSERT INTO orders (id) VALUES (7000)")
        shop.execute("INSERT INTO orders SELECT g, 1, 1, repeat('x', 1000) FROM generate_series(8000, 12000) g")
        receipts = sync(table("orders"), max_wal=100_000)
    assert [r.status for r in receipts] == ["success", "failed"]
    assert "max_wal" in (receipts[-1].error or "")
    assert {r.status for r in sync(table("orders"), max_wal=1 << 30)} == {"success"}


def test_versions_begin_before_they_end_whatever_our_clock_says(
    shop: psycopg.Connection, sync: Sync, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy's versions begin by the origin's clock, by which the commits that end them are timed."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)
    sync(table("customers", history=True))
    shop.execute("UPDATE customers SET name = 'again' WHERE id = 1")
    sync(table("customers", history=True))
    ended = "SELECT valid_from < valid_to FROM shop_landing.customers_history WHERE valid_to IS NOT NULL"
    assert landed(ended) == [(True,)]


@pytest.mark.parametrize("full_refresh", [False, True])
def test_a_mask_that_comes_later_does_not_leave_old_values_in_a_history(
    full_refresh: bool, shop: psycopg.Connection, sync: Sync, landed: Ask, warehouse_file: Path
) -> None:
    import duckdb

    sync(table("customers", history=True))
    masked = table("customers", history=True, mask={"name": "sha256"})
    (receipt,) = sync(masked, full_refresh=full_refresh)
    assert receipt.status == "failed"
    assert 'DROP TABLE "shop_landing"."customers_history"' in (receipt.error or "")
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute("DROP TABLE shop_landing.customers_history")
    (receipt,) = sync(masked)
    assert (receipt.status, receipt.hop) == ("success", "initial_copy")
    assert landed("SELECT count(*) FROM shop_landing.customers_history WHERE length(name) = 64") == [(100,)]
