"""The same repairs at the other destinations that follow a log: Postgres and Delta."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.run.spoilt import Shop, table

from dbt_bridge.demo.postgres import Server
from dbt_bridge.project import Project, WarehouseProfile

Rows = list[tuple[Any, ...]]


@pytest.fixture
def there(project: Project, server: Server, database: str) -> Iterator[tuple[Project, Callable[[str], Rows]]]:
    """A project whose warehouse is a Postgres database, and what asks that."""
    name = f"{database.rsplit('/', 1)[1]}_warehouse"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"'.encode())
    parameters = {"type": "postgres", **psycopg.conninfo.conninfo_to_dict(server.url(name))}
    with psycopg.connect(server.url(name), autocommit=True) as warehouse:

        def ask(statement: str) -> Rows:
            done = warehouse.execute(statement.encode())
            return done.fetchall() if done.description else [(done.rowcount,)]

        yield replace(project, warehouse=WarehouseProfile("postgres", name, "public", 2, parameters)), ask
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


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


@pytest.mark.parametrize(
    "kept",
    [{}, {"deletes": "soft"}, {"history": True}, {"write_disposition": "append"}, {"replication": "initial_copy"}],
    ids=["", "soft deletes", "history", "log", "no cdc"],
)
def test_postgres(
    there: tuple[Project, Callable[[str], Rows]], warehouse_file: Path, filled: psycopg.Connection, kept: dict[str, Any]
) -> None:
    project, ask = there
    shop = Shop(project, warehouse_file, table("customers", **kept))
    is_log = "write_disposition" in kept
    for statement in SPOILT:
        if is_log and "INSERT" in statement:
            statement = (
                "INSERT INTO shop_landing.customers (id, name, _change, _seq) VALUES (-5, 'ghost', 'insert', 999)"
            )
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
