"""A cursor's checkpoint is refused at another database than its own, and at one whose cursor went back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.projects import SyncTables, landing_source, table

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.nouns.project import Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.repair import RepairOptions, repair

Rows = list[tuple[Any, ...]]
Landed = Callable[[str], Rows]
ITEMS = landing_source(
    table("merged", "incremental", cursor="id"),
    table("logged", "incremental", cursor="id", write_disposition="append"),
)
LANDED = ("SELECT * FROM shop_landing.merged ORDER BY id", "SELECT * FROM shop_landing.logged ORDER BY id")


def make_tables(connection: Any, first: int, last: int, value: str) -> None:
    for name in ("merged", "logged"):
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name} (id bigint PRIMARY KEY, v text)")
        connection.cursor().executemany(
            f"INSERT INTO {name} VALUES ({'%s' if isinstance(connection, psycopg.Connection) else '?'}, '{value}')",  # noqa: S608
            [(number,) for number in range(first, last + 1)],
        )


@pytest.fixture
def other(database: str) -> Iterator[str]:
    """A second database of the same server."""
    name = f"{database.rsplit('/', 1)[1]}_other"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
        yield database.rsplit("/", 1)[0] + f"/{name}"
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def is_refused(sync_sources: SyncTables, landed: Landed, said: str) -> None:
    before = [landed(query) for query in LANDED]
    receipts = sync_sources(ITEMS)
    for name, receipt in receipts.items():
        assert receipt.status == "failed"
        assert said in str(receipt.error)
        assert f"dbt-bridge repair --select source:shop.{name}" in str(receipt.error)
        assert f"dbt-bridge sync --full-refresh --select source:shop.{name}" in str(receipt.error)
    assert [landed(query) for query in LANDED] == before


def test_another_database_is_refused_until_its_rows_are_proven_or_copied(
    origin: psycopg.Connection,
    database: str,
    other: str,
    sync_sources: SyncTables,
    landed: Landed,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_tables(origin, 1, 20, "a")
    sync_sources(ITEMS)
    with psycopg.connect(other, autocommit=True) as connection:
        make_tables(connection, 1, 18, "a")
        make_tables(connection, 19, 30, "b")
        monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", other)
        is_refused(sync_sources, landed, "another server or database")

        options = RepairOptions(dry_run=True)
        repair(replace(project, sources=(ITEMS,)), options, Silent())
        is_refused(sync_sources, landed, "another server or database")
        assert repair(replace(project, sources=(ITEMS,)), replace(options, dry_run=False), Silent()).ok
        assert {receipt.status for receipt in sync_sources(ITEMS).values()} == {"success"}
        rows = connection.execute("SELECT * FROM merged ORDER BY id").fetchall()
    assert [landed(query) for query in LANDED] == [rows, rows]

    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    is_refused(sync_sources, landed, "another server or database")
    assert {receipt.status for receipt in sync_sources(ITEMS, full_refresh=True).values()} == {"success"}
    assert [len(landed(query)) for query in LANDED] == [20, 20]


def test_a_cursor_that_went_back_is_refused_until_rows_are_proven(
    origin: psycopg.Connection, sync_sources: SyncTables, landed: Landed, project: Project
) -> None:
    make_tables(origin, 1, 20, "a")
    sync_sources(ITEMS)
    origin.execute("DELETE FROM merged WHERE id > 10; DELETE FROM logged WHERE id > 10")
    make_tables(origin, 11, 15, "after the restore")
    is_refused(sync_sources, landed, "ends at 15, before the checkpoint 20")
    assert repair(replace(project, sources=(ITEMS,)), RepairOptions(), Silent()).ok
    make_tables(origin, 16, 18, "new")
    assert {receipt.checkpoint_from for receipt in sync_sources(ITEMS).values()} == {"15"}
    rows = origin.execute("SELECT * FROM merged ORDER BY id").fetchall()
    assert [landed(query) for query in LANDED] == [rows, rows]


def test_a_checkpoint_of_an_earlier_version_is_adopted_and_another_table_is_read_whole(
    origin: psycopg.Connection, sync_sources: SyncTables, landed: Landed, warehouse_file: Path
) -> None:
    make_tables(origin, 1, 5, "a")
    sync_sources(ITEMS)
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute("UPDATE _dbt_bridge.checkpoints SET past = ''")
    make_tables(origin, 6, 8, "b")
    assert {receipt.rows_loaded for receipt in sync_sources(ITEMS).values()} <= {3, 4}  # the last row comes again
    assert all(text for (text,) in landed("SELECT past FROM _dbt_bridge.checkpoints"))
    origin.execute("CREATE TABLE moved AS SELECT id, 'elsewhere' AS v FROM merged")
    origin.execute("ALTER TABLE moved ADD PRIMARY KEY (id)")
    moved = replace(ITEMS.tables[0], identifier="moved")
    sync_sources(replace(ITEMS, tables=(moved,)))
    assert landed("SELECT DISTINCT v FROM shop_landing.moved") == [("elsewhere",)]


def test_another_file_is_refused(
    sync_sources: SyncTables, landed: Landed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(ITEMS, origin_schema=None)
    for number, name in enumerate(("one", "two")):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection, connection:
            make_tables(connection, 1, 10 + number, name)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", f"sqlite:///{tmp_path / 'one.db'}")
    assert {receipt.status for receipt in sync_sources(source).values()} == {"success"}
    (tmp_path / "copy.db").write_bytes((tmp_path / "one.db").read_bytes())
    (tmp_path / "copy.db").rename(tmp_path / "one.db")  # a file that is written anew is the same
    assert {receipt.status for receipt in sync_sources(source).values()} == {"success"}
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", f"sqlite:///{tmp_path / 'two.db'}")
    for receipt in sync_sources(source).values():
        assert "another server or database" in str(receipt.error)


def test_a_clock_that_goes_back_hides_no_row(
    origin: psycopg.Connection, sync_sources: SyncTables, landed: Landed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin's clock is an hour behind what it wrote before; rows of two runs lie below the greatest value."""
    source = landing_source(table("items", "incremental", cursor="at"))
    origin.execute("CREATE TABLE items (id int PRIMARY KEY, v text, at timestamptz DEFAULT clock_timestamp())")
    origin.execute("INSERT INTO items SELECT i, 'first' FROM generate_series(1, 5) i")
    sync_sources(source)
    read_clock = PostgresOrigin.read_clock
    monkeypatch.setattr(PostgresOrigin, "read_clock", lambda self: read_clock(self) - 3_600_000_000)
    for value in ("second", "third"):
        origin.execute("INSERT INTO items SELECT max(id) + 1, %s, now() - interval '1 hour' FROM items", [value])
        origin.execute("UPDATE items SET v = %s, at = now() - interval '1 hour' WHERE id = 1", [value])
        assert {receipt.status for receipt in sync_sources(source).values()} == {"success"}
        rows = origin.execute("SELECT id, v FROM items ORDER BY id").fetchall()
        assert landed("SELECT id, v FROM shop_landing.items ORDER BY id") == rows
