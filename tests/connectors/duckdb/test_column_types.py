"""Arrow types in DuckDB: each value comes back equal, or the column is refused."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest

from dbt_bridge.arrow.python_frames import cast_reader
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Column, Table, TableName

NAME = TableName("landing", "t")
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def warehouse():
    with DuckDBWarehouse.open(":memory:") as opened:
        yield opened


def landed(warehouse, array):
    """The array's SQL type in DuckDB and its values as they are read again."""
    column = warehouse.map_column(Column("c", array.type))
    source = pa.RecordBatchReader.from_batches(
        pa.schema({"c": array.type}), [pa.record_batch([array], schema=pa.schema({"c": array.type}))]
    )
    batches = cast_reader(source, lambda _: column.type, str(NAME))
    warehouse.load(Load(Table(NAME, (column,)), "replace", "load-1"), batches)
    return warehouse.find_table(NAME).columns[0].origin_type, warehouse.read(NAME).read_all().column(0).to_pylist()


KEPT = [
    ("UUID", pa.uuid(), [ID, None]),
    ("JSON", pa.json_(), ['{"a": [1]}', None]),
    ("DECIMAL(38,10)", pa.decimal128(38, 10), [Decimal("9" * 28 + "." + "9" * 10), None]),
    ("DECIMAL(5,2)", pa.decimal32(5, 2), [Decimal("-999.99")]),
    ("DECIMAL(30,3)", pa.decimal256(30, 3), [Decimal("0.001")]),
    ("TIME", pa.time64("us"), [dt.time(23, 59, 59, 999999)]),
    ("TIME", pa.time32("s"), [dt.time(1, 2, 3)]),
    ("TIMESTAMP", pa.timestamp("s"), [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)]),
    ("TIMESTAMP", pa.timestamp("ms"), [dt.datetime(2026, 1, 1, microsecond=1000)]),
    ("TIMESTAMP WITH TIME ZONE", pa.timestamp("us", "Europe/Berlin"), [MOMENT]),
    ("VARCHAR", pa.dictionary(pa.int32(), pa.string()), ["a", None, "a"]),
    ("VARCHAR", pa.large_string(), ["\N{SNOWMAN}\n'"]),
    ("VARCHAR", pa.string_view(), ["a" * 30, None]),
    ("VARCHAR", pa.null(), [None]),
    ("FLOAT", pa.float16(), [1.5, None]),
    ("UBIGINT", pa.uint64(), [2**64 - 1]),
    ("DATE", pa.date64(), [dt.date(2026, 1, 2)]),
    ("BLOB", pa.binary(4), [b"\x00ab\xff"]),
    ("INTEGER[]", pa.list_(pa.int32()), [[1, None], [], None]),
    ("INTEGER[2]", pa.list_(pa.int32(), 2), [[1, 2]]),
    ("FLOAT[]", pa.large_list(pa.float16()), [[0.5]]),
    ("DATE[]", pa.list_(pa.date32()), [[dt.date(2026, 1, 2)]]),
    ("DECIMAL(6,2)[]", pa.list_(pa.decimal128(6, 2)), [[Decimal("1.10")]]),
    ("STRUCT(a INTEGER, b VARCHAR)", pa.struct({"a": pa.int32(), "b": pa.string()}), [{"a": 1, "b": None}]),
    ("MAP(VARCHAR, INTEGER)", pa.map_(pa.string(), pa.int32()), [[("k", 1)]]),
]


@pytest.mark.parametrize(("sql", "type_", "values"), KEPT, ids=[str(t) for _, t, _ in KEPT])
def test_every_value_comes_back_equal(warehouse, sql, type_, values):
    assert landed(warehouse, pa.array(values, type_)) == (sql, values)


def test_an_interval_keeps_months_days_and_microseconds(warehouse):
    interval = pa.MonthDayNano([14, -3, 5_000])
    assert landed(warehouse, pa.array([interval])) == ("INTERVAL", [interval])


def test_decimals_beyond_38_digits_are_text(warehouse):
    value = Decimal("1" * 60 + ".5")
    assert landed(warehouse, pa.array([value], pa.decimal256(61, 1))) == ("VARCHAR", [str(value)])


@pytest.mark.parametrize(
    "array",
    [
        pa.array([{}], pa.struct([])),
        pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
    ],
    ids=["struct without fields", "union"],
)
def test_a_type_without_a_form_is_refused_and_the_choice_named(warehouse, array):
    with pytest.raises(TypeRefused, match="column 'c'") as refused:
        landed(warehouse, array)
    assert "types: {c: text}" in str(refused.value)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1], pa.timestamp("ns", "UTC")),
        pa.array([1], pa.duration("ns")),
        pa.array([2**62], pa.timestamp("s")),
    ],
    ids=str,
)
def test_a_value_that_microseconds_cannot_hold_is_refused(warehouse, array):
    with pytest.raises(TypeRefused, match="column 'c'"):
        landed(warehouse, array)


def test_types_that_only_duckdb_has_are_read_without_loss(warehouse):
    cur = warehouse._connection.cursor()
    cur.execute("CREATE SCHEMA IF NOT EXISTS landing")
    cur.execute(
        "CREATE OR REPLACE TABLE landing.own AS SELECT sum(range) AS total, '01'::BIT AS bits, "
        "'10:00:00+02'::TIMETZ AS at, 'a'::ENUM('a', 'b') AS kind FROM range(4)"
    )
    rows = warehouse.read(TableName("landing", "own")).read_all().to_pylist()
    assert rows == [{"total": Decimal(6), "bits": "01", "at": "10:00:00+02", "kind": "a"}]
    texts = warehouse.read(TableName("landing", "own"), ["total"], as_text=["total"]).read_all().to_pylist()
    assert texts == [{"total": "6"}]
