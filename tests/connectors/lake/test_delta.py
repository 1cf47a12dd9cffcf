"""Rows land in Delta tables: one load is one commit, and what Delta cannot keep is refused before it."""

from __future__ import annotations

import datetime as dt
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.contracts.destination import Load, Loaded, Window
from dbt_bridge.errors import DestinationError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.table import Column, Table, TableName

ORDERS = TableName("landing", "orders")


@pytest.fixture
def lake(tmp_path: Path) -> DeltaDestination:
    return DeltaDestination("lake", Lake(str(tmp_path)))


def request(rows: pa.Table, disposition: Any, key: tuple[str, ...] = (), **also: Any) -> Load:
    return Load(Table.of_schema(also.pop("name", ORDERS), rows.schema, key), disposition, "load-1", **also)


def arrive(
    lake: DeltaDestination, rows: pa.Table, disposition: Any = "replace", key: tuple[str, ...] = (), **also: Any
) -> Loaded:
    return lake.load(request(rows, disposition, key, **also), rows.to_reader())


def delta(lake: DeltaDestination, name: TableName = ORDERS) -> DeltaTable:
    return DeltaTable(lake._lake.folder(name))


def rows_of(lake: DeltaDestination, name: TableName = ORDERS) -> list[tuple[Any, ...]]:
    rows = delta(lake, name).to_pyarrow_table().to_pylist()
    return sorted((tuple(row.values()) for row in rows), key=repr)


def people(*rows: tuple[int | None, str | None]) -> pa.Table:
    return pa.table(
        {"id": pa.array([r[0] for r in rows], pa.int64()), "name": pa.array([r[1] for r in rows], pa.string())}
    )


def test_replace_leaves_exactly_the_new_rows_in_one_commit(lake: DeltaDestination) -> None:
    arrive(lake, people((1, "a"), (2, "b")))
    loaded = arrive(lake, people((3, "c")))
    assert (loaded.rows_inserted, loaded.rows_updated, loaded.rows_deleted) == (1, 0, 2)
    assert rows_of(lake) == [(3, "c")]
    assert delta(lake).version() == 1
    assert delta(lake).history(1)[0]["dbt_bridge_load_id"] == "load-1"


def test_an_empty_replace_leaves_an_empty_table_with_its_columns(lake: DeltaDestination) -> None:
    arrive(lake, people((1, "a")))
    loaded = arrive(lake, people())
    assert (loaded.rows_inserted, loaded.rows_deleted) == (0, 1)
    assert rows_of(lake) == []
    existing = lake.find_table(ORDERS)
    assert existing is not None
    assert [(c.name, str(c.type)) for c in existing.columns] == [("id", "int64"), ("name", "string")]


def test_a_replace_takes_other_types_and_columns(lake: DeltaDestination) -> None:
    arrive(lake, people((1, "a")))
    arrive(lake, pa.table({"id": ["x"], "other": [1.5]}))
    assert rows_of(lake) == [("x", 1.5)]


@pytest.mark.parametrize(
    ("type_", "values", "at_least"),
    [
        (pa.int64(), [1, 2, 3, 4], "2"),
        (pa.decimal128(10, 2), [Decimal(1), Decimal("2.50"), Decimal(3), Decimal(4)], "2.5"),
        (pa.date32(), [dt.date(2024, 1, d) for d in (1, 2, 3, 4)], "2024-01-02"),
        (pa.timestamp("us"), [dt.datetime(2024, 1, d, 1, 2, 3, 4) for d in (1, 2, 3, 4)], "2024-01-02 01:02:03.000004"),
        (
            pa.timestamp("us", "UTC"),
            [dt.datetime(2024, 1, d, 1, 2, 3, 4, dt.UTC) for d in (1, 2, 3, 4)],
            "2024-01-02 01:02:03.000004+00",
        ),
        (pa.decimal128(38, 5), [Decimal(10**9) + n for n in (1, 2, 3, 4)], "1000000002.00000"),
    ],
)
def test_append_adds_and_a_window_replaces_its_end_in_one_commit(
    lake: DeltaDestination, type_: pa.DataType, values: list[Any], at_least: str
) -> None:
    def table(*numbers: int, mark: str) -> pa.Table:
        return pa.table({"c": pa.array([values[n] for n in numbers], type_), "mark": [mark] * len(numbers)})

    arrive(lake, table(0, 1, 2, mark="old"), "append")
    late = table(1, 2, 3, mark="new")
    load = request(late, "append", window=Window("c", at_least))
    counted = lake.preview(load, late.to_reader())
    loaded = lake.load(load, late.to_reader())
    assert (loaded.rows_inserted, loaded.rows_deleted) == (counted.rows_inserted, counted.rows_deleted) == (3, 2)
    assert rows_of(lake) == sorted(
        [(values[0], "old"), (values[1], "new"), (values[2], "new"), (values[3], "new")], key=repr
    )
    assert delta(lake).version() == 1


