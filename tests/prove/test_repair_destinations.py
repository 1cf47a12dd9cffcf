"""The same repairs at the other destinations that follow a log: Postgres and Delta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.projects import table
from tests.prove.spoilt import Shop

from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.project import Project, WarehouseProfile

Rows = list[tuple[Any, ...]]


@pytest.fixture
def filled(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE customers (id bigint PRIMARY KEY, name text, seen timestamptz, doc jsonb)")
    origin.execute(
        "INSERT INTO customers SELECT g, 'c' || g, '2026-01-01'::timestamptz + g * interval '1 s',"
        " jsonb_build_object('n', g) FROM generate_series(1, 300) g"
    )
    return origin


SPOILT = (
    "UPDATE shop_landing.customers SET name = 'wrong' WHERE id IN (7, 8)",
    "DELETE FROM shop_landing.customers WHERE id = 9",
    "INSERT INTO shop_landing.customers (id, name) VALUES (-5, 'ghost')",
)


KEPT = pytest.mark.parametrize(
    "kept",
    [{}, {"deletes": "soft"}, {"history": True}, {"write_disposition": "append"}, {"replication": "initial_copy"}],
    ids=["", "soft deletes", "history", "log", "no cdc"],
)


@KEPT
def test_postgres(
    there: tuple[Project, Callable[[str], Rows]], warehouse_file: Path, filled: psycopg.Connection, kept: dict[str, Any]
) -> None:
    project, ask = there
    shop = Shop(project, warehouse_file, table("customers", **kept))
    is_log = "write_disposition" in kept
    ghost = "INSERT INTO shop_landing.customers (id, name, _change, _seq) VALUES (-5, 'ghost', 'insert', 999)"
    for statement in (*SPOILT[:2], ghost if is_log else SPOILT[2]):
        assert ask(statement) != [(0,)]
    (receipt,) = shop.repair()
    counts = (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted)
    assert counts == ((4, 0, 0) if is_log else (1, 2, 1))
    assert ask("SELECT status, rows_loaded FROM _dbt_bridge.receipts WHERE hop = 'repair'") == [("success", 4)]
    if kept.get("deletes") == "soft":
        assert ask("SELECT id, name, _deleted_at IS NULL FROM shop_landing.customers WHERE id < 1") == [
            (-5, "ghost", False)
        ]
    if kept.get("history"):
        versions = "SELECT name, valid_to IS NULL FROM shop_landing.customers_history WHERE id = 7 ORDER BY valid_from"
        assert ask(versions) == [("c7", False), ("c7", True)], "the history was not spoilt: its version began anew"
    filled.execute("UPDATE customers SET name = 'later' WHERE id IN (7, 9)")
    shop.sync()
    assert shop.repair() == []


def test_postgres_rows_without_a_key(
    there: tuple[Project, Callable[[str], Rows]], warehouse_file: Path, filled: psycopg.Connection
) -> None:
    project, ask = there
    filled.execute("ALTER TABLE customers DROP CONSTRAINT customers_pkey")
    filled.execute("ALTER TABLE customers REPLICA IDENTITY FULL")
    filled.execute("INSERT INTO customers SELECT * FROM customers WHERE id < 20")
    shop = Shop(project, warehouse_file, table("customers"))
    for statement in (*SPOILT, "INSERT INTO shop_landing.customers SELECT * FROM shop_landing.customers WHERE id = 30"):
        ask(statement)
    (receipt,) = shop.repair()
    assert (receipt.rows_inserted, receipt.rows_deleted) == (6, 6)
    filled.execute("UPDATE customers SET name = 'later' WHERE id = 9")
    shop.sync()
    assert shop.repair() == []


class Lake:
    """A Delta destination in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, statement: str) -> Rows:
        """Tables are views: `customers`, `customers_history`."""
        with duckdb.connect() as connection:
            for name in [path.name for path in self.folder.iterdir()]:
                connection.register(name, DeltaTable(str(self.folder / name)).to_pyarrow_table())
            return connection.execute(statement).fetchall()

    def customers(self) -> DeltaTable:
        return DeltaTable(str(self.folder / "customers"))

    def spoil(self, *, is_log: bool) -> None:
        """As SPOILT, and a row that is there twice."""
        customers = self.customers()
        customers.update(updates={"name": "'wrong'"}, predicate="id IN (7, 8)")
        customers.delete("id = 9")
        one = customers.to_pyarrow_table(filters=[("id", "=", 10)])
        ghost = one.set_column(0, "id", pa.array([-5], pa.int64()))
        write_deltalake(self.customers(), ghost if is_log else pa.concat_tables([ghost, one]), mode="append")


