"""Changes arrive in Postgres: what only Postgres has; what every destination must do is in test_applying.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.changes import DELETE, INSERT, UPDATE, Changes
from dbt_bridge.load.destination import Load, Replica
from dbt_bridge.load.postgres import PostgresWarehouse
from dbt_bridge.table import Column, Table, TableName

ORDERS = Table(
    TableName("landing", "orders"),
    (
        Column("id", pa.int64(), "bigint"),
        Column("note", pa.string(), "text"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("address", pa.string(), "inet"),
    ),
    ("id",),
)
REPLICA = Replica("source.shop.shop.orders", ORDERS)
COPIED_AT = 1_700_000_000_000_000


@pytest.fixture
def warehouse(database: str) -> Iterator[PostgresWarehouse]:
    with PostgresWarehouse("pg", database) as opened:
        yield opened


def rows_of(connection: psycopg.Connection, what: str) -> list[tuple[Any, ...]]:
    return connection.execute(what.encode()).fetchall()


def table_of(rows: Sequence[Sequence[Any]], table: Table = ORDERS) -> pa.Table:
    columns = [pa.array([row[i] for row in rows], c.type) for i, c in enumerate(table.columns)]
    return pa.Table.from_arrays(columns, schema=table.arrow_schema)


def changes(*what: tuple[int, Sequence[Any], int | None], table: Table = ORDERS, unchanged: str = "") -> Changes:
    """(kind, row, old id), each in a transaction of its own."""
    old = [w[2] for w in what]
    return Changes(
        table_of([w[1] for w in what], table),
        np.array([w[0] for w in what], np.uint8),
        np.arange(len(what), dtype=np.int64) + 100,
        COPIED_AT + np.arange(1, len(what) + 1, dtype=np.int64) * 1_000_000,
        {unchanged: np.array([w[1][1] is None for w in what])} if unchanged else {},
        pa.table({"id": pa.array(old, pa.int64())}),
        np.array([o is not None for o in old]),
    )


def joined(warehouse: PostgresWarehouse, rows: Sequence[Sequence[Any]], replica: Replica = REPLICA) -> None:
    table = replica.table
    disposition = "append" if replica.change_log else "replace"
    staged = warehouse.stage(Load(table, disposition, "load-1"), table_of(rows, table).to_reader())  # type: ignore[arg-type]
    with warehouse.applying("load-1") as application:
        application.join(replica, staged, COPIED_AT)
        application.commit(100)


ROWS = [(1, "a", None, "10.0.0.1"), (2, "b", None, None), (3, "c", None, None)]


def test_changes_are_applied_with_rows_that_move(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    joined(warehouse, ROWS)
    origin.execute("ALTER TABLE landing.orders ADD COLUMN mine text")
    origin.execute("UPDATE landing.orders SET mine = 'mine ' || id")
    run = changes(
        (UPDATE, (4, None, None, "10.0.0.2"), 1),
        (UPDATE, (1, None, None, None), 2),
        (DELETE, (3, None, None, None), None),
        (INSERT, (5, "e", None, None), None),
        unchanged="note",
    )
    with warehouse.applying("load-1") as application:
        loaded = application.apply(REPLICA, run)
        application.commit(200)
    assert rows_of(origin, "SELECT id, note, host(address), mine FROM landing.orders ORDER BY 1") == [
        (1, "b", None, "mine 2"),
        (4, "a", "10.0.0.2", "mine 1"),
        (5, "e", None, None),
    ]
    assert (loaded.rows_loaded, loaded.rows_inserted, loaded.rows_updated, loaded.rows_deleted) == (4, 1, 2, 1)
    assert rows_of(origin, "SELECT relname FROM pg_class WHERE starts_with(relname, '_dbt_bridge_stage_')") == []
