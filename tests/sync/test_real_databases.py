"""Two databases that nobody here wrote land whole, and every value is compared with its origin."""
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from dbt_bridge.nouns.project import (
    LandingSource,
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

Load = Callable[[str], dict[str, int]]


def whole(origin: str, schema: str | None, root: Path, profile: WarehouseProfile) -> Project:
    """A project whose one source has `tables: "*"`."""
    defaults = LandingTable("source.shop.real", "", "", replication="initial_copy")
    source = LandingSource(
        name="real",
        origin=origin,
        origin_schema=schema,
        landing_schema="landing",
        landing_database="",
        tables=(),
        defaults=defaults,
        every_table=True,
    )
    return Project(root, "shop", profile, (source,), ())


def duckdb_profile(file: Path) -> WarehouseProfile:
    return WarehouseProfile("duckdb", file.stem, "main", 2, {"type": "duckdb", "path": str(file), "schema": "main"})


def counted(receipts: list[Receipt]) -> dict[str, int | None]:
    assert {(r.status, r.error) for r in receipts} == {("success", None)}
    return {r.table_name.removeprefix("landing."): r.rows_loaded for r in receipts}


def postgres_columns(connection: psycopg.Connection, table: str) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [f'public."{table}"'],
    ).fetchall()


def postgres_rows(connection: psycopg.Connection, table: str) -> Counter[tuple[Any, ...]]:
    """Every row; `real` as double, as DuckDB's client gives it."""
    columns = [
        f'"{name}"::double precision' if kind == "real" else f'"{name}"'
        for name, kind in postgres_columns(connection, table)
    ]
    return Counter(connection.execute(f'SELECT {", ".join(columns)} FROM public."{table}"').fetchall())


@pytest.mark.parametrize("name", ["chinook", "northwind"])
def test_a_real_postgres_lands_in_duckdb_value_by_value(
    name: str, real_database: Load, origin: psycopg.Connection, database: str, tmp_path: Path, monkeypatch: Any
) -> None:
    expected = real_database(name)
    monkeypatch.setenv("SOURCES__REAL_PG__CREDENTIALS", database)
    file = tmp_path / "warehouse.duckdb"

    receipts = sync(whole("real_pg", "public", tmp_path, duckdb_profile(file)), SyncOptions(), Silent())

    assert counted(receipts) == expected
    with duckdb.connect(str(file), read_only=True) as warehouse:
        for table in expected:
            landed = warehouse.execute(f'SELECT * FROM landing."{table}"')
            assert [d[0] for d in landed.description] == [name for name, _ in postgres_columns(origin, table)]
            assert Counter(landed.fetchall()) == postgres_rows(origin, table), table


@pytest.mark.parametrize("name", ["chinook", "northwind"])
def test_a_real_postgres_lands_in_another_postgres_value_by_value(
    name: str, real_database: Load, origin: psycopg.Connection, database: str, tmp_path: Path, monkeypatch: Any
) -> None:
    expected = real_database(name)
    monkeypatch.setenv("SOURCES__REAL_PG__CREDENTIALS", database)
    info = origin.info
    profile = WarehouseProfile(
        "postgres", info.dbname, "analytics", 2,
        {"type": "postgres", "host": info.host, "port": info.port, "user": info.user, "dbname": info.dbname,
         "password": "", "schema": "analytics", "threads": 2},
    )  # fmt: skip

    receipts = sync(whole("real_pg", "public", tmp_path, profile), SyncOptions(), Silent())

    assert counted(receipts) == expected
    for table in expected:
        lines = 'SELECT t::text FROM {}."{}" AS t'
        at_origin = Counter(origin.execute(lines.format("public", table)).fetchall())
        assert Counter(origin.execute(lines.format("landing", table)).fetchall()) == at_origin, table


def test_chinook_lands_from_sqlite_value_by_value(
    real_database: Load, origin: psycopg.Connection, tmp_path: Path, monkeypatch: Any
) -> None:
    expected = real_database("chinook")
    with sqlite3.connect(tmp_path / "chinook.db") as lite:
        for table in expected:
            columns = postgres_columns(origin, table)
            declared = ", ".join(f'"{n}" {kind.replace(" without time zone", "")}' for n, kind in columns)
            lite.execute(f'CREATE TABLE "{table}" ({declared})')
            rows = [[_in_sqlite(v) for v in row] for row in postgres_rows(origin, table).elements()]
            lite.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(columns))})', rows)
    lite.close()
    monkeypatch.setenv("SOURCES__REAL_LITE__CREDENTIALS", "sqlite:///chinook.db")
    file = tmp_path / "warehouse.duckdb"

    receipts = sync(whole("real_lite", None, tmp_path, duckdb_profile(file)), SyncOptions(), Silent())

    assert counted(receipts) == expected
    with duckdb.connect(str(file), read_only=True) as warehouse:
        for table in expected:
            landed = Counter(warehouse.execute(f'SELECT * FROM landing."{table}"').fetchall())
            assert landed == postgres_rows(origin, table), table


def _in_sqlite(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat(sep=" ") if isinstance(value, datetime) else value