def test_a_cursor_that_is_text_there_cannot_tell_rows(lake: DeltaDestination) -> None:
    nine = pa.table({"c": ["9"]})
    arrive(lake, nine, "append")
    with pytest.raises(TypeRefused, match="'c' lands as text"):
        lake.load(request(pa.table({"c": ["10"]}), "append", window=Window("c", "10")), nine.to_reader())
    assert rows_of(lake) == [("9",)]


def test_a_cursor_beyond_deltas_statistics_is_refused(lake: DeltaDestination) -> None:
    ids = pa.table({"c": pa.array([Decimal(10**19 + 1), Decimal(10**19 + 2)], pa.decimal128(20, 0))})
    arrive(lake, ids, "append")
    with pytest.raises(TypeRefused, match="15 digits"):
        lake.load(request(ids, "append", window=Window("c", str(10**19 + 2))), ids.slice(1).to_reader())
    assert len(rows_of(lake)) == 2


_keys = st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", ""]))
_batch = st.lists(st.tuples(_keys, st.none() | st.integers(-5, 5)), max_size=8)


@settings(max_examples=25, deadline=None)
@given(first=_batch, second=_batch)
def test_merge_is_a_dictionary_update(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[tuple[int, str], int | None]],
    second: list[tuple[tuple[int, str], int | None]],
) -> None:
    lake = DeltaDestination("lake", Lake(str(tmp_path_factory.mktemp("lake"))))
    schema = pa.schema([("i", pa.int64()), ("s", pa.string()), ("v", pa.int64())])
    model: dict[tuple[int, str], int | None] = {}
    for rows in (first, second):
        table = pa.Table.from_pylist([{"i": k[0], "s": k[1], "v": v} for k, v in rows], schema)
        load = request(table, "merge", ("i", "s"))
        previewed = lake.preview(load, table.to_reader())
        loaded = lake.load(load, table.to_reader())
        new = dict(rows)
        assert loaded.rows_loaded == len(rows)
        assert loaded.rows_inserted == previewed.rows_inserted == len(new.keys() - model.keys())
        assert loaded.rows_updated == previewed.rows_updated == len(new.keys() & model.keys())
        model |= new
    assert rows_of(lake) == sorted(((*k, v) for k, v in model.items()), key=repr)


def test_a_merge_into_doubled_keys_is_refused(lake: DeltaDestination) -> None:
    arrive(lake, people((1, "a"), (1, "b")))
    with pytest.raises(KeyRefused, match="several rows with the same key"):
        arrive(lake, people((1, "c")), "merge", ("id",))
    assert rows_of(lake) == [(1, "a"), (1, "b")]


@pytest.mark.parametrize(
    ("rows", "key", "message"),
    [
        (people((1, "a")), (), "needs a key"),
        (people((1, "a")), ("nope",), "'nope' is not among"),
        (people((None, "a")), ("id",), "holds NULL"),
    ],
)
def test_a_merge_without_a_usable_key_is_refused(
    lake: DeltaDestination, rows: pa.Table, key: tuple[str, ...], message: str
) -> None:
    with pytest.raises(KeyRefused, match=message):
        arrive(lake, rows, "merge", key)
    assert lake.find_table(ORDERS) is None


