"""`dbt-bridge repair`: what was spoilt behind the bridge's back is found, copied again by its keys, and proven."""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.chance import SEED
from tests.projects import NODE, table
from tests.prove.spoilt import Shop

from dbt_bridge.connectors.duckdb.following.apply import DuckDBApplication
from dbt_bridge.connectors.postgres.changes.lsn import parse_lsn
from dbt_bridge.contracts.destination import BeginAgain, Loaded, Replica
from dbt_bridge.nouns.changes import Event
from dbt_bridge.nouns.project import Project

Ask = Callable[[str], list[tuple[object, ...]]]


@contextmanager
def writing(url: str) -> Iterator[None]:
    """A writer at full speed, beside what runs in the context."""
    stop, failures = threading.Event(), []

    def write() -> None:
        chance = random.Random(SEED)
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                while not stop.is_set():
                    one = chance.randrange(1, 2600)
                    connection.execute("UPDATE customers SET credit = credit + 1 WHERE id = %s", [one])
                    connection.execute("DELETE FROM customers WHERE id = %s", [chance.randrange(2000)])
                    connection.execute("INSERT INTO customers VALUES (%s, 'new') ON CONFLICT DO NOTHING", [one])
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        assert failures == []


@pytest.fixture
def filled(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE customers (id bigint PRIMARY KEY, name text, mail text, credit numeric(12,2))")
    origin.execute(
        "INSERT INTO customers SELECT g, 'c' || g, 'c' || g || '@x.ch', g * 1.25 FROM generate_series(1, 2000) g"
    )
    return origin


SPOILT = (
    "UPDATE shop_landing.customers SET credit = credit + 0.01 WHERE id = 7",
    "UPDATE shop_landing.customers SET name = NULL, mail = 'z' WHERE id = 8",
    "DELETE FROM shop_landing.customers WHERE id IN (9, 10)",
    "INSERT INTO shop_landing.customers (id, name) VALUES (-5, 'ghost')",
    "INSERT INTO shop_landing.customers SELECT * FROM shop_landing.customers WHERE id = 11",
)


def test_everything_that_was_spoilt_is_set_right_at_one_lsn(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers"))
    shop.spoil(*SPOILT)
    before = landed("SELECT * FROM shop_landing.customers WHERE id NOT IN (7, 8, 9, 10, 11, -5) ORDER BY id")
    (receipt,) = shop.repair()
    assert (receipt.hop, receipt.status, receipt.node) == ("repair", "success", f"{NODE}customers")
    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_loaded) == (2, 3, 6)
    assert receipt.rows_deleted == 2, "the ghost, and the second row of key 11"
    assert receipt.checkpoint_from == receipt.checkpoint_to
    assert parse_lsn(receipt.checkpoint_to or "") > 0
    assert landed("SELECT * FROM shop_landing.customers WHERE id NOT IN (7, 8, 9, 10, 11, -5) ORDER BY id") == before
    kept = landed("SELECT rows_inserted, rows_deleted FROM _dbt_bridge.receipts WHERE hop = 'repair'")
    assert kept == [(2, 2)]
    filled.execute("UPDATE customers SET name = 'later' WHERE id < 20")
    shop.sync()
    assert landed("SELECT count(*) FROM shop_landing.customers WHERE name = 'later'") == [(19,)]
    assert shop.repair() == [], "nothing is left to be repaired"


def test_a_destination_that_made_room_is_repaired_all_the_same(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(project, warehouse_file, table("customers"))
    shop.spoil(*SPOILT)
    apply, tries = DuckDBApplication.apply, []

    def first_out_of_room(self: DuckDBApplication, replica: Replica, event: Event) -> Loaded:
        done = apply(self, replica, event)
        tries.append(replica.node)
        if len(tries) == 1:
            raise BeginAgain("out of memory")
        return done

    monkeypatch.setattr(DuckDBApplication, "apply", first_out_of_room)
    (receipt,) = shop.repair()
    assert (receipt.status, receipt.rows_inserted, receipt.rows_deleted) == ("success", 2, 2), receipt.error
    assert len(tries) > 1
    assert shop.repair() == []


def test_what_differs_is_repaired_under_a_writer(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, database: str, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers"))
    with writing(database):
        for _ in range(3):
            shop.spoil(
                "UPDATE shop_landing.customers SET name = 'spoilt' WHERE id % 100 = 0",
                "DELETE FROM shop_landing.customers WHERE id % 100 = 1",
                "INSERT INTO shop_landing.customers (id, name) VALUES (9000, 'ghost')",
            )
            (receipt,) = shop.repair()
            assert receipt.status == "success"
    shop.sync()
    assert landed("SELECT count(*) FROM shop_landing.customers WHERE name IN ('spoilt', 'ghost')") == [(0,)]
    ((rows, total),) = filled.execute("SELECT count(*), sum(credit) FROM customers").fetchall()
    assert landed("SELECT count(*), sum(credit) FROM shop_landing.customers") == [(rows, total)]


def test_more_than_its_share_is_not_touched(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers"))
    shop.spoil("DELETE FROM shop_landing.customers WHERE id <= 101")
    (refused,) = shop.repair(equal=False)
    assert refused.status == "failed" and refused.error is not None
    assert "101 of 2,000 rows of duckdb: shop_landing.customers differ (5.05%)" in refused.error
    assert "nothing was touched" in refused.error
    assert "repair --select source:shop.customers --max-share 5.1%" in refused.error
    assert landed("SELECT count(*) FROM shop_landing.customers") == [(1899,)]
    assert landed("SELECT status, rows_loaded FROM _dbt_bridge.receipts WHERE hop = 'repair'") == [("failed", 0)]
    (refused,) = shop.repair(equal=False, max_share=0.05)
    assert refused.status == "failed"
    (receipt,) = shop.repair(max_share=0.051)
    assert receipt.rows_inserted == 101


def test_a_dry_run_tells_and_touches_nothing(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers"))
    shop.spoil(*SPOILT)
    before = landed("SELECT * FROM shop_landing.customers ORDER BY ALL")
    (told,) = shop.repair(dry_run=True)
    assert (told.status, told.error) == ("success", "dry run: nothing was written")
    assert landed("SELECT * FROM shop_landing.customers ORDER BY ALL") == before
    assert landed("SELECT count(*) FROM _dbt_bridge.receipts WHERE hop = 'repair'") == [(0,)]
    (done,) = shop.repair()
    for receipt in (told, done):
        assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (2, 3, 2)


def test_soft_deleted_rows_come_back_and_what_is_too_much_is_marked(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers", deletes="soft"))
    filled.execute("DELETE FROM customers WHERE id = 1")
    shop.sync()
    shop.spoil(
        "UPDATE shop_landing.customers SET _deleted_at = now() WHERE id = 2",
        "UPDATE shop_landing.customers SET _deleted_at = NULL WHERE id = 1",
        "UPDATE shop_landing.customers SET name = 'x' WHERE id = 3",
    )
    shop.repair()
    assert landed("SELECT id, name, _deleted_at IS NULL FROM shop_landing.customers WHERE id <= 3 ORDER BY id") == [
        (1, "c1", False),
        (2, "c2", True),
        (3, "c3", True),
    ]


def test_a_history_ends_the_wrong_version_and_begins_the_right_one(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers", history=True))
    for name in ("customers", "customers_history"):
        shop.spoil(f"UPDATE shop_landing.{name} SET name = 'wrong' WHERE id = 3")
    shop.repair()
    filled.execute("UPDATE customers SET name = 'later' WHERE id = 3")
    shop.sync()
    versions = "FROM shop_landing.customers_history WHERE id = 3 ORDER BY valid_from"
    assert landed(f"SELECT name, valid_to IS NULL {versions}") == [("wrong", False), ("c3", False), ("later", True)]
    assert landed(f"SELECT valid_to = lead(valid_from) OVER (ORDER BY valid_from) {versions}")[:2] == [(True,), (True,)]
    assert landed(f"SELECT _lsn = lead(_lsn) OVER (ORDER BY valid_from) {versions}")[1] == (False,)
    assert landed("SELECT count(*) FROM shop_landing.customers_history") == [(2002,)]


def test_a_log_of_changes_gets_the_entries_that_set_it_right(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers", write_disposition="append"))
    filled.execute("UPDATE customers SET name = 'changed' WHERE id < 5")
    shop.sync()
    shop.spoil(
        "DELETE FROM shop_landing.customers WHERE _change = 'update' AND id = 4",
        "DELETE FROM shop_landing.customers WHERE id = 10",
        "INSERT INTO shop_landing.customers (id, name, _change, _seq) VALUES (5000, 'ghost', 'insert', 2000)",
    )
    (receipt,) = shop.repair()
    assert (receipt.write_disposition, receipt.rows_inserted, receipt.rows_updated) == ("append", 3, 0)
    entries = (
        "SELECT id, name, _change FROM shop_landing.customers WHERE id IN (4, 10, 5000) ORDER BY id, _lsn NULLS FIRST"
    )
    assert landed(entries) == [
        (4, "c4", "insert"),
        (4, "changed", "update"),
        (10, "c10", "insert"),
        (5000, "ghost", "insert"),
        (5000, None, "delete"),
    ]
    filled.execute("UPDATE customers SET name = 'again' WHERE id = 4")
    shop.sync()
    assert shop.repair() == []


def test_rows_without_a_key_are_added_and_taken_away_one_by_one(
    project: Project, warehouse_file: Path, origin: psycopg.Connection, landed: Ask
) -> None:
    origin.execute("CREATE TABLE visits (who text, day date)")
    origin.execute("ALTER TABLE visits REPLICA IDENTITY FULL")
    origin.execute("INSERT INTO visits SELECT 'w' || g % 10, CASE WHEN g % 3 = 0 THEN '2026-01-01'::date END"
                   " FROM generate_series(1, 300) g")  # fmt: skip
    shop = Shop(project, warehouse_file, table("visits"))
    wanted = landed("SELECT who, day, count(*) FROM shop_landing.visits GROUP BY ALL ORDER BY ALL")
    shop.spoil(
        "DELETE FROM shop_landing.visits WHERE rowid IN (SELECT max(rowid) FROM shop_landing.visits WHERE day IS NULL)",
        "INSERT INTO shop_landing.visits SELECT who, day FROM shop_landing.visits WHERE who = 'w3' LIMIT 2",
        "UPDATE shop_landing.visits SET who = 'wrong' WHERE rowid IN (SELECT min(rowid) FROM shop_landing.visits)",
    )
    (receipt,) = shop.repair()
    assert (receipt.rows_inserted, receipt.rows_deleted) == (2, 3)
    assert landed("SELECT who, day, count(*) FROM shop_landing.visits GROUP BY ALL ORDER BY ALL") == wanted
    origin.execute("UPDATE visits SET who = 'moved' WHERE who = 'w3'")
    shop.sync()
    assert shop.repair() == []


@pytest.mark.parametrize("mask", [{"mail": "sha256", "credit": "sha256"}, {"name": "sha256"}])
def test_masked_columns_stay_masked(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask, mask: dict[str, str]
) -> None:
    filled.execute("ALTER TABLE customers DROP CONSTRAINT customers_pkey")
    filled.execute("ALTER TABLE customers ADD PRIMARY KEY (name)")
    shop = Shop(project, warehouse_file, table("customers", mask=mask))
    before = landed("SELECT * FROM shop_landing.customers ORDER BY id")
    shop.spoil(
        "UPDATE shop_landing.customers SET mail = 'open@x.ch' WHERE id = 5",
        "DELETE FROM shop_landing.customers WHERE id = 6",
    )
    shop.repair()
    assert landed("SELECT * FROM shop_landing.customers ORDER BY id") == before


@pytest.mark.parametrize("how", [{"replication": "initial_copy"}, {"replication": "incremental", "cursor": "id"}])
def test_tables_that_follow_no_log_are_repaired_as_they_are_now(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask, how: dict[str, str]
) -> None:
    shop = Shop(project, warehouse_file, table("customers", **how))
    filled.execute("INSERT INTO customers VALUES (3000, 'in flight')")
    shop.spoil(*SPOILT)
    (receipt,) = shop.repair()
    assert receipt.checkpoint_to is None
    in_flight = 1 if how["replication"] == "incremental" else 0
    assert (receipt.rows_inserted, receipt.rows_updated) == (3 - in_flight, 3)
    shop.sync()
    assert landed("SELECT count(*), count(DISTINCT id) FROM shop_landing.customers") == [(2001, 2001)]


def test_hostile_names_and_a_key_of_several_columns(
    project: Project, warehouse_file: Path, origin: psycopg.Connection, landed: Ask
) -> None:
    name = '"or""der; --"'
    origin.execute(
        f'CREATE TABLE {name} ("kind" text, "Select" numeric(20, 4), "día" timestamptz, "a""b" text,'
        ' PRIMARY KEY ("Select", "kind", "día"))'.encode()
    )
    origin.execute(
        f"INSERT INTO {name} SELECT 'k''' || g % 3, g * 1.5, '2026-01-01'::timestamptz + g * interval '1 s', 'x'"
        " FROM generate_series(1, 60) g".encode()
    )
    shop = Shop(project, warehouse_file, table('or"der; --'))
    before = landed(f"SELECT * FROM shop_landing.{name} ORDER BY ALL")
    shop.spoil(
        f"""UPDATE shop_landing.{name} SET "a""b" = NULL WHERE "kind" = 'k''1'""",
        f"""DELETE FROM shop_landing.{name} WHERE "kind" = 'k''2'""",
    )
    (receipt,) = shop.repair()
    assert (receipt.rows_inserted, receipt.rows_updated) == (20, 20)
    assert landed(f"SELECT * FROM shop_landing.{name} ORDER BY ALL") == before


def test_an_origin_that_is_no_postgres(
    project: Project, warehouse_file: Path, tmp_path: Path, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as origin:
        origin.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, credit NUMERIC(12,2))")
        origin.executemany("INSERT INTO customers VALUES (?, ?, ?)", [(i, f"c{i}", i / 4) for i in range(1, 101)])
        origin.commit()
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", f"sqlite:///{tmp_path / 'shop.db'}")
    shop = Shop(project, warehouse_file, table("customers", "initial_copy"), origin_schema=None)
    before = landed("SELECT * FROM shop_landing.customers ORDER BY ALL")
    shop.spoil(
        "UPDATE shop_landing.customers SET credit = credit + 1 WHERE id = 7",
        "DELETE FROM shop_landing.customers WHERE id = 8",
        "INSERT INTO shop_landing.customers (id, name) VALUES (-5, 'ghost')",
    )
    (receipt,) = shop.repair()
    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (1, 1, 1)
    assert landed("SELECT * FROM shop_landing.customers ORDER BY ALL") == before


def test_a_key_that_the_origin_has_twice_has_no_right_row(
    project: Project, warehouse_file: Path, origin: psycopg.Connection, landed: Ask
) -> None:
    origin.execute("CREATE TABLE visits (who text, day date)")
    origin.execute("INSERT INTO visits VALUES ('a', '2026-01-01'), ('a', '2026-01-02'), ('b', '2026-01-01')")
    shop = Shop(project, warehouse_file, table("visits", "initial_copy", primary_key=("who",)))
    before = landed("SELECT * FROM shop_landing.visits ORDER BY ALL")
    shop.spoil("UPDATE shop_landing.visits SET day = NULL WHERE who = 'b'")
    (refused,) = shop.repair(equal=False)
    assert (
        refused.error is not None
        and "1 keys (who) of shop_landing.visits have several rows at the origin" in refused.error
    )
    assert landed("SELECT day FROM shop_landing.visits WHERE who = 'b'") == [(None,)], "all of a table or nothing"
    assert len(landed("SELECT * FROM shop_landing.visits")) == len(before)
