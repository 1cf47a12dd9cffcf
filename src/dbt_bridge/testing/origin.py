"""What every origin must do. Subclass `OriginTests` in a module of tests, and give it a `bench`:

class TestJsonl(OriginTests):
    @pytest.fixture
    def bench(self, tmp_path):
        return JsonlBench(tmp_path)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa
import pytest

from dbt_bridge.contracts.origin import Increment, Origin
from dbt_bridge.errors import OriginError, UsageError
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.system.owned_reader import owning

Row = dict[str, Any]
PEOPLE: list[Row] = [
    {"id": 3, "name": "it's", "score": 0.5},
    {"id": 1, "name": None, "score": None},
    {"id": 20, "name": "naïve 東京", "score": -1.25},
    {"id": 4, "name": "", "score": 1e300},
]
TYPES = pa.schema([pa.field("id", pa.int64()), pa.field("name", pa.string()), pa.field("score", pa.float64())])


class Bench(Protocol):
    """A database in which nobody else writes.

    Attributes:
        schema: where `create` makes its tables.
        has_keys: whether it knows primary keys.
    """

    schema: str
    has_keys: bool

    def create(self, name: str, rows: pa.Table) -> None:
        """A table with the columns of `TYPES`, whose primary key is `id` where there are keys."""

    def open(self) -> Origin:
        """The origin, anew each time."""


class OriginTests:
    """Needs the fixture `bench`."""

    @pytest.fixture
    def people(self, bench: Bench) -> TableName:
        bench.create("people", pa.Table.from_pylist(PEOPLE, TYPES))
        return TableName(bench.schema, "people")

    def test_its_tables_are_listed_in_order(self, bench: Bench, people: TableName) -> None:
        bench.create("animals", TYPES.empty_table())
        with bench.open() as origin:
            assert origin.tables(bench.schema) == [TableName(bench.schema, "animals"), people]

    def test_a_table_has_its_columns_in_order_and_its_key(self, bench: Bench, people: TableName) -> None:
        table = describe(bench, people)
        assert table.name == people
        assert [column.name for column in table.columns] == TYPES.names
        assert pa.types.is_integer(table.columns[0].type)
        assert pa.types.is_string(table.columns[1].type)
        assert pa.types.is_floating(table.columns[2].type)
        assert table.key == (("id",) if bench.has_keys else ())

    def test_a_schema_that_is_not_named_is_the_default_one(self, bench: Bench, people: TableName) -> None:
        with bench.open() as origin:
            assert origin.describe(TableName("", people.name)).table.name.name == people.name
            assert people.name in [name.name for name in origin.tables(None)]

    def test_a_table_that_is_not_there_is_an_error_of_the_origins(self, bench: Bench, people: TableName) -> None:
        with bench.open() as origin, pytest.raises(OriginError, match="nobody"):
            origin.describe(TableName(bench.schema, "nobody"))

    def test_rows_come_in_the_types_of_their_columns(self, bench: Bench, people: TableName) -> None:
        table = describe(bench, people)
        with bench.open() as origin:
            rows = origin.rows(people, table.columns).read_all()
            assert rows.schema.types == [column.type for column in table.columns]
            assert by_id(rows) == sorted(PEOPLE, key=lambda row: row["id"])
            assert origin.count(people) == len(PEOPLE)

    def test_only_the_wanted_columns_come_in_the_wanted_order(self, bench: Bench, people: TableName) -> None:
        wanted = [columns(bench, people)[name] for name in ("score", "id")]
        with bench.open() as origin:
            rows = origin.rows(people, wanted).read_all()
        assert rows.column_names == ["score", "id"]
        assert by_id(rows)[-1] == {"score": -1.25, "id": 20}

    def test_a_column_may_travel_as_the_origins_own_text(self, bench: Bench, people: TableName) -> None:
        wanted = [columns(bench, people)["id"].as_text(), columns(bench, people)["name"]]
        with bench.open() as origin:
            rows = origin.rows(people, wanted).read_all()
        assert rows.schema.field("id").type == pa.string()
        assert sorted(rows["id"].to_pylist()) == ["1", "20", "3", "4"]

    def test_several_workers_read_the_same_rows(self, bench: Bench, people: TableName) -> None:
        with bench.open() as origin:
            rows = origin.rows(people, describe(bench, people).columns, workers=4).read_all()
        assert by_id(rows) == sorted(PEOPLE, key=lambda row: row["id"])

    def test_a_table_without_rows_has_its_columns(self, bench: Bench) -> None:
        bench.create("nobodies", TYPES.empty_table())
        name = TableName(bench.schema, "nobodies")
        with bench.open() as origin:
            table = origin.describe(name).table
            assert origin.rows(name, table.columns).read_all().column_names == TYPES.names
            assert origin.count(name) == 0
            assert origin.newest(name, "id") is None

    def test_keys_find_their_rows_and_null_equals_null(self, bench: Bench, people: TableName) -> None:
        known = columns(bench, people)
        with bench.open() as origin:
            keys = pa.table({"id": pa.array([4, 20, 99], known["id"].type)})
            assert find_ids(origin, people, list(known.values()), keys) == [4, 20]
            names = pa.table({"name": pa.array([None, "it's", "absent"], known["name"].type)})
            assert find_ids(origin, people, [known["id"]], names) == [1, 3]
            both = pa.table({"id": pa.array([1, 3], known["id"].type), "name": pa.array([None, "other"], pa.string())})
            assert find_ids(origin, people, [known["id"]], both) == [1]
            assert find_ids(origin, people, [known["id"]], keys.slice(0, 0)) == []

    def test_an_increment_begins_at_its_checkpoint(self, bench: Bench, people: TableName) -> None:
        wanted = describe(bench, people).columns
        with bench.open() as origin:
            newest = origin.newest(people, "id")
            assert newest == "20"
            rows = origin.rows(people, wanted, Increment("id", newest)).read_all()
            assert rows["id"].to_pylist() == [20]
            first = origin.rows(people, wanted, Increment("id", ordered=True)).read_all()
            assert first["id"].to_pylist() == [1, 3, 4, 20]
            late = Increment("id", "4", lag=1)
            assert origin.lower_bound(people, late) == "3"
            assert sorted(origin.rows(people, wanted, late).read_all()["id"].to_pylist()) == [3, 4, 20]

    @pytest.mark.parametrize("cursor", ["absent", "name", "score"])  # no column, no order in time, a NULL
    def test_what_cannot_order_is_no_cursor(self, bench: Bench, people: TableName, cursor: str) -> None:
        with bench.open() as origin, pytest.raises(UsageError, match=cursor):
            origin.newest(people, cursor)

    def test_rows_that_nobody_reads_to_their_end_hold_nothing_up(self, bench: Bench, people: TableName) -> None:
        """Whoever asked for rows ends them, also where an error's traceback still refers to the reader."""
        wanted = describe(bench, people).columns
        with bench.open() as origin:
            with pytest.raises(ValueError) as kept, owning(origin.rows(people, wanted)) as rows:
                rows.read_next_batch()
                raise ValueError("refused in the middle")
            assert kept.value.__traceback__ is not None
            assert origin.count(people) == len(PEOPLE)
            assert by_id(origin.rows(people, wanted).read_all()) == sorted(PEOPLE, key=lambda row: row["id"])

    def test_it_may_be_closed_twice(self, bench: Bench, people: TableName) -> None:
        origin = bench.open()
        origin.count(people)
        origin.close()
        origin.close()


def describe(bench: Bench, name: TableName) -> Table:
    with bench.open() as origin:
        table = origin.describe(name).table
    return replace(table, columns=tuple(table.columns))


def columns(bench: Bench, name: TableName) -> dict[str, Column]:
    return {column.name: column for column in describe(bench, name).columns}


def find_ids(origin: Origin, name: TableName, wanted: list[Column], keys: pa.Table) -> list[int]:
    return sorted(origin.rows_of(name, wanted, keys).read_all()["id"].to_pylist())


def by_id(rows: pa.Table) -> list[Row]:
    return sorted(rows.to_pylist(), key=lambda row: int(row["id"]))
