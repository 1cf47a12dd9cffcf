"""Changes arrive in Postgres: what only Postgres has; what every destination must do is in testing/application.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.destination import locks
from dbt_bridge.connectors.postgres.destination.relation import identifier
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Follows, Load, Replica
from dbt_bridge.errors import ConnectionFailed, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Changes,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.names import POSTGRES
from dbt_bridge.nouns.table import Column, Table, TableName, quote_table_name
from dbt_bridge.system.lock_wait import LockWait, use_lock_wait
from dbt_bridge.system.retry import is_transient

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
    with warehouse.open_application("load-1") as application:
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
    with warehouse.open_application("load-1") as application:
        loaded = application.apply(REPLICA, run)
        application.commit(200)
    assert rows_of(origin, "SELECT id, note, host(address), mine FROM landing.orders ORDER BY 1") == [
        (1, "b", None, "mine 2"),
        (4, "a", "10.0.0.2", "mine 1"),
        (5, "e", None, None),
    ]
    assert (loaded.rows_loaded, loaded.rows_inserted, loaded.rows_updated, loaded.rows_deleted) == (4, 1, 2, 1)
    assert rows_of(origin, "SELECT relname FROM pg_class WHERE starts_with(relname, '_dbt_bridge_stage_')") == []


def test_views_and_grants_on_the_table_stay(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    joined(warehouse, ROWS)
    origin.execute("CREATE VIEW landing.names AS SELECT id, note FROM landing.orders")
    origin.execute("GRANT SELECT ON landing.orders TO PUBLIC")
    joined(warehouse, [*ROWS, (4, "d", None, None)])
    with warehouse.open_application("load-1") as application:
        application.apply(REPLICA, Truncated(100, COPIED_AT))
        application.apply(REPLICA, changes((INSERT, (9, "i", None, None), None)))
        application.apply(REPLICA, Reshaped(ORDERS.columns[:2], {}))
        application.commit(200)
    assert rows_of(origin, "SELECT * FROM landing.names") == [(9, "i")]
    assert rows_of(origin, "SELECT has_table_privilege('public', 'landing.orders', 'SELECT')") == [(True,)]


def test_a_row_that_somebody_else_has_changed_is_tried_again_later(
    origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no reason for a stream to end."""
    monkeypatch.setattr(locks, "_LEAST", 0.2)
    with use_lock_wait(LockWait()), PostgresWarehouse("pg", database) as warehouse:
        joined(warehouse, ROWS)
        with psycopg.connect(database) as other, pytest.raises(ConnectionFailed) as refused:
            other.execute("UPDATE landing.orders SET note = 'theirs' WHERE id = 1")
            with warehouse.open_application("load-2") as application:
                application.apply(REPLICA, changes((UPDATE, (1, "ours", None, None), None)))
    assert is_transient(refused.value)
    assert "--lock-wait" in refused.value.mend


def indexes(connection: psycopg.Connection) -> list[str]:
    found = rows_of(connection, "SELECT indexname FROM pg_indexes WHERE schemaname = 'landing' ORDER BY 1")
    return [name for (name,) in found]