def test_new_columns_are_added_and_vanished_ones_stay(lake: DeltaDestination) -> None:
    arrive(lake, people((1, "a")))
    arrive(lake, pa.table({"id": [2], "age": pa.array([30], pa.int32())}), "append")
    assert rows_of(lake) == [(1, "a", None), (2, None, 30)]
    arrive(lake, pa.table({"id": [1, 3], "city": ["x", "y"]}), "merge", ("id",))
    assert rows_of(lake) == [(1, "a", None, "x"), (2, None, 30, None), (3, None, None, "y")]


def test_a_changed_type_is_refused_and_a_narrower_one_fits(lake: DeltaDestination) -> None:
    arrive(lake, people((1, "a")))
    arrive(lake, pa.table({"id": pa.array([2], pa.int16())}), "append")
    with pytest.raises(TypeRefused, match=r"'id' of landing\.orders is int64 and the new rows bring string"):
        arrive(lake, pa.table({"id": ["x"]}), "append")
    assert rows_of(lake) == [(1, "a"), (2, None)]


MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (pa.array([0, MOST], pa.timestamp("us")), "infinity"),
        (pa.array([-MOST], pa.timestamp("us", "UTC")), "-infinity"),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), "infinity"),
        (pa.array([253_402_300_800_000_000], pa.timestamp("us")), "the year 10000"),
        (pa.array([-719_163], pa.int32()).cast(pa.date32()), "the year 1 BC"),
        (pa.array([[MOST]], pa.list_(pa.timestamp("us"))), "infinity"),
    ],
)
def test_moments_outside_the_years_1_to_9999_are_refused_before_the_commit(
    lake: DeltaDestination, array: pa.Array, told: str
) -> None:
    rows = pa.table({"id": pa.array(range(len(array))), "seen": array})
    with pytest.raises(TypeRefused, match=f"landing.orders, column 'seen' holds .*{told}") as refused:
        arrive(lake, rows)
    assert "types: {seen: text}" in str(refused.value)
    assert lake.find_table(ORDERS) is None


def test_every_type_lands_as_documented(lake: DeltaDestination) -> None:
    types = {
        pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20, 0),
        pa.int8(): pa.int8(), pa.float16(): pa.float32(), pa.float64(): pa.float64(), pa.bool_(): pa.bool_(),
        pa.decimal128(38, 10): pa.decimal128(38, 10), pa.decimal256(50, 0): pa.string(), pa.binary(): pa.binary(),
        pa.date32(): pa.date32(), pa.timestamp("us"): pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin"):
        pa.timestamp("us", "UTC"), pa.time64("us"): pa.string(), pa.duration("us"): pa.string(),
        pa.month_day_nano_interval(): pa.string(), pa.uuid(): pa.string(), pa.json_(): pa.string(),
        pa.null(): pa.string(), pa.list_(pa.date32()): pa.list_(pa.date32()), pa.list_(pa.uuid()): pa.string(),
        pa.map_(pa.string(), pa.int32()): pa.map_(pa.string(), pa.int32()),
    }  # fmt: skip
    columns = tuple(lake.map_column(Column(f"c{i}", type_)) for i, type_ in enumerate(types))
    assert [c.type for c in columns] == list(types.values())
    table = Table(ORDERS, columns)
    lake.load(Load(table, "replace", "l"), table.arrow_schema.empty_table().to_reader())
    existing = lake.find_table(ORDERS)
    assert existing is not None
    assert [str(c.type).replace("element", "item").replace("entries", "") for c in existing.columns][:20] == [
        str(t) for t in types.values()
    ][:20]


def test_far_but_valid_moments_and_nanoseconds(lake: DeltaDestination) -> None:
    first, last = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
    arrive(lake, pa.table({"t": pa.array([first, last, None], pa.timestamp("us"))}))
    assert {row[0] for row in rows_of(lake)} == {first, last, None}
    with pytest.raises(TypeRefused, match="column 't'"):
        arrive(lake, pa.table({"t": pa.array([1001], pa.timestamp("ns"))}))


