"""Incremental landing, told as a shop's days: rows are appended, changed, late, and the process is killed.

Each story runs on real databases: Postgres to DuckDB, Postgres to Postgres, and SQLite to DuckDB.
"""
# ruff: noqa: S608

from __future__ import annotations

import pickle
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import duckdb
import psycopg
import pytest
from tests.projects import landing_source, table

from dbt_bridge.errors import KeyRefused, UsageError
from dbt_bridge.nouns.project import (
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

ORDERS = table("orders", "incremental", cursor="at")
DAY = 86400
Rows = list[tuple[Any, ...]]


class Database(Protocol):
    """A database of one end, asked in SQL."""

    def __call__(self, sql: str) -> Rows: ...


@dataclass(frozen=True, slots=True)
class InPostgres:
    url: str

    def __call__(self, sql: str) -> Rows:
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(sql.encode())
            return found.fetchall() if found.description else []


@dataclass(frozen=True, slots=True)
class InSqlite:
    file: Path

    def __call__(self, sql: str) -> Rows:
        with closing(sqlite3.connect(self.file)) as connection, connection:
            return connection.execute(sql).fetchall()


@dataclass(frozen=True, slots=True)
class InDuckDb:
    file: Path

    def __call__(self, sql: str) -> Rows:
        with duckdb.connect(str(self.file)) as connection:
            return connection.execute(sql).fetchall()


@dataclass(frozen=True, slots=True)
class Shop:
    """One origin with a table `orders`, and the warehouse where it lands."""

    origin: Database
    warehouse: Database
    project: Project

    def with_table(self, table: LandingTable = ORDERS) -> Project:
        [source] = self.project.sources
        return replace(self.project, sources=(replace(source, tables=(table,)),))

    def sync(self, table: LandingTable = ORDERS, *, full_refresh: bool = False) -> Receipt:
        [receipt] = sync(self.with_table(table), SyncOptions(full_refresh=full_refresh), Silent())
        return receipt

    def landed(self, columns: str = "id, status") -> Rows:
        return self.warehouse(f"SELECT {columns} FROM landing.orders ORDER BY id")

    def insert(self, *rows: tuple[int, str, str]) -> None:
        values = ", ".join(f"({number}, '{status}', '{at}')" for number, status, at in rows)
        self.origin(f"INSERT INTO orders (id, status, at) VALUES {values}")


@pytest.fixture(params=["postgres to duckdb", "postgres to postgres", "sqlite to duckdb"])
def shop(
    request: pytest.FixtureRequest, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    from_kind, _, to_kind = request.param.split()
    origin: Database
    warehouse: Database
    if from_kind == "postgres":
        origin, schema = InPostgres(database), "public"
        monkeypatch.setenv("SOURCES__SHOP__CREDENTIALS", database)
    else:
        origin, schema = InSqlite(tmp_path / "shop.db"), "main"
        monkeypatch.setenv("SOURCES__SHOP__CREDENTIALS", "sqlite:///shop.db")
    credentials: dict[str, Any]
    if to_kind == "duckdb":
        file = tmp_path / "warehouse.duckdb"
        warehouse = InDuckDb(file)
        credentials = {"type": "duckdb", "path": str(file), "schema": "main"}
    else:
        warehouse = InPostgres(database)
        info = psycopg.conninfo.conninfo_to_dict(database)
        credentials = {
            "type": "postgres", "host": info["host"], "port": int(info["port"]), "user": info["user"],
            "dbname": info["dbname"], "password": "", "schema": "analytics",
        }  # fmt: skip
    profile = WarehouseProfile(to_kind, str(credentials.get("dbname", "warehouse")), "main", 2, credentials)
    source = landing_source(replication="incremental", origin="shop", origin_schema=schema, schema="landing")
    origin("CREATE TABLE orders (id INTEGER PRIMARY KEY, status VARCHAR(20), at TIMESTAMP)")
    yield Shop(origin, warehouse, Project(tmp_path, "shop", profile, (source,), ()))


def test_the_first_load_brings_everything_and_the_next_only_what_is_new(shop: Shop) -> None:
    shop.insert((1, "paid", "2026-01-01 10:00:00"), (2, "open", "2026-01-02 10:00:00"))
    first = shop.sync()
    assert (first.status, first.error, first.rows_loaded, first.rows_inserted) == ("success", None, 2, 2)
    assert (first.checkpoint_from, first.checkpoint_to) == (None, "2026-01-02 10:00:00")

    shop.insert((3, "open", "2026-01-03 10:00:00"))
    second = shop.sync()

    # the row that shares the checkpoint's value is read again, and changes nothing
    assert (second.write_disposition, second.rows_loaded, second.rows_inserted) == ("merge", 2, 1)
    assert (second.checkpoint_from, second.checkpoint_to) == (first.checkpoint_to, "2026-01-03 10:00:00")
    assert shop.landed() == [(1, "paid"), (2, "open"), (3, "open")]


def test_changed_rows_are_merged_by_their_key(shop: Shop) -> None:
    shop.insert((1, "open", "2026-01-01 10:00:00"), (2, "open", "2026-01-02 10:00:00"))
    shop.sync()
    shop.origin("UPDATE orders SET status = 'paid', at = '2026-01-05 10:00:00' WHERE id = 1")
    receipt = shop.sync()
    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (0, 2, 0)
    assert shop.landed() == [(1, "paid"), (2, "open")]


def test_late_rows_are_found_within_the_lag_and_only_there(shop: Shop) -> None:
    shop.insert((1, "a", "2026-01-01 10:00:00"), (5, "e", "2026-01-10 10:00:00"))
    lagging = replace(ORDERS, lag=2 * DAY)
    shop.sync(lagging)
    shop.insert((2, "too late", "2026-01-08 09:59:59"), (3, "late", "2026-01-08 10:00:00"))
    receipt = shop.sync(lagging)
    assert (receipt.checkpoint_from, receipt.checkpoint_to) == ("2026-01-10 10:00:00",) * 2
    assert shop.landed() == [(1, "a"), (3, "late"), (5, "e")]


@pytest.mark.parametrize("lag", [0, DAY])
def test_appended_rows_are_neither_lost_nor_doubled(shop: Shop, lag: float) -> None:
    appending = replace(ORDERS, write_disposition="append", lag=lag)
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00"))
    shop.sync(appending)
    shop.insert((3, "same instant", "2026-01-02 10:00:00"), (4, "d", "2026-01-03 10:00:00"))
    receipt = shop.sync(appending)
    assert receipt.write_disposition == "append"
    assert [number for number, _ in shop.landed()] == [1, 2, 3, 4]
    shop.sync(appending)
    assert [number for number, _ in shop.landed()] == [1, 2, 3, 4]


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_no_change_is_no_change(shop: Shop, disposition: Any) -> None:
    table = replace(ORDERS, write_disposition=disposition)
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00.123456"))
    shop.sync(table)
    before = shop.landed("*")
    for _ in range(2):
        receipt = shop.sync(table)
        assert (receipt.status, receipt.checkpoint_to) == ("success", "2026-01-02 10:00:00.123456")
    assert shop.landed("*") == before


def test_an_empty_table_lands_and_is_followed_from_its_first_row_on(shop: Shop) -> None:
    assert (shop.sync().rows_loaded, shop.landed()) == (0, [])
    assert shop.sync().checkpoint_to is None
    shop.insert((1, "a", "2026-01-01 10:00:00"))
    assert shop.sync().checkpoint_to == "2026-01-01 10:00:00"
    assert shop.landed() == [(1, "a")]


def test_a_number_is_a_cursor_too(shop: Shop) -> None:
    numbered = replace(ORDERS, cursor="id", write_disposition="append", lag=1)
    shop.insert((1, "a", "2026-01-01"), (2, "b", "2026-01-01"), (4, "d", "2026-01-01"))
    shop.sync(numbered)
    shop.insert((3, "late", "2026-01-01"), (5, "e", "2026-01-01"))
    receipt = shop.sync(numbered)
    assert (receipt.checkpoint_from, receipt.checkpoint_to) == ("4", "5")
    assert [number for number, _ in shop.landed()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_a_slip_into_the_future_hides_no_row_that_is_written_now(shop: Shop, disposition: Any) -> None:
    table = replace(ORDERS, write_disposition=disposition)
    today = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    shop.insert((1, "open", today), (2, "slip of the year", "2999-01-01 10:00:00"))
    first = shop.sync(table)
    assert str(first.checkpoint_to) < today
    shop.insert((3, "written now", today))
    shop.origin(f"UPDATE orders SET status = 'paid', at = '{today}' WHERE id = 1")
    shop.sync(table)
    assert shop.landed() == [(1, "paid"), (2, "slip of the year"), (3, "written now")]


def test_a_checkpoint_in_the_future_of_an_earlier_version_is_read_whole_once(shop: Shop) -> None:
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "slip of the year", "2999-01-01 10:00:00"))
    shop.sync()
    shop.warehouse("UPDATE _dbt_bridge.checkpoints SET value = '2999-01-01 10:00:00'")
    shop.insert((3, "was passed over", "2026-01-02 10:00:00"))
    assert shop.sync().write_disposition == "replace"
    assert [number for number, _ in shop.landed()] == [1, 2, 3]


def test_what_is_refused_at_the_end_takes_no_other_table_with_it(shop: Shop) -> None:
    shop.origin("CREATE TABLE fine (id INTEGER PRIMARY KEY, status VARCHAR(20), at TIMESTAMP)")
    both = replace(shop.project.sources[0], tables=(ORDERS, table("fine", "incremental", cursor="at")))
    project = replace(shop.project, sources=(both,))
    shop.insert((1, "a", "2026-01-01 10:00:00"))
    shop.origin("INSERT INTO fine VALUES (1, 'a', '2026-01-01 10:00:00')")
    sync(project, SyncOptions(), Silent())
    shop.warehouse("INSERT INTO landing.orders SELECT * FROM landing.orders")  # a merge leaves no one row per key now
    for name in ("orders", "fine"):
        shop.origin(f"UPDATE {name} SET status = 'b', at = '2026-01-02 10:00:00'")

    orders, fine = sync(project, SyncOptions(), Silent())

    assert orders.status == "failed" and "several rows with the same key" in str(orders.error)
    assert (fine.status, fine.rows_updated, fine.checkpoint_to) == ("success", 1, "2026-01-02 10:00:00")
    assert shop.landed() == [(1, "a"), (1, "a")]
    assert shop.warehouse("SELECT id, status FROM landing.fine") == [(1, "b")]
    told = "SELECT status FROM _dbt_bridge.receipts WHERE node LIKE '%orders' ORDER BY started_at"
    assert shop.warehouse(told) == [("success",), ("failed",)]


ERAS = ["0044-03-15 12:00:00 BC", "12000-01-01 00:00:00"]


@pytest.mark.parametrize("shop", ["postgres to duckdb"], indirect=True)
@pytest.mark.parametrize("type_", ["timestamp", "timestamptz", "date"])
def test_a_cursor_may_be_of_any_year_that_the_origin_knows(shop: Shop, type_: str) -> None:
    shop.origin(f"ALTER TABLE orders ALTER COLUMN at TYPE {type_}")
    appending = replace(ORDERS, write_disposition="append")
    for number, at in enumerate(ERAS):
        shop.insert((2 * number, "first", at))
        shop.sync(appending)
        shop.insert((2 * number + 1, "of the same moment", at))
        assert shop.sync(appending).status == "success"
        assert shop.landed() == shop.origin("SELECT id, status FROM orders ORDER BY id"), at
        count = 'SELECT count(*), count(DISTINCT "at") FROM'
        assert shop.warehouse(f"{count} landing.orders") == shop.origin(f"{count} orders")


def test_a_cursor_with_nulls_is_refused_and_nothing_is_touched(shop: Shop) -> None:
    shop.insert((1, "a", "2026-01-01 10:00:00"))
    shop.sync()
    shop.origin("INSERT INTO orders VALUES (2, 'b', NULL)")
    with_nulls = _failure(shop, ORDERS)
    assert "NULL" in with_nulls
    assert shop.landed() == [(1, "a")]


@pytest.mark.parametrize(("cursor", "said"), [("status", "status"), ("updated", "updated")])
def test_a_cursor_of_a_wrong_type_or_without_a_column_is_refused(shop: Shop, cursor: str, said: str) -> None:
    shop.insert((1, "a", "2026-01-01 10:00:00"))
    assert said in _failure(shop, replace(ORDERS, cursor=cursor))
    assert shop.warehouse("SELECT count(*) FROM information_schema.tables WHERE table_name = 'orders'")[0][0] == (
        1 if isinstance(shop.origin, InPostgres) and isinstance(shop.warehouse, InPostgres) else 0
    )


def test_of_several_rows_with_one_key_the_newest_version_lands(shop: Shop) -> None:
    by_status = replace(ORDERS, primary_key=("status",), write_disposition="merge")
    shop.insert((1, "a", "2026-01-03 10:00:00"), (2, "a", "2026-01-01 10:00:00"), (3, "b", "2026-01-02 10:00:00"))
    assert shop.sync(by_status).error is None
    assert shop.landed() == [(1, "a"), (3, "b")]
    shop.insert((5, "b", "2026-01-06 10:00:00"), (4, "b", "2026-01-05 10:00:00"))
    assert shop.sync(by_status).error is None
    assert shop.landed() == [(1, "a"), (5, "b")]
    assert shop.sync(by_status, full_refresh=True).error is None
    assert shop.landed() == [(1, "a"), (5, "b")]


def test_a_merge_without_a_key_is_refused(shop: Shop) -> None:
    shop.origin("CREATE TABLE keyless (id INTEGER, at TIMESTAMP)")
    keyless = replace(ORDERS, identifier="keyless", write_disposition="merge")
    assert "primary_key" in _failure(shop, keyless)


def _failure(shop: Shop, table: LandingTable) -> str:
    """What is said of a landing that must not succeed: by an exception, or in a failed receipt."""
    try:
        receipt = shop.sync(table)
    except (UsageError, KeyRefused) as error:
        return str(error)
    assert (receipt.status, receipt.rows_loaded) == ("failed", 0)
    assert receipt.error is not None
    return receipt.error


def test_a_full_refresh_forgets_what_the_origin_has_forgotten(shop: Shop) -> None:
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00"))
    shop.sync()
    shop.origin("DELETE FROM orders WHERE id = 1")
    shop.sync()
    assert shop.landed() == [(1, "a"), (2, "b")]
    receipt = shop.sync(full_refresh=True)
    assert (receipt.write_disposition, receipt.checkpoint_from) == ("replace", None)
    assert shop.landed() == [(2, "b")]
    shop.insert((3, "c", "2026-01-03 10:00:00"))
    assert shop.sync().rows_inserted == 1


def test_a_full_refresh_from_an_empty_table_starts_over(shop: Shop) -> None:
    numbered = replace(ORDERS, cursor="id")
    shop.insert((1000, "old", "2026-01-01 10:00:00"))
    shop.sync(numbered)
    shop.origin("DELETE FROM orders")
    assert shop.sync(numbered, full_refresh=True).checkpoint_to is None
    shop.insert((1, "new", "2026-01-01 10:00:00"))
    shop.sync(numbered)
    assert shop.landed() == [(1, "new")]


def test_a_landing_table_that_was_dropped_is_loaded_whole_again(shop: Shop) -> None:
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00"))
    shop.sync()
    shop.warehouse("DROP TABLE landing.orders")
    assert shop.sync().rows_loaded == 2
    assert shop.landed() == [(1, "a"), (2, "b")]


def test_another_cursor_starts_over(shop: Shop) -> None:
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00"))
    shop.sync()
    receipt = shop.sync(replace(ORDERS, cursor="id"))
    assert (receipt.rows_loaded, receipt.checkpoint_from, receipt.checkpoint_to) == (2, None, "2")


@pytest.mark.parametrize("disposition", ["append", "merge"])
def test_a_new_column_joins_and_older_rows_have_none_of_it(shop: Shop, disposition: Any) -> None:
    table = replace(ORDERS, write_disposition=disposition)
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00"))
    shop.sync(table)
    shop.origin("ALTER TABLE orders ADD COLUMN note VARCHAR(20)")
    shop.origin("INSERT INTO orders VALUES (3, 'c', '2026-01-03 10:00:00', 'é')")
    assert shop.sync(table).error is None
    assert shop.landed("id, note") == [(1, None), (2, None), (3, "é")]


def test_a_column_that_is_gone_stays_where_rows_had_it(shop: Shop) -> None:
    appending = replace(ORDERS, write_disposition="append")
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00"))
    shop.sync(appending)
    shop.origin("ALTER TABLE orders DROP COLUMN status")
    shop.origin("INSERT INTO orders (id, at) VALUES (3, '2026-01-03 10:00:00')")
    assert shop.sync(appending).error is None
    assert shop.landed() == [(1, "a"), (2, None), (3, None)]  # 2 shares the checkpoint's value: read again


def test_a_wider_type_widens_the_landing_and_another_one_is_refused(shop: Shop) -> None:
    if isinstance(shop.origin, InSqlite):
        pytest.skip("SQLite cannot alter the type of a column")
    shop.origin("ALTER TABLE orders ADD COLUMN n INTEGER")
    shop.insert((1, "a", "2026-01-01 10:00:00"))
    shop.sync()
    shop.origin("ALTER TABLE orders ALTER COLUMN n TYPE bigint")
    shop.origin("INSERT INTO orders VALUES (2, 'b', '2026-01-02 10:00:00', 9000000000)")
    assert shop.sync().error is None
    assert shop.landed("id, n") == [(1, None), (2, 9_000_000_000)]

    shop.origin("ALTER TABLE orders ALTER COLUMN n TYPE date USING '2026-01-01'::date")
    receipt = shop.sync()
    assert receipt.status == "failed"
    assert "full-refresh" in str(receipt.error)
    assert shop.landed("id, n") == [(1, None), (2, 9_000_000_000)]
    assert shop.sync(full_refresh=True).error is None


_CHILD = """
import os, pickle, signal, sys
from dbt_bridge.nouns import receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

class Killing(Silent):
    def advanced(self, node, rows, bytes):
        if sys.argv[2] == "reading":
            os.kill(os.getpid(), signal.SIGKILL)

def killing(receipt, counts):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "publishing":
    receipt.finish_receipt = killing  # called in the transaction, between the rows and the commit
with open(sys.argv[1], "rb") as file:
    sync(pickle.load(file), SyncOptions(), Killing())
"""


@pytest.mark.parametrize(("disposition", "moment"), [("append", "reading"), ("merge", "publishing")])
def test_kill_9_loses_nothing_and_doubles_nothing(shop: Shop, tmp_path: Path, disposition: Any, moment: str) -> None:
    table = replace(ORDERS, write_disposition=disposition)
    shop.insert((1, "a", "2026-01-01 10:00:00"), (2, "b", "2026-01-02 10:00:00"))
    shop.sync(table)
    shop.insert((3, "c", "2026-01-02 10:00:00"), (4, "d", "2026-01-04 10:00:00"))
    shop.origin("UPDATE orders SET status = 'B' WHERE id = 2")
    (tmp_path / "project.pickle").write_bytes(pickle.dumps(shop.with_table(table)))

    killed = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "project.pickle"), moment],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert shop.landed() == [(1, "a"), (2, "b")]
    checkpoints = "SELECT * FROM _dbt_bridge.checkpoints"
    assert "2026-01-02 10:00:00" in str(shop.warehouse(checkpoints))
    receipt = shop.sync(table)
    assert (receipt.checkpoint_from, receipt.checkpoint_to) == (
        "2026-01-02 10:00:00",
        "2026-01-04 10:00:00",
    )
    assert shop.landed() == [(1, "a"), (2, "B"), (3, "c"), (4, "d")]
    assert "2026-01-04 10:00:00" in str(shop.warehouse(checkpoints))
    left = (
        "SELECT table_schema, table_name FROM information_schema.tables"
        " WHERE table_schema IN ('landing', '_dbt_bridge')"
    )
    assert sorted(shop.warehouse(left)) == [
        ("_dbt_bridge", "checkpoints"),
        ("_dbt_bridge", "receipts"),
        ("landing", "orders"),
    ]
