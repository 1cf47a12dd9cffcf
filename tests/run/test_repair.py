"""`dbt-bridge repair`: what was spoilt behind the bridge's back is found, copied again by its keys, and proven."""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest

from dbt_bridge import lsn, run
from dbt_bridge.progress import Silent
from dbt_bridge.project import LandingSource, LandingTable, Project
from dbt_bridge.receipt import Receipt

Ask = Callable[[str], list[tuple[object, ...]]]
SEED = int(os.environ.get("DBT_BRIDGE_SEED", "0")) or random.SystemRandom().randrange(2**31)
NODE = "source.shop.shop."
SLOT = "dbt_bridge_repair_test"


def table(name: str, replication: str = "cdc", **given: object) -> LandingTable:
    return LandingTable(f"{NODE}{name}", name, name, replication, **given)  # type: ignore[arg-type]


class Shop:
    """The source `shop` of a project, landed in DuckDB."""

    def __init__(self, project: Project, file: Path, *tables: LandingTable) -> None:
        self.file = file
        defaults = LandingTable("source.shop.shop", "", "", "cdc")
        source = LandingSource("shop", "shop_pg", "public", "shop_landing", None, None, tables, defaults, slot=SLOT)
        self.project = replace(project, sources=(source,))
        self.sync()

    def sync(self) -> None:
        receipts = run.sync(self.project, run.Options(), Silent())
        assert [r.error for r in receipts if r.status != "success"] == []

    def repair(self, *, equal: bool = True, **options: object) -> list[Receipt]:
        """The receipts; everything is equal after it, or as `equal` says."""
        done = run.repair(self.project, run.RepairOptions(**options), Silent())  # type: ignore[arg-type]
        assert done.ok == equal, ([p.error for p in done.parities], [r.error for r in done.receipts])
        if equal and not options.get("dry_run"):
            assert {p.status for p in run.verify(self.project, run.VerifyOptions(), Silent())} == {"equal"}
        return list(done.receipts)

    def spoil(self, *statements: str) -> None:
        with duckdb.connect(str(self.file)) as connection:
            for statement in statements:
                assert connection.execute(statement).fetchall() != [(0,)], statement


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
    "INSERT INTO shop_landing.customers (id, name) VALUES (5000, 'ghost')",
    "INSERT INTO shop_landing.customers SELECT * FROM shop_landing.customers WHERE id = 11",
)


def test_everything_that_was_spoilt_is_set_right_at_one_lsn(
    project: Project, warehouse_file: Path, filled: psycopg.Connection, landed: Ask
) -> None:
    shop = Shop(project, warehouse_file, table("customers"))
    shop.spoil(*SPOILT)
    before = landed("SELECT * FROM shop_landing.customers WHERE id NOT IN (7, 8, 9, 10, 11, 5000) ORDER BY id")
    (receipt,) = shop.repair()
    assert (receipt.hop, receipt.status, receipt.node) == ("repair", "success", f"{NODE}customers")
    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_loaded) == (2, 3, 6)
    assert receipt.rows_deleted == 2, "the ghost, and the second row of key 11"
    assert receipt.checkpoint_from == receipt.checkpoint_to
    assert lsn.parsed(receipt.checkpoint_to or "") > 0
    assert landed("SELECT * FROM shop_landing.customers WHERE id NOT IN (7, 8, 9, 10, 11, 5000) ORDER BY id") == before
    kept = landed("SELECT rows_inserted, rows_deleted FROM _dbt_bridge.receipts WHERE hop = 'repair'")
    assert kept == [(2, 2)]
    filled.execute("UPDATE customers SET name = 'later' WHERE id < 20")
    shop.sync()
    assert landed("SELECT count(*) FROM shop_landing.customers WHERE name = 'later'") == [(19,)]
    assert shop.repair() == [], "nothing is left to be repaired"