@pytest.mark.parametrize("hostile", ['"; DROP TABLE x; --', "múltí ♥", "x" * 63, "select", "a.b{}", "'", "a?b#c: d"])
def test_hostile_names_are_kept_exactly(lake: DeltaDestination, hostile: str) -> None:
    name = TableName(hostile, hostile)
    rows = pa.table({hostile: [1, 2], "v": ["a", "b"]})
    arrive(lake, rows, "replace", name=name)
    arrive(lake, rows, "append", name=name, window=Window(hostile, "1"))
    assert arrive(lake, rows, "merge", (hostile,), name=name).rows_updated == 2
    assert rows_of(lake, name) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("name", ["..", "a/b", "a\\b", "", "50%41"])
def test_a_name_that_is_no_folder_is_refused(lake: DeltaDestination, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a folder"):
        arrive(lake, people((1, "a")), name=TableName("landing", name))


_CHILD = """
import sys, pyarrow as pa
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.contracts.destination import Load
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.nouns.table import Table, TableName
schema = pa.schema([("id", pa.int64())])
def batches():
    for start in range(0, 100_000_000, 100_000):
        yield pa.RecordBatch.from_arrays([pa.array(range(start, start + 100_000))], schema=schema)
        print("batch", flush=True)
load = Load(Table.of_schema(TableName("landing", "orders"), schema), sys.argv[2], "l")
DeltaDestination("lake", Lake(sys.argv[1])).load(load, pa.RecordBatchReader.from_batches(schema, batches()))
"""


@pytest.mark.parametrize("disposition", ["replace", "append"])
def test_a_killed_load_leaves_the_old_table_and_a_retry_works(lake: DeltaDestination, disposition: str) -> None:
    arrive(lake, pa.table({"id": [1, 2]}))
    child = subprocess.Popen([sys.executable, "-c", _CHILD, lake._lake.url, disposition], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(5):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert rows_of(lake) == [(1,), (2,)]
    arrive(lake, pa.table({"id": [3]}), disposition)
    assert rows_of(lake) == ([(3,)] if disposition == "replace" else [(1,), (2,), (3,)])


def test_a_full_disk_is_told_and_the_old_rows_stay(lake: DeltaDestination) -> None:
    """The limit of the file size stands for it: writing breaks off with an error of the operating system."""
    arrive(lake, pa.table({"id": [1, 2]}))

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    program = _CHILD.replace("100_000_000", "1_000_000")
    done = subprocess.run(
        [sys.executable, "-c", program, lake._lake.url, "replace"],
        check=False, capture_output=True, text=True, preexec_fn=small_files,
    )  # fmt: skip
    assert done.returncode != 0
    assert "DestinationError: the Delta table landing.orders was not written" in done.stderr
    assert "free space" in done.stderr
    assert rows_of(lake) == [(1,), (2,)]


def test_an_error_of_the_origin_is_told_as_it_was(lake: DeltaDestination) -> None:
    arrive(lake, people((1, "a")))

    def breaking() -> Any:
        yield people((2, "b")).to_batches()[0]
        raise DestinationError("the origin broke off")

    load = request(people(), "replace")
    with pytest.raises(DestinationError, match="the origin broke off"):
        lake.load(load, pa.RecordBatchReader.from_batches(people().schema, breaking()))
    assert rows_of(lake) == [(1, "a")]


def test_a_replace_may_keep_the_last_version_of_each_key(lake: DeltaDestination) -> None:
    versions = people((1, "old"), (2, "b"), (1, "new"))
    load = replace(request(versions, "replace", ("id",)), one_per_key=True)
    loaded = lake.load(load, versions.to_reader())
    assert (loaded.rows_loaded, loaded.rows_inserted) == (3, 2)
    assert rows_of(lake) == [(1, "new"), (2, "b")]
