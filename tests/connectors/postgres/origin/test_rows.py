"""Rows stream through threads and a bounded queue; every way to end is clean."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.origin import ctid_ranges
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.wire import bulk
from dbt_bridge.errors import ConnectionFailed, OriginError, TypeRefused
from dbt_bridge.nouns.table import Column, TableName

T = TableName("public", "t")


@pytest.fixture
def big(origin: psycopg.Connection) -> int:
    """300,000 rows in about 6,000 pages of a table that was updated in places."""
    origin.execute("CREATE TABLE t AS SELECT g AS i, repeat('x', 120) AS filler FROM generate_series(1, 300000) g")
    origin.execute("UPDATE t SET filler = 'moved' WHERE i % 50 = 0")
    origin.execute("DELETE FROM t WHERE i % 7 = 0")
    return 300_000 - 300_000 // 7


def wait_until(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


def readers() -> int:
    return sum(t.name.startswith("dbt-bridge") for t in threading.enumerate())


def test_parallel_ranges_bring_every_row_once(big: int, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctid_ranges, "RANGE_PAGES", 300)
    with PostgresOrigin("pg", database) as reading:
        columns = reading.describe(T).table.columns
        rows = reading.rows(T, columns, workers=3).read_all()
    assert rows.num_rows == big
    assert len(rows.column("i").unique()) == big


def test_ranges_cover_every_page() -> None:
    assert ctid_ranges.split_by_size(pages=10, workers=4) == ("",)
    assert ctid_ranges.split_by_size(pages=100_000, workers=1) == ("",)
    cut = ctid_ranges.split_by_size(pages=3 * ctid_ranges.RANGE_PAGES, workers=2)
    assert cut[0].startswith("ctid >= '(0,0)'")
    assert "<" not in cut[-1], "the last range is open"
    ends = [part.split("'")[3] for part in cut[:-1]]
    starts = [part.split("'")[1] for part in cut[1:]]
    assert ends == starts


def test_a_reader_that_is_dropped_early_ends_its_threads_and_queries(
    big: int, origin: psycopg.Connection, database: str
) -> None:
    with PostgresOrigin("pg", database) as reading:
        stream = reading.rows(T, reading.describe(T).table.columns, workers=1)
        assert stream.read_next_batch().num_rows > 0
        assert readers() == 1
        del stream
        gc.collect()
        wait_until(lambda: readers() == 0)
        assert reading.rows(T, reading.describe(T).table.columns).read_all().num_rows == big
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dbt-bridge' AND datname = current_database()"
    )
    wait_until(lambda: origin.execute(running).fetchone() == (0,))


def test_a_reader_that_was_never_read_starts_nothing(big: int, reading: PostgresOrigin) -> None:
    reading.rows(T, reading.describe(T).table.columns, workers=2)
    assert readers() == 0


def test_the_queue_is_bounded(big: int, reading: PostgresOrigin) -> None:
    """A slow consumer holds back the readers: a few batches are in memory, not the table."""
    before = pa.total_allocated_bytes()
    stream = reading.rows(T, reading.describe(T).table.columns, workers=1)
    stream.read_next_batch()
    time.sleep(0.3)  # long enough for the whole table to arrive, if nothing held it back
    assert pa.total_allocated_bytes() - before < 8 * bulk.BATCH_BYTES
    del stream


def test_closing_the_origin_ends_a_stream_with_an_error(big: int, database: str) -> None:
    reading = PostgresOrigin("pg", database)
    stream = reading.rows(T, reading.describe(T).table.columns)
    stream.read_next_batch()
    reading.close()
    with pytest.raises(OriginError, match="closed while"):
        stream.read_all()
    wait_until(lambda: readers() == 0)


def test_an_error_of_a_thread_is_raised_where_the_rows_are_read(
    origin: psycopg.Connection, reading: PostgresOrigin
) -> None:
    origin.execute("CREATE TABLE t (n numeric(5,1))")
    origin.execute(
        "INSERT INTO t SELECT CASE WHEN g = 90000 THEN 'NaN'::numeric ELSE 1 END FROM generate_series(1, 100000) g"
    )
    stream = reading.rows(T, reading.describe(T).table.columns)
    with pytest.raises(TypeRefused, match=r"(?s)public\.t\.n: the value 'NaN'.*types: \{.n.: text\}"):
        stream.read_all()
    wait_until(lambda: readers() == 0)


def test_an_origin_that_is_cut_off_in_the_middle_says_so(
    big: int, origin: psycopg.Connection, reading: PostgresOrigin
) -> None:
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'dbt-bridge' AND datname = current_database()"
    )
    stream = reading.rows(T, reading.describe(T).table.columns)
    stream.read_next_batch()
    origin.execute(cut)
    with pytest.raises(OriginError, match=r"(?s)table public\.t broke off.*run the same command again"):
        stream.read_all()
    with pytest.raises(OriginError, match="broke off"):
        reading.tables(None)


def test_unreachable_and_refused_logins_do_not_leak_the_password(
    origin: psycopg.Connection, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "c4n4ry-p4ss"
    wrong = [
        f"postgresql://postgres:{canary}@127.0.0.1:1/x",
        database.replace("postgres@", f"nobody_here:{canary}@"),
        database.replace("postgres@", f"postgres:{canary}@").rsplit("/", 1)[0] + "/no_such_database",
        f"postgresql://postgres:{canary}@127.0.0.1/x?no_such_option=1",
        f"host=127.0.0.1 port=1 password={canary} dbname=x",
    ]
    for url in wrong:
        with pytest.raises(ConnectionFailed) as failure:
            PostgresOrigin("shop", url).tables(None)
        assert "'shop'" in str(failure.value)
        assert failure.value.mend
        assert canary not in str(failure.value) + repr(failure.value)
    assert canary not in caplog.text


def test_output_does_not_depend_on_the_settings_of_role_and_database(origin: psycopg.Connection, database: str) -> None:
    name = database.rsplit("/", 1)[1]
    for setting in (
        "datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'", "timezone = 'Asia/Tokyo'",
        "bytea_output = 'escape'", "extra_float_digits = -15", "search_path = 'nowhere'",
    ):  # fmt: skip
        origin.execute(f"ALTER DATABASE {name} SET {setting}".encode())
    origin.execute("CREATE TABLE t (d date, ts timestamptz, i interval, b bytea, f float8)")
    origin.execute("INSERT INTO t VALUES ('2024-02-01', '2024-02-01 10:00:00+00', '1 day 02:00:00', '\\x00ff', 0.1)")
    with PostgresOrigin("pg", database) as reading:
        columns = [c.as_text() for c in reading.describe(T).table.columns]
        (row,) = reading.rows(T, columns).read_all().to_pylist()
    assert row == {
        "d": "2024-02-01", "ts": "2024-02-01 10:00:00+00", "i": "1 day 02:00:00", "b": "\\x00ff", "f": "0.1"
    }  # fmt: skip


def test_a_statement_timeout_of_the_role_does_not_end_a_copy(origin: psycopg.Connection, database: str) -> None:
    name = database.rsplit("/", 1)[1]
    origin.execute(f"ALTER DATABASE {name} SET statement_timeout = '500ms'".encode())
    origin.execute("CREATE VIEW t AS SELECT pg_sleep(0.6)::text AS slept")
    with PostgresOrigin("pg", database) as reading:
        assert reading.rows(T, reading.describe(T).table.columns).read_all().num_rows == 1


OVERRIDES = [
    ("text", "12", pa.int32(), 12),
    ("text", "1.50", pa.decimal128(5, 1), None),
    ("text", "12.55", pa.decimal128(5, 1), TypeRefused),
    ("text", "1e3", pa.decimal128(5, 1), None),
    ("text", "twelve", pa.int64(), TypeRefused),
    ("text", "2024-01-01", pa.date32(), None),
    ("text", "2024-13-01", pa.date32(), TypeRefused),
    ("text", "10:11:12.5", pa.time64("us"), None),
    ("text", "25:00:00", pa.time64("us"), TypeRefused),
    ("text", "2024-01-01 10:00:00.5", pa.timestamp("us"), None),
    ("text", '{"a": 1}', pa.json_(), '{"a": 1}'),
    ("text", "{", pa.json_(), TypeRefused),
    ("text", "not-a-uuid", pa.uuid(), TypeRefused),
    ("text", "é", pa.binary(), "é".encode()),
    ("text", "maybe", pa.bool_(), TypeRefused),
    ("numeric", "1.0", pa.float64(), 1.0),
    ("numeric", "1.5", pa.int64(), TypeRefused),
    ("numeric", "99", pa.decimal128(10, 2), None),
    ("bigint", "5000000000", pa.int32(), TypeRefused),
    ("bigint", "9007199254740993", pa.float64(), TypeRefused),
    ("integer", "2", pa.bool_(), TypeRefused),
    ("double precision", "0.1", pa.float32(), TypeRefused),
    ("double precision", "0.5", pa.float32(), 0.5),
    ("double precision", "1.5", pa.int32(), TypeRefused),
    ("timestamp", "2024-01-01 10:00:00", pa.date32(), TypeRefused),
    ("date", "2024-01-01", pa.timestamp("us"), None),
    ("integer[]", "{1}", pa.int32(), TypeRefused),
]


@pytest.mark.parametrize(("origin_type", "value", "wanted", "expected"), OVERRIDES)
def test_an_override_keeps_the_value_or_refuses_it(
    origin: psycopg.Connection, database: str, origin_type: str, value: str, wanted: pa.DataType, expected: object
) -> None:
    origin.execute(f"CREATE TABLE t (v {origin_type})".encode())
    origin.execute("INSERT INTO t VALUES (%s)", [value])
    with PostgresOrigin("pg", database) as reading:
        stream = reading.rows(T, [Column("v", wanted, origin_type)])
        if expected is TypeRefused:
            with pytest.raises(TypeRefused, match=r"(?s)public\.t\.v.*types: \{v: text\}"):
                stream.read_all()
            return
        found = stream.read_all().column("v")[0]
    assert found.type == wanted
    if expected is not None:
        assert found.as_py() == expected
    else:  # Postgres agrees that nothing changed
        type_ = _sql(wanted)
        same = f"SELECT %s::text::{type_} = v::{type_} FROM t"  # noqa: S608
        answer = origin.execute(same.encode(), [str(found.as_py())])
        assert answer.fetchone() == (True,)


def _sql(wanted: pa.DataType) -> str:
    if pa.types.is_decimal(wanted):
        return "numeric"
    return {pa.date32(): "date", pa.time64("us"): "time", pa.timestamp("us"): "timestamp"}[wanted]
