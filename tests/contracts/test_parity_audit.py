"""`_dbt_bridge.parity`: what was compared is kept, in whatever warehouse, and holds no value of a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dlt
import psycopg
import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Ledger, Load
from dbt_bridge.nouns.parity import Aggregate, Difference, Parity
from dbt_bridge.nouns.parity_row import PARITY as PARITY_TABLE
from dbt_bridge.nouns.parity_row import as_arrow
from dbt_bridge.nouns.table import Table, TableName

PARITY = TableName("_dbt_bridge", "parity")
BEGAN = datetime(2026, 11, 21, 15, 30, 0, 123456, UTC)
ORDERS = Parity(
    load_id="20261121T153000000000-a1b2c3",
    node="source.shop.shop.orders",
    origin="shop_pg: shop.orders",
    destination="duckdb: shop_landing.orders",
    level="rows",
    status="different",
    at="LSN 0/16B3748",
    started_at=BEGAN,
    finished_at=BEGAN + timedelta(seconds=4.5),
    duration_seconds=4.5,
    method="digests",
    why="the wire is fast",
    rows_origin=5_000_000_000,
    rows_destination=4_999_999_999,
    only_in_origin=2,
    only_in_destination=1,
    different=3,
    duplicates=0,
    in_flight=7,
    bytes=10_000_000_000,
    key=("id",),
    columns={"e'm\"ail": 3},
    aggregates=(
        Aggregate("amount", "sum", "10", "11", same=False, variance=0.1),
        Aggregate("amount", "max", "Infinity", "1", same=False, variance=float("inf")),
        Aggregate("name", "min", "ada@secret.org", "ada@secret.org", same=True),
    ),
    examples=(Difference("different", {"id": "4711"}, ("email",), {"email": "ada@secret.org"}, {"email": None}),),
)
_KINDS = ("only_in_origin", "only_in_destination", "different", "duplicates")
FAILED = replace(
    ORDERS,
    node="source.shop.shop.items",
    status="failed",
    error="no\0 table 'items' — gone",
    columns={},
    aggregates=(),
    **dict.fromkeys(("rows_origin", "rows_destination", "bytes", *_KINDS)),
)


@pytest.fixture
def duckdb_warehouse(tmp_path: Path) -> Iterator[Ledger]:
    with DuckDBWarehouse.open(tmp_path / "w.duckdb") as opened:
        yield opened


@pytest.fixture
def postgres_warehouse(database: str) -> Iterator[Ledger]:
    with PostgresWarehouse("pg", database) as opened:
        yield opened


@pytest.fixture
def dlt_warehouse(database: str) -> Ledger:
    return DltWarehouse("redshift", dlt.destinations.postgres(database.replace("postgres@", "postgres:none@")))


@pytest.fixture(params=["duckdb_warehouse", "postgres_warehouse", "dlt_warehouse"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    found: Ledger = request.getfixturevalue(request.param)
    return found


def _kept(ledger: Ledger) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ledger.read(PARITY).read_all().to_pylist()
    return sorted(rows, key=lambda row: str(row["node"]))


def test_every_comparison_is_a_row_with_its_exact_counts(ledger: Ledger) -> None:
    ledger.record_parity([])
    assert ledger.find_table(PARITY) is None

    ledger.record_parity([ORDERS.as_row(), FAILED.as_row()])
    ledger.record_parity([replace(ORDERS, node="source.shop.shop.zones", status="equal").as_row()])

    items, orders, zones = _kept(ledger)
    assert {k: orders[k] for k in ("origin", "destination", "state", "method", "level", "status", "error")} == {
        "origin": "shop_pg: shop.orders", "destination": "duckdb: shop_landing.orders", "state": "LSN 0/16B3748",
        "method": "digests", "level": "rows", "status": "different", "error": None,
    }  # fmt: skip
    assert [orders[k] for k in ("rows_origin", "rows_destination", "bytes")] == [
        5_000_000_000,
        4_999_999_999,
        10_000_000_000,
    ]
    assert [orders[k] for k in _KINDS] == [2, 1, 3, 0]
    assert (orders["allowed"], orders["in_flight"], orders["duration_seconds"]) == (0, 7, 4.5)
    assert orders["started_at"].astimezone(UTC) == BEGAN
    assert json.loads(orders["columns"]) == {"e'm\"ail": 3}
    assert (items["status"], items["error"], items["rows_origin"]) == ("failed", "no table 'items' — gone", None)
    assert zones["status"] == "equal"


def test_no_value_of_a_row_is_kept(ledger: Ledger) -> None:
    ledger.record_parity([ORDERS.as_row()])

    (row,) = _kept(ledger)

    assert not [value for value in row.values() if "secret" in str(value) or "4711" in str(value)]
    assert json.loads(row["aggregates"]) == [
        {"column": "amount", "what": "sum", "variance": 0.1},
        {"column": "amount", "what": "max", "variance": None},
    ]


def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks(ledger: Ledger) -> None:
    earlier = as_arrow([ORDERS.as_row()]).drop_columns(["in_flight", "allowed"])
    ledger.load(Load(Table.of_schema(PARITY, earlier.schema), "append", "load-0"), earlier.to_reader())

    ledger.record_parity([FAILED.as_row()])

    assert [(row["node"], row["in_flight"], row["rows_origin"]) for row in _kept(ledger)] == [
        (FAILED.node, 7, None),
        (ORDERS.node, None, 5_000_000_000),
    ]


def test_moving_rows_alone_makes_no_table_of_comparisons(ledger: Ledger) -> None:
    ledger.record([])
    ledger.checkpoints()

    assert ledger.find_table(PARITY) is None


def test_its_columns_can_be_written_without_quotes(ledger: Ledger, database: str) -> None:
    """A user queries it by hand, and dbt models do not quote either."""
    ledger.record_parity([ORDERS.as_row()])
    names = ", ".join(column.name for column in PARITY_TABLE.columns)
    query = f"SELECT {names} FROM _dbt_bridge.parity WHERE state = 'LSN 0/16B3748'"  # noqa: S608

    if isinstance(ledger, DuckDBWarehouse):
        with ledger._cursor("test") as cur:
            found = cur.execute(query).fetchall()
    else:
        with psycopg.connect(database) as connection:
            found = connection.execute(query.encode()).fetchall()

    assert [row[1] for row in found] == [ORDERS.node]
