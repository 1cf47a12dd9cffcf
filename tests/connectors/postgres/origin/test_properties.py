"""Whatever Postgres can store arrives as Postgres prints it: random values, judged by Postgres's own output.

Hypothesis makes lists of values; one query stores a list as rows, the origin reads them, and Postgres compares the
text of what arrived with the text of what it has.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.table import TableName

T = TableName("public", "t")
EXAMPLES = settings(
    max_examples=8, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**30), max_value=10**30)
moments = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999))


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE properties")
    yield server.url("properties")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE properties WITH (FORCE)")


def arrived_as_sent(url: str, type_: str, values: list[Any], back: Callable[[Any], Any] = lambda v: v) -> None:
    """Store the values, read them through the origin, and let Postgres compare.

    Args:
        back: from the Python value of what arrived to something that psycopg can send.
    """
    name = sql.SQL(type_)  # type: ignore[arg-type]
    with psycopg.connect(url, autocommit=True, options="-c TimeZone=UTC") as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute(sql.SQL("CREATE TABLE t (i int, v {})").format(name))
        with connection.cursor() as cur:
            cur.executemany("INSERT INTO t VALUES (%s, %s)", list(enumerate([*values, None])))
        with PostgresOrigin("pg", url) as origin:
            arrived = origin.rows(T, origin.describe(T).table.columns).read_all().to_pylist()
        assert len(arrived) == len(values) + 1
        compare = sql.SQL("SELECT v::text, %s::{}::text FROM t WHERE i = %s").format(name)
        for row in arrived:
            value = None if row["v"] is None else back(row["v"])
            stored, found = connection.execute(compare, [value, row["i"]]).fetchone() or (None, None)
            assert found == stored


def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=60)


@EXAMPLES
@given(values=lists(decimals))
def test_numerics_with_a_scale(url: str, values: list[Any]) -> None:
    arrived_as_sent(url, "numeric(38,4)", values)


@EXAMPLES
@given(values=lists(st.decimals()))
def test_unbounded_numerics(url: str, values: list[Any]) -> None:
    arrived_as_sent(url, "numeric", ["NaN" if v.is_nan() else v for v in values], back=str)


@EXAMPLES
@given(values=lists(moments))
def test_timestamps(url: str, values: list[Any]) -> None:
    arrived_as_sent(url, "timestamp", values)
    arrived_as_sent(url, "timestamptz", [v.replace(tzinfo=dt.UTC) for v in values])


@EXAMPLES
@given(values=lists(st.integers(-210866803200000000, 2**63 - 2)))
def test_timestamps_of_all_years_by_their_number(url: str, values: list[int]) -> None:
    """Postgres has 4713 BC to 294276; each arrives as its microseconds since 1970, up to what 64 bits hold."""
    with psycopg.connect(url, autocommit=True, options="-c TimeZone=UTC") as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t (n bigint, v timestamp)")
        with connection.cursor() as cur:
            for v in values:
                hours, rest = divmod(v, 3_600_000_000)
                cur.execute(
                    "INSERT INTO t VALUES (%s, timestamp '1970-01-01' + %s * interval '1 hour' + %s * interval '1 us')",
                    [v, hours, rest],
                )
        with PostgresOrigin("pg", url) as origin:
            table = origin.rows(T, origin.describe(T).table.columns).read_all()
    assert table.column("v").cast(pa.int64()).to_pylist() == table.column("n").to_pylist()


@EXAMPLES
@given(values=lists(texts))
def test_texts(url: str, values: list[str]) -> None:
    arrived_as_sent(url, "text", values)
    arrived_as_sent(url, "jsonb", [psycopg.types.json.Jsonb(v) for v in values], back=str)


@EXAMPLES
@given(values=lists(st.floats()))
def test_floats(url: str, values: list[float]) -> None:
    arrived_as_sent(url, "float8", values)


@EXAMPLES
@given(values=lists(st.binary(max_size=40)))
def test_bytea(url: str, values: list[bytes]) -> None:
    arrived_as_sent(url, "bytea", values)


@EXAMPLES
@given(
    values=lists(
        st.tuples(
            st.integers(-1_000_000, 1_000_000), st.integers(-1_000_000, 1_000_000), st.integers(-(10**15), 10**15)
        )
    )
)
def test_intervals(url: str, values: list[tuple[int, int, int]]) -> None:
    sent = [f"{months} mons {days} days {micros} us" for months, days, micros in values]
    arrived_as_sent(url, "interval", sent, back=lambda v: f"{v.months} mons {v.days} days {v.nanoseconds // 1000} us")


@EXAMPLES
@given(values=lists(st.lists(st.one_of(st.none(), texts), max_size=5)))
def test_arrays_of_texts(url: str, values: list[Any]) -> None:
    arrived_as_sent(url, "text[]", values)


@EXAMPLES
@given(values=lists(st.lists(st.one_of(st.none(), moments), max_size=5)))
def test_arrays_of_timestamps(url: str, values: list[Any]) -> None:
    arrived_as_sent(url, "timestamp[]", values)


@EXAMPLES
@given(values=lists(st.lists(st.one_of(st.none(), decimals), max_size=5)))
def test_arrays_of_numerics(url: str, values: list[Any]) -> None:
    arrived_as_sent(url, "numeric(38,4)[]", values)
    arrived_as_sent(url, "numeric[]", values)


@EXAMPLES
@given(values=lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers(url: str, values: list[int]) -> None:
    arrived_as_sent(url, "bigint", values)
    arrived_as_sent(url, "bigint[]", [values])
