"""A change that the server cannot send, as its row is larger than a message: its table alone is set aside."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from tests.projects import SyncTables, cdc_source

Ask = Callable[[str], list[tuple[object, ...]]]
CONFIRMED = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_test'"


# Twice as large as a text, in which it is sent, as the array beside it has no binary form here.
HUGE = f"convert_to(repeat('x', {550 << 20}), 'UTF8')"


@pytest.fixture
def wide(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE wide (id int PRIMARY KEY, v bytea, beside int[])")
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'a')")
    origin.execute("CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1)")
    return origin


def test_it_is_passed_over_with_its_table_set_aside(
    wide: psycopg.Connection, sync_sources: SyncTables, landed: Ask
) -> None:
    source = cdc_source("wide", "orders", "others")
    sync_sources(source)
    before = wide.execute(CONFIRMED).fetchall()
    wide.execute("UPDATE orders SET note = 'before'; INSERT INTO others VALUES (2)")
    with wide.transaction():
        wide.execute("INSERT INTO others VALUES (3)")
        wide.execute(f"INSERT INTO wide SELECT 1, {HUGE}".encode())
        wide.execute("INSERT INTO orders VALUES (2, 'in it'); TRUNCATE wide")
    wide.execute("UPDATE others SET id = 30 WHERE id = 3")

    receipts = sync_sources(source)
    assert {name for name, receipt in receipts.items() if receipt.status == "failed"} == {"wide"}
    assert "cannot send a change" in (receipts["wide"].error or "")
    assert landed("SELECT * FROM landing.orders ORDER BY 1") == [(1, "before"), (2, "in it")]
    assert landed("SELECT * FROM landing.others ORDER BY 1") == [(1,), (2,), (30,)]
    assert wide.execute(CONFIRMED).fetchall() > before, "the slot lets go of it"

    wide.execute("INSERT INTO orders VALUES (3, 'after'); INSERT INTO wide VALUES (7, 'small')")
    assert {receipt.status for receipt in sync_sources(source).values()} == {"success"}, "its table is copied anew"
    assert landed("SELECT id, v FROM landing.wide") == [(7, b"small")]

    with wide.transaction():  # of one of these two it is, as both had changes before
        wide.execute("INSERT INTO others VALUES (4); INSERT INTO wide VALUES (8, 'small')")
        wide.execute(f"INSERT INTO wide SELECT 9, {HUGE}".encode())
        wide.execute("DELETE FROM wide WHERE id = 9; INSERT INTO orders VALUES (4, 'behind it')")
    assert {(r.hop, r.status) for r in sync_sources(source).values()} == {("initial_copy", "success")}
    assert landed("SELECT id FROM landing.wide ORDER BY 1") == [(7,), (8,)]
    assert landed("SELECT count(*) FROM landing.orders") == landed("SELECT count(*) FROM landing.others") == [(4,)]
