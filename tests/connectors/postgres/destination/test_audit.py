"""The audit tables in Postgres: kept, told, and upgraded from what an earlier version made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.nouns.checkpoint import Checkpoint, TableState
from dbt_bridge.nouns.receipt import start_receipt

ORDERS = Checkpoint(
    "source.shop.shop.orders",
    "shop_pg",
    "",
    "16/B374D848",
    "7301/shop",
    '{"id": 23}',
    "type refused",
    TableState.SET_ASIDE,
)


@pytest.fixture
def warehouse(database: str) -> Iterator[PostgresWarehouse]:
    with PostgresWarehouse("pg", database) as opened_:
        yield opened_


def test_every_field_of_a_checkpoint_is_kept(warehouse: PostgresWarehouse) -> None:
    items = Checkpoint("source.shop.shop.items", "shop_pg", "updated_at", "2026-01-01")
    assert warehouse.checkpoints() == []
    warehouse.save([replace(ORDERS, value="0/1"), items], [])
    warehouse.save([ORDERS], [])
    assert warehouse.checkpoints() == [items, ORDERS]
    assert warehouse.checkpoint(ORDERS.node) == ORDERS


def test_tables_of_an_earlier_version_are_read_and_get_the_new_columns(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    warehouse.save([Checkpoint("source.a", "shop_pg", "id", "7")], [])
    origin.execute("ALTER TABLE _dbt_bridge.receipts DROP COLUMN last_commit_at, DROP COLUMN lag_seconds")
    origin.execute("ALTER TABLE _dbt_bridge.checkpoints DROP COLUMN slot, DROP COLUMN shape, DROP COLUMN set_aside")
    assert warehouse.checkpoints() == [Checkpoint("source.a", "shop_pg", "id", "7")]

    receipt = start_receipt(
        "load-1",
        "cdc",
        ORDERS.node,
        origin="shop_pg",
        destination="pg",
        table_name="landing.orders",
        write_disposition="merge",
        lag_seconds=0.5,
    )
    warehouse.save([ORDERS], [receipt])

    assert warehouse.checkpoints() == [Checkpoint("source.a", "shop_pg", "id", "7"), ORDERS]
    assert origin.execute("SELECT lag_seconds FROM _dbt_bridge.receipts").fetchall() == [(0.5,)]
