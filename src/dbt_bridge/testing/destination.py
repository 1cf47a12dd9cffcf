"""What every destination must do. Subclass `DestinationTests` in a module of tests, and give it a `bench`:

class TestJsonl(DestinationTests):
    @pytest.fixture
    def bench(self, tmp_path):
        return DestinationBench(JsonlDestination("files", tmp_path), read)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from dbt_bridge.contracts.destination import WRITE_DISPOSITIONS, Destination, Load, Loaded, Window, WriteDisposition
from dbt_bridge.errors import BridgeError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.table import Column, Table, TableName

Row = dict[str, Any]
NAME = TableName("landing", "people")
SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("note", pa.string())])
VALUES: dict[pa.DataType, list[Any]] = {
    pa.int64(): [2**62, -1, None],
    pa.float64(): [1e300, -0.5, None],
    pa.bool_(): [True, False, None],
    pa.string(): ["it's", 'say "no"', "", "NULL", "a\nb\t\\", "naïve 東京", None],
    pa.decimal128(12, 2): [Decimal("9999999999.99"), Decimal("-0.01"), None],
    pa.date32(): [date(1, 1, 1), date(9999, 12, 31), None],
    pa.timestamp("us"): [datetime(2024, 2, 29, 23, 59, 59, 999_999), None],
    pa.timestamp("us", "UTC"): [datetime(1999, 12, 31, tzinfo=UTC), None],
    pa.binary(): [b"\x00\xff", b"", None],
}


@dataclass(frozen=True, slots=True)
class DestinationBench:
    """A destination that holds nothing yet.

    Attributes:
        read_table: a table's rows as dicts, in the types with which they were written.
    """

    destination: Destination
    read_table: Callable[[Table], list[Row]]

    def read(self, name: TableName, schema: pa.Schema = SCHEMA) -> list[Row]:
        return self.read_table(Table.of_schema(name, schema))

    def load(self, rows: pa.Table, disposition: WriteDisposition = "replace", **more: Any) -> Loaded:
        return self.destination.load(load_of(rows, disposition, **more), rows.to_reader())

    def ids(self, name: TableName = NAME) -> list[int]:
        return sorted(row["id"] for row in self.read(name))


def load_of(
    rows: pa.Table, disposition: WriteDisposition, *, key: tuple[str, ...] = (), name: TableName = NAME, **more: Any
) -> Load:
    return Load(Table.of_schema(name, rows.schema, key), disposition, "load-1", **more)


def people(*ids: int | None, note: str | None = None) -> pa.Table:
    return pa.table([pa.array(ids, pa.int64()), pa.array([note] * len(ids), pa.string())], schema=SCHEMA)


class DestinationTests:
    """Needs the fixture `bench`.

    Attributes:
        merges: whether rows are merged by a key; a destination that cannot refuses to.
        has_windows: whether a window of a table is brought again; likewise.
    """

    merges = True
    has_windows = True

    @contextmanager
    def refused_unless(self, can: bool) -> Iterator[None]:
        with nullcontext() if can else pytest.raises(UsageError):
            yield

    @pytest.mark.parametrize("type_", VALUES, ids=str)
    def test_values_are_kept_exactly_or_their_type_is_refused(
        self, bench: DestinationBench, type_: pa.DataType
    ) -> None:
        column = Column("value", type_)
        try:
            landing = bench.destination.map_column(column)
        except TypeRefused:
            return
        if landing.type != type_:
            assert landing.type == pa.string(), "what it lacks travels as text"
            return
        values = VALUES[type_]
        rows = pa.table({"id": pa.array(range(len(values)), pa.int64()), "value": pa.array(values, type_)})
        assert bench.load(rows).rows_loaded == len(values)
        assert [row["value"] for row in sorted(bench.read(NAME, rows.schema), key=lambda row: row["id"])] == values

    def test_a_replaced_table_holds_exactly_the_new_rows(self, bench: DestinationBench) -> None:
        assert bench.destination.find_table(NAME) is None
        bench.load(people(1, 2))
        assert bench.load(people(3, note="new")).rows_loaded == 1
        assert bench.read(NAME) == [{"id": 3, "note": "new"}]
        table = bench.destination.find_table(NAME)
        assert table is not None and [column.name for column in table.columns] == ["id", "note"]

    def test_nothing_leaves_an_empty_table_with_its_columns(self, bench: DestinationBench) -> None:
        bench.load(people(1, 2))
        assert bench.load(people()).rows_loaded == 0
        assert bench.read(NAME) == []
        table = bench.destination.find_table(NAME)
        assert table is not None and [column.name for column in table.columns] == ["id", "note"]

    def test_appended_rows_are_added(self, bench: DestinationBench) -> None:
        bench.load(people(1), "append")
        bench.load(people(1, 2), "append")
        assert bench.ids() == [1, 1, 2]

    def test_a_window_is_brought_again(self, bench: DestinationBench) -> None:
        bench.load(people(1, 2, 10), "append")
        with self.refused_unless(self.has_windows):
            bench.load(people(2, 10, 11), "append", window=Window("id", "2"))
        assert bench.ids() == ([1, 2, 10, 11] if self.has_windows else [1, 2, 10])

    def test_a_merge_leaves_one_row_for_a_key_and_the_last_one_wins(self, bench: DestinationBench) -> None:
        bench.load(people(1, 2, note="old"))
        rows = pa.concat_tables([people(2, 3, note="new"), people(3, note="newest")])
        with self.refused_unless(self.merges):
            loaded = bench.load(rows, "merge", key=("id",))
            assert loaded.rows_inserted in (1, None) and loaded.rows_updated in (1, None), loaded
        notes = {row["id"]: row["note"] for row in bench.read(NAME)}
        assert notes == ({1: "old", 2: "new", 3: "newest"} if self.merges else {1: "old", 2: "old"})

    def test_versions_of_a_key_are_replaced_by_the_last_one(self, bench: DestinationBench) -> None:
        rows = pa.concat_tables([people(1, note="first"), people(1, note="last")])
        with self.refused_unless(self.merges):
            bench.load(rows, "replace", key=("id",), one_per_key=True)
            assert bench.read(NAME) == [{"id": 1, "note": "last"}]

    @pytest.mark.parametrize("key", [(), ("absent",), ("id",)], ids=["none", "absent", "NULL"])
    def test_a_merge_without_a_key_changes_nothing(self, bench: DestinationBench, key: tuple[str, ...]) -> None:
        bench.load(people(1))
        with pytest.raises(KeyRefused if self.merges else (KeyRefused, UsageError)):
            bench.load(people(2, None), "merge", key=key)
        assert bench.ids() == [1]

    @pytest.mark.parametrize("disposition", ["replace", "append", "merge"])
    def test_rows_that_break_off_leave_the_table_as_it_was(
        self, bench: DestinationBench, disposition: WriteDisposition
    ) -> None:
        bench.load(people(1, 2))
        rows = people(1, 3)

        def broken() -> Iterator[pa.RecordBatch]:
            yield from rows.to_batches()
            raise BridgeError("the origin broke off")

        with pytest.raises(BridgeError):
            load = load_of(rows, disposition, key=("id",))
            bench.destination.load(load, pa.RecordBatchReader.from_batches(rows.schema, broken()))
        assert bench.ids() == [1, 2]

    def test_a_preview_counts_and_writes_nothing(self, bench: DestinationBench) -> None:
        bench.load(people(1, 2))
        rows = people(2, 3)
        for disposition in WRITE_DISPOSITIONS[: 3 if self.merges else 2]:
            loaded = bench.destination.preview(load_of(rows, disposition, key=("id",)), rows.to_reader())
            assert loaded.rows_loaded == 2
        assert bench.ids() == [1, 2]

    def test_a_preview_of_a_new_table_makes_none(self, bench: DestinationBench) -> None:
        rows = people(1)
        assert bench.destination.preview(load_of(rows, "replace"), rows.to_reader()).rows_loaded == 1
        assert bench.destination.find_table(NAME) is None

    def test_two_tables_are_two(self, bench: DestinationBench) -> None:
        other = TableName("landing", "people_2")
        bench.load(people(1))
        bench.load(people(2), name=other)
        assert (bench.ids(), bench.ids(other)) == ([1], [2])
