"""Many tables of one MariaDB connection land side by side, also when one of them is refused."""
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import psycopg
import pytest

from dbt_bridge.nouns.project import (
    LandingSource,
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

if TYPE_CHECKING:
    from tests.connectors.conftest import MariaDatabase


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> WarehouseProfile:
    if request.param == "duckdb":
        credentials = {"type": "duckdb", "path": str(tmp_path / "warehouse.duckdb"), "schema": "main"}
        return WarehouseProfile("duckdb", "warehouse", "main", 4, credentials)
    info = psycopg.conninfo.conninfo_to_dict(database)
    credentials = {
        "type": "postgres", "host": info["host"], "port": int(info["port"]), "user": info["user"],
        "dbname": info["dbname"], "password": "", "schema": "analytics",
    }  # fmt: skip
    return WarehouseProfile("postgres", str(info["dbname"]), "analytics", 4, credentials)


def test_one_refused_table_fails_alone(
    mariadb: MariaDatabase, warehouse: WarehouseProfile, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        mariadb.execute(f"CREATE TABLE t{number} (n BIGINT UNSIGNED PRIMARY KEY, day DATE, pad CHAR(100) DEFAULT 'é')")
        mariadb.execute(f"INSERT INTO t{number} (n, day) SELECT seq, '2026-01-01' FROM seq_1_to_20000")
    mariadb.execute("SET sql_mode = ''")
    mariadb.execute("UPDATE t2 SET day = '0000-00-00' WHERE n = 10000")
    monkeypatch.setenv("SOURCES__SHOP_MY__CREDENTIALS", mariadb.url)
    defaults = LandingTable("source.shop.shop", "", "", replication="initial_copy")
    source = LandingSource(
        name="shop",
        origin="shop_my",
        origin_schema=None,
        landing_schema="landing",
        landing_database="",
        tables=(),
        defaults=defaults,
        every_table=True,
    )

    receipts = sync(Project(tmp_path, "shop", warehouse, (source,), ()), SyncOptions(threads=4), Silent())

    failed = [r for r in receipts if r.status == "failed"]
    assert [(r.table_name, r.rows_loaded) for r in failed] == [("landing.t2", 0)]
    assert "column 'day' (date): '0000-00-00' cannot be kept exactly" in str(failed[0].error)
    assert "types: {day: text}" in str(failed[0].error)
    assert [r.rows_loaded for r in receipts if r.status == "success"] == [20000] * 5
    sums = " UNION ALL ".join(f"SELECT count(*), sum(n) FROM landing.t{n}" for n in (0, 1, 3, 4, 5))
    if warehouse.adapter == "duckdb":
        with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as connection:
            found = connection.execute(sums).fetchall()
    else:
        with psycopg.connect(database) as connection:
            found = connection.execute(sums.encode()).fetchall()
    assert found == [(20000, 200010000)] * 5
    assert "canary" not in "".join(str(r) for r in receipts)


def test_a_table_refused_in_mid_stream_gives_the_connection_back(
    warehouse: WarehouseProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them streams from the one connection of its origin, and half of them are refused by their key."""
    file = tmp_path / "origin.db"
    with closing(sqlite3.connect(file)) as connection:
        for number in range(8):
            connection.execute(f"CREATE TABLE t{number} (code TEXT, at DATETIME NOT NULL, pad TEXT)")
            keys = [None if number % 2 and row == 5000 else f"k{row}" for row in range(10_000)]
            rows = [(key, "2026-01-01 00:00:00", "x" * 200) for key in keys]
            connection.executemany(f"INSERT INTO t{number} VALUES (?, ?, ?)", rows)
        connection.commit()
    monkeypatch.setenv("SOURCES__LITE__CREDENTIALS", f"sqlite:///{file}")
    tables = [
        LandingTable(
            f"source.shop.lite.t{n}", f"t{n}", f"t{n}", replication="incremental", cursor="at", primary_key=("code",)
        )
        for n in range(8)
    ]
    source = LandingSource(
        name="lite", origin="lite", origin_schema=None, landing_schema="landing", landing_database="",
        tables=tuple(tables), defaults=LandingTable("source.shop.lite", "", "", replication="incremental"),
        every_table=False,
    )  # fmt: skip

    receipts = sync(Project(tmp_path, "shop", warehouse, (source,), ()), SyncOptions(threads=4), Silent())

    told = {receipt.node[-2:]: receipt for receipt in receipts}
    assert {name: told[name].rows_loaded for name in ("t0", "t2", "t4", "t6")} == dict.fromkeys(
        ("t0", "t2", "t4", "t6"), 10_000
    )
    for name in ("t1", "t3", "t5", "t7"):
        assert told[name].status == "failed" and "holds NULL" in str(told[name].error), told[name]