@KEPT
def test_delta(
    project: Project,
    warehouse_file: Path,
    filled: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: dict[str, Any],
) -> None:
    monkeypatch.setenv("DESTINATION__LAKE__DESTINATION_TYPE", "filesystem")
    monkeypatch.setenv("DESTINATION__LAKE__BUCKET_URL", str(tmp_path / "lake"))
    shop = Shop(project, warehouse_file, table("customers", **kept), destination="lake")
    lake = Lake(tmp_path / "lake" / "shop_landing")
    lake.spoil(is_log="write_disposition" in kept or kept.get("deletes") == "soft")
    (receipt,) = shop.repair()
    twice = 0 if "write_disposition" in kept or kept.get("deletes") == "soft" else 1
    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (1, 2 + twice, 1 + twice)
    if kept.get("deletes") == "soft":
        assert lake.ask("SELECT id, _deleted_at IS NULL FROM customers WHERE id < 8 ORDER BY id")[0] == (-5, False)
    if kept.get("history"):
        versions = "SELECT name, valid_to IS NULL FROM customers_history WHERE id = 10 ORDER BY valid_from"
        assert lake.ask(versions) == [("c10", False), ("c10", True)]
    filled.execute("UPDATE customers SET name = 'later' WHERE id IN (7, 9)")
    shop.sync()
    assert lake.ask("SELECT count(*) FROM customers WHERE name = 'later'") == [(2,)]
    assert shop.repair() == []


@pytest.fixture
def through_dlt(
    there: tuple[Project, Callable[[str], Rows]], server: Server, monkeypatch: pytest.MonkeyPatch
) -> tuple[Project, Callable[[str], Rows]]:
    """As `there`, but a warehouse that is reached through dlt's SQL client alone."""
    project, ask = there
    url = server.url(project.warehouse.database).replace("postgres@", "postgres:none@")
    monkeypatch.setenv("DESTINATION__REDSHIFT__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__REDSHIFT__CREDENTIALS", url)
    profile = WarehouseProfile("redshift", project.warehouse.database, "public", 2, {})
    return replace(project, warehouse=profile), ask


@pytest.mark.parametrize(
    "kept",
    [{}, {"deletes": "soft"}, {"write_disposition": "append"}, {"replication": "initial_copy"}],
    ids=["", "soft deletes", "log", "no cdc"],
)
def test_through_dlt(
    through_dlt: tuple[Project, Callable[[str], Rows]],
    warehouse_file: Path,
    filled: psycopg.Connection,
    kept: dict[str, Any],
) -> None:
    project, ask = through_dlt
    shop = Shop(project, warehouse_file, table("customers", **kept))
    is_log = "write_disposition" in kept
    ghost = "INSERT INTO shop_landing.customers (id, name, _change, _lsn, _seq) VALUES (-5, 'ghost', 'insert', 1, 999)"
    for statement in (*SPOILT[:2], ghost if is_log else SPOILT[2]):
        assert ask(statement) != [(0,)]
    (receipt,) = shop.repair()
    counts = (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted)
    assert counts == (1, 2, 1), "what the second comparison has proven: dlt counts nothing"
    assert ask("SELECT status, rows_loaded FROM _dbt_bridge.receipts WHERE hop = 'repair'") == [("success", 4)]
    assert ask("SELECT status FROM _dbt_bridge.parity ORDER BY finished_at DESC LIMIT 1") == [("equal",)]
    if kept.get("deletes") == "soft":
        ghosts = ask("SELECT name, _deleted_at IS NULL FROM shop_landing.customers WHERE id < 1")
        assert ghosts == [("ghost", False)]
    filled.execute("UPDATE customers SET name = 'later' WHERE id IN (7, 9)")
    shop.sync()
    assert shop.repair() == []


def test_through_dlt_no_single_one_of_equal_rows_is_taken_away(
    through_dlt: tuple[Project, Callable[[str], Rows]], warehouse_file: Path, filled: psycopg.Connection
) -> None:
    """The refusal says what, where and the next command, and the table stays as it was."""
    project, ask = through_dlt
    filled.execute("ALTER TABLE customers DROP CONSTRAINT customers_pkey")
    shop = Shop(project, warehouse_file, table("customers", "initial_copy"))
    before = "SELECT count(*), sum(id) FROM shop_landing.customers"
    ask(SPOILT[2])
    stood = ask(before)
    (receipt,) = shop.repair(equal=False)
    assert receipt.status == "failed"
    assert "shop_landing.customers has no key, and through dlt no single one of equal rows can be" in str(receipt.error)
    assert "sync --full-refresh --select source:shop.customers" in str(receipt.error)
    assert ask(before) == stood
