"""Changes arrive in DuckDB: what only DuckDB has; what every destination must do is in testing/application.py."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.contracts.destination import (
    CannotReshape,
    Follows,
    Load,
    Replica,
)
from dbt_bridge.errors import DestinationError, TypeRefused
from dbt_bridge.nouns.changes import INSERT, Changes, Reshaped
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.receipt import finish_receipt, start_receipt
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.testing.changes import (
    Change,
    Row,
    changes_of,
    rows_of,
)

COLUMNS = (Column("id", pa.int64(), "bigint"), Column("name", pa.string(), "text"))
ORDERS = Table(TableName("landing", "orders"), COLUMNS, ("id",))
REPLICA = Replica("source.shop.shop.orders", ORDERS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def warehouse(file: Path) -> Iterator[DuckDBWarehouse]:
    with DuckDBWarehouse.open(file) as opened_here:
        yield opened_here


def join(warehouse: DuckDBWarehouse, replica: Replica, *rows: Row) -> None:
    staged = warehouse.stage(Load(replica.table, "replace", "load-1"), rows_of(replica.table, rows).to_reader())
    with warehouse.open_application("load-1") as application:
        application.join(replica, staged, 0)
        application.commit(1)


def apply(warehouse: DuckDBWarehouse, replica: Replica, *changes: Change) -> None:
    with warehouse.open_application("load-1") as application:
        application.apply(replica, changes_of(replica.table, changes))
        application.commit(2)


def rows(warehouse: DuckDBWarehouse, what: str = "landing.orders") -> list[tuple[object, ...]]:
    return warehouse._connection.cursor().execute(f"FROM {what} ORDER BY ALL").fetchall()


def insert(number: int) -> Change:
    return Change("insert", {"id": number, "name": f"order {number}"}, number, number)


def test_it_follows(warehouse: DuckDBWarehouse) -> None:
    assert isinstance(warehouse, Follows)


def test_rows_checkpoints_and_receipts_are_committed_together_or_not_at_all(warehouse: DuckDBWarehouse) -> None:
    join(warehouse, REPLICA)
    point = Checkpoint(REPLICA.node, "shop_pg", "", "0/10", "7301/shop", "{}")
    for number, finishes in ((1, False), (2, True)):
        with warehouse.open_application("load-1") as application:
            loaded = application.apply(REPLICA, changes_of(ORDERS, [insert(number)]))
            receipt = start_receipt(
                "load-1", "cdc", REPLICA.node, origin="o", destination="d", table_name="t", write_disposition="merge"
            )
            if finishes:
                application.commit(16, [point], [finish_receipt(receipt, loaded)])
        assert rows(warehouse) == ([(2, "order 2")] if finishes else [])
        assert warehouse.checkpoints() == ([point] if finishes else [])
    assert [row[0] for row in rows(warehouse, "_dbt_bridge.receipts")] == ["load-1"]


def test_a_table_with_keys_indexes_and_defaults_of_somebody_keeps_them(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE SCHEMA landing")
        connection.execute(
            "CREATE TABLE landing.orders (id BIGINT PRIMARY KEY, name VARCHAR UNIQUE, mine VARCHAR DEFAULT 'new')"
        )
        connection.execute("INSERT INTO landing.orders SELECT range, 'order ' || range, 'old' FROM range(5)")
    with DuckDBWarehouse.open(file) as warehouse:
        for name in ("changed", "changed again"):
            swapped = Change("update", {"id": 1, "name": name}, 1, 1)
            apply(warehouse, REPLICA, swapped)
        moved = Change("update", {"id": 9, "name": "order 2"}, 2, 2, {"id": 2})
        apply(warehouse, REPLICA, moved, Change("delete", {"id": 3, "name": None}, 2, 2), insert(7))
        assert rows(warehouse) == [
            (0, "order 0", "old"),
            (1, "changed again", "old"),
            (4, "order 4", "old"),
            (7, "order 7", "new"),
            (9, "order 2", "old"),
        ]


def test_values_of_every_type_are_kept_while_other_columns_change(warehouse: DuckDBWarehouse) -> None:
    kept: Row = {
        "u": uuid.UUID(int=7),
        "j": '{"a":  1}',
        "d": Decimal("1.10"),
        "t": datetime(2024, 1, 1, 1, 2, 3, 4, UTC),
        "b": b"\x00\xff",
        "l": ["a", None],
    }
    types = (pa.uuid(), pa.json_(), pa.decimal128(38, 2), pa.timestamp("us", "UTC"), pa.binary(), pa.list_(pa.string()))
    columns = [Column(name, type_) for name, type_ in zip(kept, types, strict=True)]
    replica = Replica(REPLICA.node, Table(ORDERS.name, (*COLUMNS, *columns), ("id",)), history=True)
    join(warehouse, replica, {"id": 1, "name": "a", **kept})
    before = rows(warehouse)[0][2:]
    apply(warehouse, replica, Change("update", {"id": 1, "name": "b", **kept}, 1, 1, None, frozenset(kept)))
    assert rows(warehouse) == [(1, "b", *before)]
    assert [version[:8] for version in rows(warehouse, "landing.orders_history")] == [
        (1, "a", *before),
        (1, "b", *before),
    ]


@pytest.mark.parametrize("type_", ["TINYINT", "VARCHAR", "DECIMAL(2,0)"])
def test_a_type_that_somebody_changed_is_refused_where_a_value_would_be_lost(
    warehouse: DuckDBWarehouse, type_: str
) -> None:
    join(warehouse, REPLICA, {"id": 1, "name": "a"})
    warehouse._connection.cursor().execute(f"ALTER TABLE landing.orders ALTER COLUMN id TYPE {type_}")
    with pytest.raises(TypeRefused, match=r"column 'id' of landing\.orders"):
        apply(warehouse, REPLICA, insert(1000))
    assert len(rows(warehouse)) == 1


def test_a_wider_type_of_somebody_stays(warehouse: DuckDBWarehouse) -> None:
    join(warehouse, REPLICA, {"id": 1, "name": "a"})
    warehouse._connection.cursor().execute("ALTER TABLE landing.orders ALTER COLUMN id TYPE HUGEINT")
    apply(warehouse, REPLICA, insert(2), Change("update", {"id": 1, "name": "b"}, 3, 3))
    assert rows(warehouse) == [(1, "b"), (2, "order 2")]


def test_columns_that_change_after_rows_did_in_one_transaction(warehouse: DuckDBWarehouse) -> None:
    join(warehouse, REPLICA, {"id": 1, "name": "a"}, {"id": 2, "name": "b"})
    wider = (*COLUMNS, Column("n", pa.int32(), "integer"))
    longer = Replica(REPLICA.node, Table(ORDERS.name, wider, ("id",)))
    with warehouse.open_application("load-1") as application:
        gone = Change("delete", {"id": 1, "name": None}, 1, 1)
        application.apply(REPLICA, changes_of(ORDERS, [gone]))
        application.apply(REPLICA, Reshaped(wider))
        application.apply(longer, changes_of(longer.table, [Change("insert", {"id": 3, "name": "c", "n": 3}, 2, 2)]))
        widest = (*COLUMNS, Column("n", pa.int64(), "bigint"))
        application.apply(longer, Reshaped(widest))
        application.commit(3)
    assert rows(warehouse) == [(2, "b", None), (3, "c", 3)]
    assert [c.origin_type for c in warehouse.find_table(ORDERS.name).columns] == ["BIGINT", "VARCHAR", "BIGINT"]


def test_an_index_that_such_a_change_would_lose_has_the_table_copied_anew(warehouse: DuckDBWarehouse) -> None:
    join(warehouse, REPLICA, {"id": 1, "name": "a"})
    warehouse._connection.cursor().execute("CREATE INDEX mine ON landing.orders (name)")
    with warehouse.open_application("load-1") as application:
        application.apply(REPLICA, changes_of(ORDERS, [insert(2)]))
        with pytest.raises(CannotReshape, match="index"):
            application.apply(REPLICA, Reshaped((*COLUMNS, Column("n", pa.int32()))))
    assert rows(warehouse) == [(1, "a")]


def test_nothing_else_is_published_while_changes_are_applied(warehouse: DuckDBWarehouse) -> None:
    join(warehouse, REPLICA)
    other = pa.table({"id": [9], "name": ["merged"]})
    staged = warehouse.stage(Load(ORDERS, "merge", "load-2"), other.to_reader())
    order: list[str] = []
    publisher = threading.Thread(target=lambda: (warehouse.publish([staged]), order.append("published")))
    with warehouse.open_application("load-1") as application:
        application.apply(REPLICA, changes_of(ORDERS, [insert(9)]))
        publisher.start()
        publisher.join(timeout=0.2)
        order.append("committed")
        application.commit(2)
    publisher.join(timeout=180)
    assert order == ["committed", "published"]
    assert rows(warehouse) == [(9, "merged")]


def test_what_another_program_changed_at_the_same_time_is_told_and_undone(warehouse: DuckDBWarehouse) -> None:
    join(warehouse, REPLICA, {"id": 1, "name": "a"}, {"id": 2, "name": "b"})
    changed = Change("update", {"id": 1, "name": "c"}, 1, 1)
    with (
        pytest.raises(DestinationError, match=r"landing\.orders.*\n.*run the same command again"),
        warehouse.open_application("load-1") as application,
    ):
        application.apply(REPLICA, changes_of(ORDERS, [Change("delete", {"id": 2, "name": None}, 1, 1)]))
        warehouse._connection.cursor().execute("DELETE FROM landing.orders WHERE id = 1")
        application.apply(REPLICA, changes_of(ORDERS, [changed]))
    assert rows(warehouse) == [(2, "b")]


def test_a_huge_transaction_is_not_kept_in_memory(warehouse: DuckDBWarehouse) -> None:
    join(warehouse, REPLICA)
    size, pieces = 50_000, 10

    def piece(number: int) -> Changes:
        ids = np.arange(number * size, (number + 1) * size)
        names = pa.array(["a name of some length " * 3] * size)
        kind, lsn = np.full(size, INSERT, np.uint8), np.full(size, 7)
        return Changes(pa.table({"id": ids, "name": names}), kind, lsn, lsn)

    with warehouse.open_application("load-1") as application:
        application.apply(REPLICA, piece(0))
        before = pa.total_allocated_bytes()
        for number in range(1, pieces):
            application.apply(REPLICA, piece(number))
        assert pa.total_allocated_bytes() - before < piece(0).rows.nbytes
        application.commit(8)
    assert rows(warehouse, "(SELECT count(*), count(DISTINCT id) FROM landing.orders)") == [(size * pieces,) * 2]


def test_rows_that_change_again_and_again_do_not_make_the_file_grow(file: Path) -> None:
    numbers = range(1000)
    with DuckDBWarehouse.open(file) as warehouse:
        join(warehouse, REPLICA, *({"id": n, "name": f"order {n}"} for n in numbers))
        for turn in range(100):
            apply(warehouse, REPLICA, *(Change("update", {"id": n, "name": f"{turn} {n}"}, turn, 1) for n in numbers))
        assert len(rows(warehouse)) == 1000
    assert file.stat().st_size < 3_000_000
