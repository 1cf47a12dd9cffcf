"""What every ledger and every warehouse must do; its loads are tested by `testing/destination.py`.

class TestSnow(WarehouseTests):
    @pytest.fixture
    def ledger(self, tmp_path):
        with SnowWarehouse.open(...) as opened:
            yield opened
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from dbt_bridge.contracts.destination import Ledger, Load, Loaded, Staged, Warehouse
from dbt_bridge.errors import DestinationError, KeyRefused
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.parity import Aggregate, Difference, Parity
from dbt_bridge.nouns.parity_row import PARITY as PARITY_TABLE
from dbt_bridge.nouns.parity_row import as_arrow
from dbt_bridge.nouns.receipt import RECEIPTS, Receipt, finish_receipt, start_receipt
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
    rows_origin=None,
    rows_destination=None,
    bytes=None,
    only_in_origin=None,
    only_in_destination=None,
    different=None,
    duplicates=None,
)
NODE = "source.shop.shop.orders"
ROWS = pa.table({"id": pa.array([1, 2, None], pa.int64()), "note": ["a", None, "it's"]})


def receipt_of(node: str = NODE, load_id: str = "20261121T153000000000-a1b2c3") -> Receipt:
    begun = start_receipt(
        load_id, "initial_copy", node, origin="shop_pg", destination="warehouse", table_name="landing.orders",
        write_disposition="replace",
    )  # fmt: skip
    return finish_receipt(begun, Loaded(3, 3, 0, 0, 42))


def receipts_in(ledger: Ledger) -> list[tuple[str, str, int]]:
    rows = ledger.read(RECEIPTS.name).read_all().to_pylist()
    return sorted((row["load_id"], row["node"], row["rows_loaded"]) for row in rows)


def read_parity(ledger: Ledger) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ledger.read(PARITY).read_all().to_pylist()
    return sorted(rows, key=lambda row: str(row["node"]))


class LedgerTests:
    """Needs the fixtures `ledger`: a new one, that holds nothing yet; and `ask`: what it answers to SQL by hand."""

    def test_a_checkpoint_is_kept_until_it_is_forgotten(self, ledger: Ledger) -> None:
        assert (ledger.checkpoint(NODE), ledger.checkpoints()) == (None, [])
        first = Checkpoint(NODE, "shop_pg", "updated_at", "2024-01-01 00:00:00+00")
        other = Checkpoint("source.shop.shop.items", "shop_pg", "", "0/16B3748", slot="7/it's", shape='{"a": "é"}')
        ledger.save([first, other], [])
        ledger.save([replace(first, value="2024-01-02 00:00:00+00")], [])
        assert ledger.checkpoint(NODE) == replace(first, value="2024-01-02 00:00:00+00")
        assert ledger.checkpoint(other.node) == other
        assert sorted(point.node for point in ledger.checkpoints()) == [other.node, NODE]
        ledger.forget(NODE)
        assert ledger.checkpoints() == [other]
        ledger.forget(NODE)

    def test_receipts_are_appended(self, ledger: Ledger) -> None:
        ledger.record([receipt_of(load_id="1")])
        ledger.save([], [receipt_of(load_id="2"), receipt_of("source.shop.shop.items", load_id="2")])
        assert receipts_in(ledger) == [("1", NODE, 3), ("2", "source.shop.shop.items", 3), ("2", NODE, 3)]

    def test_a_relation_is_read_whole_in_part_and_as_text(self, ledger: Ledger) -> None:
        name = TableName("landing", "orders")
        ledger.load(Load(Table.of_schema(name, ROWS.schema), "replace", "1"), ROWS.to_reader())
        whole = ledger.read(name).read_all()
        assert sorted(whole.to_pylist(), key=repr) == sorted(ROWS.to_pylist(), key=repr)
        part = ledger.read(name, ["note", "id"], ["id"]).read_all()
        assert part.column_names == ["note", "id"]
        assert sorted(part["id"].to_pylist(), key=repr) == ["1", "2", None]
        with pytest.raises(DestinationError, match="absent"):
            ledger.read(TableName("landing", "absent")).read_all()

    def test_every_comparison_is_a_row_with_its_exact_counts(self, ledger: Ledger) -> None:
        ledger.record_parity([])
        assert ledger.find_table(PARITY) is None

        ledger.record_parity([ORDERS.as_row(), FAILED.as_row()])
        ledger.record_parity([replace(ORDERS, node="source.shop.shop.zones", status="equal").as_row()])

        items, orders, zones = read_parity(ledger)
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

    def test_no_value_of_a_row_is_kept(self, ledger: Ledger) -> None:
        ledger.record_parity([ORDERS.as_row()])

        (row,) = read_parity(ledger)

        assert not [value for value in row.values() if "secret" in str(value) or "4711" in str(value)]
        assert json.loads(row["aggregates"]) == [
            {"column": "amount", "what": "sum", "variance": 0.1},
            {"column": "amount", "what": "max", "variance": None},
        ]

    def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks(self, ledger: Ledger) -> None:
        earlier = as_arrow([ORDERS.as_row()]).drop_columns(["in_flight", "allowed"])
        ledger.load(Load(Table.of_schema(PARITY, earlier.schema), "append", "load-0"), earlier.to_reader())

        ledger.record_parity([FAILED.as_row()])

        assert [(row["node"], row["in_flight"], row["rows_origin"]) for row in read_parity(ledger)] == [
            (FAILED.node, 7, None),
            (ORDERS.node, None, 5_000_000_000),
        ]

    def test_moving_rows_alone_makes_no_table_of_comparisons(self, ledger: Ledger) -> None:
        ledger.record([])
        ledger.checkpoints()

        assert ledger.find_table(PARITY) is None

    def test_its_columns_can_be_written_without_quotes(
        self, ledger: Ledger, ask: Callable[[str], list[tuple[Any, ...]]]
    ) -> None:
        """A user queries it by hand, and dbt models do not quote either."""
        ledger.record_parity([ORDERS.as_row()])
        names = ", ".join(column.name for column in PARITY_TABLE.columns)
        found = ask(f"SELECT {names} FROM _dbt_bridge.parity WHERE state = 'LSN 0/16B3748'")  # noqa: S608
        assert [row[1] for row in found] == [ORDERS.node]


class WarehouseTests(LedgerTests):
    """The same, and transactions over many tables. Needs the same fixtures; `ledger` is a `Warehouse`."""

    def test_what_is_staged_shows_only_when_it_is_published(self, ledger: Warehouse) -> None:
        first, second = stage(ledger, "orders"), stage(ledger, "items")
        assert ledger.find_table(first.load.table.name) is None
        counted: list[Loaded] = []

        def receipts(loaded: Sequence[Loaded]) -> list[Receipt]:
            counted.extend(loaded)
            return [receipt_of()]

        point = Checkpoint(NODE, "shop_pg", "id", "2")
        loaded = ledger.publish([first, second], [point], receipts)
        assert [one.rows_loaded for one in loaded] == [3, 3] == [one.rows_loaded for one in counted]
        assert ledger.read(second.load.table.name).read_all().num_rows == 3
        assert ledger.checkpoint(NODE) == point
        assert len(receipts_in(ledger)) == 1

    def test_what_fails_while_it_is_published_never_was(self, ledger: Warehouse) -> None:
        ledger.publish([stage(ledger, "orders", ROWS.slice(0, 1))])
        staged = stage(ledger, "orders")

        def broken(loaded: Sequence[Loaded]) -> list[Receipt]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            ledger.publish([staged], [Checkpoint(NODE, "shop_pg", "id", "2")], broken)
        assert ledger.read(staged.load.table.name).read_all().num_rows == 1
        assert ledger.checkpoint(NODE) is None
        ledger.discard([staged])

    def test_what_cannot_be_merged_is_refused_before_it_is_published(self, ledger: Warehouse) -> None:
        with pytest.raises(KeyRefused, match="id"):
            stage(ledger, "orders", key=("id",), disposition="merge")
        ledger.discard()
        assert ledger.find_table(TableName("landing", "orders")) is None


def stage(
    ledger: Warehouse, name: str, rows: pa.Table = ROWS, key: tuple[str, ...] = (), disposition: Any = "replace"
) -> Staged:
    table = Table.of_schema(TableName("landing", name), rows.schema, key)
    return ledger.stage(Load(table, disposition, "load-1"), rows.to_reader())
