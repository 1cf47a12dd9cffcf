"""Any SQLAlchemy database as an origin, and cursor values: shown on Postgres behind SQLAlchemy's own dialect."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.connectors.sqlalchemy.casts import cast_exactly
from dbt_bridge.connectors.sqlalchemy.cursor import format_value, parse_value, subtract_lag
from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.contracts.origin import Increment
from dbt_bridge.errors import ConnectionFailed, OriginError, TypeRefused
from dbt_bridge.nouns.table import Column, TableName


@pytest.fixture
def sql(database: str) -> Iterator[SqlOrigin]:
    with SqlOrigin("any", database.replace("postgresql:", "postgresql+psycopg:")) as opened:
        yield opened


def test_types_values_and_keys_by_reflection(sql: SqlOrigin, origin: psycopg.Connection) -> None:
    origin.execute(
        "CREATE TABLE t (i smallint, n numeric(10,2), big numeric(60,30), bare numeric, f double precision, b boolean,"
        " d date, ts timestamp, tz timestamptz, x bytea, s varchar(9), u uuid, a int[], PRIMARY KEY (s, i))"
    )
    origin.execute("SET timezone = 'Asia/Kolkata'")
    origin.execute(
        "INSERT INTO t VALUES (1, 1.5, 1e-30, 1e-50, 0.1, true, '2024-02-29', '0001-01-01 00:00:00.000001',"
        " '2024-01-01 05:30:00.5+05:30', '\\x00ff', 'é', '123e4567-e89b-12d3-a456-426655440000', '{1,NULL}')"
    )
    origin.execute("INSERT INTO t (s, i) VALUES ('', 2)")
    table = sql.describe(TableName("public", "t")).table
    rows = sql.rows(table.name, table.columns).read_all().to_pydict()

    assert table.key == ("s", "i")
    assert [values[0] for values in rows.values()] == [
        1, Decimal("1.50"), Decimal("1E-30"), "0." + "0" * 49 + "1", 0.1, True, date(2024, 2, 29),
        datetime(1, 1, 1, 0, 0, 0, 1), datetime(2024, 1, 1, 0, 0, 0, 500000, tzinfo=UTC), b"\x00\xff", "é",
        "123e4567-e89b-12d3-a456-426655440000", "{1,NULL}",
    ]  # fmt: skip
    assert [values[1] for name, values in rows.items() if name not in ("i", "s")] == [None] * 11


def test_all_tables_are_of_one_moment(sql: SqlOrigin, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE t (n int)")
    assert sql.tables("public") == [TableName("public", "t")]
    assert sql.newest(TableName("public", "t"), "n") is None
    origin.execute("INSERT INTO t VALUES (1)")
    columns = sql.describe(TableName("public", "t")).table.columns
    assert sql.rows(TableName("public", "t"), columns).read_all().num_rows == 0


def test_increments(sql: SqlOrigin, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE t (id int, at timestamptz)")
    origin.execute(
        "INSERT INTO t SELECT n, timestamptz '2024-01-01 00:00Z' + n * interval '1 day' FROM generate_series(1, 5) n"
    )
    name = TableName("public", "t")
    columns = sql.describe(name).table.columns
    assert sql.newest(name, "at") == "2024-01-06 00:00:00+00:00"
    late = Increment("at", "2024-01-06 00:00:00+00:00", lag=86400)
    assert sql.rows(name, columns, late).read_all().to_pydict()["id"] == [4, 5]


def test_overrides_that_lose_something_are_refused(sql: SqlOrigin, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE t (n numeric(10,2))")
    origin.execute("INSERT INTO t VALUES (1.00), (2.50)")
    name = TableName("public", "t")
    column = Column("n", pa.int64(), "numeric(10,2)")
    with pytest.raises(TypeRefused, match=r"public\.t, column 'n' .*2\.50.* cannot be kept exactly as int64"):
        sql.rows(name, [column]).read_all()
    assert sql.rows(name, [column.as_text()]).read_all().to_pydict() == {"n": ["1.00", "2.50"]}


def test_what_is_missing_is_said(sql: SqlOrigin, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE t (n int)")
    with pytest.raises(OriginError, match=r"no table public\.absent"):
        sql.describe(TableName("public", "absent"))
    with pytest.raises(OriginError, match="absent"):
        sql.rows(TableName("public", "t"), [Column("absent", pa.int64())]).read_all()
    with pytest.raises(ConnectionFailed, match="cannot be reached") as unreachable:
        SqlOrigin("any", "postgresql+psycopg://u:canary@127.0.0.1:1/d").tables(None)
    assert "canary" not in str(unreachable.value)


def test_casts_that_keep_every_value_are_made() -> None:
    assert cast_exactly(pa.array([Decimal("1.00"), None]), pa.int64()).to_pylist() == [1, None]
    assert cast_exactly(pa.array([1, 0]), pa.bool_()).to_pylist() == [True, False]
    assert cast_exactly(pa.array([1.5, float("inf")]), pa.float32()).to_pylist() == [1.5, float("inf")]
    assert cast_exactly(pa.array([datetime(2024, 1, 1)]), pa.date32()).to_pylist() == [date(2024, 1, 1)]
    assert cast_exactly(pa.array([2**60]), pa.decimal128(20, 0)).to_pylist() == [Decimal(2**60)]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pa.array([1.5]), pa.int64()),
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([0.1]), pa.float32()),
        (pa.array([1.235]), pa.decimal128(10, 2)),
        (pa.array([300]), pa.int8()),
        (pa.array([2]), pa.bool_()),
        (pa.array([1]), pa.timestamp("us")),
        (pa.array([datetime(2024, 1, 1, 1)]), pa.date32()),
        (pa.array([Decimal("12345678901234567.89")]), pa.float64()),
        (pa.array(["12:00"]), pa.date32()),
        (pa.array(["1.5"]), pa.int64()),
    ],
)
def test_casts_that_change_a_value_are_refused(values: pa.Array, wanted: pa.DataType) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
        cast_exactly(values, wanted)


_MOMENTS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2100, 1, 1))
_CURSORS = st.one_of(
    st.tuples(st.just(pa.int64()), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just(pa.decimal128(38, 10)), st.decimals(-(10**27), 10**27, places=10)),
    st.tuples(st.just(pa.float64()), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just(pa.date32()), st.dates()),
    st.tuples(st.just(pa.timestamp("us")), _MOMENTS),
    st.tuples(st.just(pa.timestamp("us", "UTC")), _MOMENTS.map(lambda value: value.replace(tzinfo=UTC))),
)


@given(_CURSORS, st.integers(0, 10**7))
def test_a_cursor_value_survives_its_text_and_a_lag_never_goes_forward(
    cursor: tuple[pa.DataType, object], lag: int
) -> None:
    kind, value = cursor
    column = Column("c", kind)
    text = format_value(value)
    assert parse_value(column, text) == value
    assert parse_value(column, subtract_lag(column, text, lag)) <= value
    assert subtract_lag(column, text, 0) == text


def test_a_lag_is_seconds_or_units_and_stops_at_the_least_value() -> None:
    assert subtract_lag(Column("c", pa.date32()), "2024-03-01", 3600) == "2024-02-29"
    assert subtract_lag(Column("c", pa.date32()), "0001-01-01", 86400) == "0001-01-01"
    assert subtract_lag(Column("c", pa.timestamp("us")), "2024-01-01 00:00:00", 0.5) == "2023-12-31 23:59:59.500000"
    assert subtract_lag(Column("c", pa.int16()), "-32760", 100) == "-32768"
    assert subtract_lag(Column("c", pa.decimal128(5, 2)), "10.00", 0.125) == "9.87"
    assert subtract_lag(Column("c", pa.decimal128(5, 2)), "-999.00", 5) == "-999.99"