def test_the_key_has_one_unique_index_ours_or_somebodys(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    joined(warehouse, ROWS)
    assert indexes(origin) == ["_dbt_bridge_key_orders"]
    origin.execute("DROP INDEX landing._dbt_bridge_key_orders")
    origin.execute("ALTER TABLE landing.orders ADD PRIMARY KEY (id)")
    joined(warehouse, ROWS)
    with warehouse.open_application("load-1") as application:
        application.apply(REPLICA, changes((INSERT, (9, "i", None, None), None)))
        application.commit(200)
    assert indexes(origin) == ["orders_pkey"]


def test_an_index_of_that_name_elsewhere_stops_nothing(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    joined(warehouse, ROWS)
    origin.execute("ALTER TABLE landing.orders RENAME TO orders_before")  # its index keeps its name
    joined(warehouse, ROWS)
    joined(warehouse, ROWS)
    assert indexes(origin) == ["_dbt_bridge_key_orders", "_dbt_bridge_key_orders_1"]


def test_two_long_names_have_two_histories(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    """Postgres keeps 63 bytes of a name, and cuts off the rest without a word."""
    letters = "\u00fc" * 31  # of two bytes
    tables = [Table(TableName("landing", f"{letters}{last}"), ORDERS.columns, ORDERS.key) for last in "ab"]
    replicas = [Replica(REPLICA.node, table, history=True, names=POSTGRES) for table in tables]
    for number, replica in enumerate(replicas):
        joined(warehouse, [(number, None, None, None)], replica)
    for number, replica in enumerate(replicas):
        assert len(replica.history_name.name.encode()) <= 63
        assert rows_of(origin, f"SELECT id FROM {quote_table_name(replica.history_name)}") == [(number,)]  # noqa: S608
    with pytest.raises(UsageError, match="63 bytes"):
        identifier(TableName("landing", f"{letters}ab"))


def test_a_copy_with_a_key_twice_is_refused(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    with pytest.raises(KeyRefused, match="unique"):
        joined(warehouse, [*ROWS, ROWS[0]])
    with pytest.raises(KeyRefused, match="NULL"):
        joined(warehouse, [*ROWS, (None, "d", None, None)])
    assert rows_of(origin, "SELECT to_regclass('landing.orders')") == [(None,)]


def test_a_value_that_the_changed_column_cannot_take_is_refused_and_nothing_stays(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    joined(warehouse, ROWS)
    origin.execute("ALTER TABLE landing.orders ALTER note TYPE varchar(3)")
    with pytest.raises(TypeRefused, match="too long"), warehouse.open_application("load-1") as application:
        application.apply(REPLICA, changes((INSERT, (9, "too long", None, None), None)))
    origin.execute("ALTER TABLE landing.orders ALTER note TYPE text")
    with pytest.raises(TypeRefused, match="inet"), warehouse.open_application("load-1") as application:
        application.apply(REPLICA, changes((INSERT, (9, "i", None, "nowhere"), None)))
    assert rows_of(origin, "SELECT count(*) FROM landing.orders") == [(3,)]
    assert rows_of(origin, "SELECT relname FROM pg_class WHERE starts_with(relname, '_dbt_bridge_stage_')") == []


def test_checkpoints_and_receipts_come_with_the_rows_or_not_at_all(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    joined(warehouse, ROWS)
    point = Checkpoint(REPLICA.node, "shop_pg", "", "0/C8", "7301/shop")
    with pytest.raises(ZeroDivisionError), warehouse.open_application("load-1") as application:
        application.apply(REPLICA, changes((INSERT, (9, "i", None, None), None)))
        raise ZeroDivisionError
    assert rows_of(origin, "SELECT count(*) FROM landing.orders") == [(3,)]
    with warehouse.open_application("load-1") as application:
        application.apply(REPLICA, changes((INSERT, (9, "i", None, None), None)))
        application.commit(200, [point], [])
    assert warehouse.checkpoints() == [point]
    assert rows_of(origin, "SELECT count(*) FROM landing.orders") == [(4,)]
    assert isinstance(warehouse, Follows)


def test_a_table_whose_changes_have_too_many_columns_is_refused(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    def wide(count: int) -> Replica:
        numbers = (Column(f"c{i}", pa.int32(), "integer") for i in range(count - 1))
        return Replica(
            "source.shop.shop.wide", Table(TableName("landing", "wide"), (*ORDERS.columns[:1], *numbers), ("id",))
        )

    with pytest.raises(TypeRefused, match="has 1600 columns, and its changes come with 1 more"):
        joined(warehouse, [[1] * 1600], wide(1600))
    assert rows_of(origin, "SELECT to_regclass('landing.wide')") == [(None,)]
    replica = wide(1599)
    joined(warehouse, [[1] * 1599, [2] * 1599], replica)
    values = [1, 5, *[7] * 1597]
    with warehouse.open_application("load-2") as application:
        application.apply(replica, changes((UPDATE, values, None), table=replica.table))
        application.commit(200)
    assert rows_of(origin, "SELECT id, c0, c1597 FROM landing.wide ORDER BY id") == [(1, 5, 7), (2, 2, 2)]
    kept = changes((UPDATE, [1, None, *values[2:]], None), table=replica.table, unchanged="c0")
    with (
        warehouse.open_application("load-3") as application,
        pytest.raises(TypeRefused, match="its changes come with 2 more"),
    ):
        application.apply(replica, kept)
