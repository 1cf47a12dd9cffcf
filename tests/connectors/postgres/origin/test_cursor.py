"""Incremental loading: the greatest cursor value, and the rows from a checkpoint on."""

from __future__ import annotations

import psycopg
import pytest

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.contracts.origin import Increment
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import TableName

T = TableName("public", "t")

# type, values in order, lag, what the last but one value minus the lag is
CURSORS = [
    ("smallint", ["-32768", "-32767", "5"], 10, "-32768"),
    ("integer", ["1", "2", "300"], 1, "1"),
    ("bigint", ["-9223372036854775808", "0", "9223372036854775807"], 2.5, "-3"),
    ("oid", ["1", "5", "4294967295"], 10, "0"),
    ("numeric", ["1.5", "2.25", "1e30"], 0.5, "1.75"),
    ("numeric(10,2)", ["-1.50", "2.25", "3.00"], 1, "1.25"),
    ("numeric(10,2)", ["-1.50", "2.25", "3.00"], 0.001, "2.24"),
    ("date", ["2024-01-01", "2024-03-01", "2024-12-31"], 86400, "2024-02-29"),
    ("date", ["2024-01-01", "2024-03-01", "2024-12-31"], 60, "2024-02-29"),
    ("timestamp", ["2024-01-01", "2024-01-02 00:00:00.000001", "2024-12-31"], 1, "2024-01-01 23:59:59.000001"),
    ("timestamptz", ["2024-01-01+00", "2024-01-02 05:00+05", "2024-12-31+00"], 0.5, "2024-01-01 23:59:59.5+00"),
]


@pytest.mark.parametrize(("type_", "values", "lag", "lowered"), CURSORS)
def test_a_checkpoint_reads_back_exactly_its_rows(
    origin: psycopg.Connection, database: str, type_: str, values: list[str], lag: float, lowered: str
) -> None:
    origin.execute(f'CREATE TABLE t ("the cursor" {type_})'.encode())
    for value in values[:2]:
        origin.execute("INSERT INTO t VALUES (%s)", [value])
    with PostgresOrigin("pg", database) as reading:
        checkpoint = reading.newest(T, "the cursor")
    origin.execute("INSERT INTO t VALUES (%s)", [values[2]])
    increment = Increment("the cursor", checkpoint)
    with PostgresOrigin("pg", database) as reading:
        columns = reading.describe(T).table.columns
        assert reading.rows(T, columns, increment).read_all().num_rows == 2, "the checkpoint's own row, and the new one"
        assert reading.lower_bound(T, increment) == checkpoint
        late = Increment("the cursor", checkpoint, lag)
        assert reading.lower_bound(T, late) == lowered
        expected = f"SELECT count(*) FROM t WHERE \"the cursor\" >= '{lowered}'"  # noqa: S608
        assert origin.execute(expected.encode()).fetchone() == (reading.rows(T, columns, late).read_all().num_rows,)
        assert reading.rows(T, columns, Increment("the cursor")).read_all().num_rows == 3


def test_no_rows_have_no_newest(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (i int)")
    assert reading.newest(T, "i") is None
    assert reading.lower_bound(T, Increment("i")) is None


REFUSED = [
    ("updated_at timestamp", "('2024-01-01'), (NULL)", "updated_at", "holds NULLs"),
    ("updated_at timestamp", "(NULL)", "updated_at", "holds NULLs"),
    ("updated_at timestamp", "('infinity')", "updated_at", "holds infinity"),
    ("n numeric", "(1), ('NaN')", "n", "holds NaN"),
    ("name text", "('a')", "name", "neither a number, a date nor a timestamp"),
    ("f float8", "(1)", "f", "neither a number"),
    ("updated_at timestamp", "('2024-01-01')", "update_at", "did you mean 'updated_at'"),
]


@pytest.mark.parametrize(("column", "rows", "cursor", "message"), REFUSED)
def test_a_cursor_that_would_lose_rows_is_refused(
    origin: psycopg.Connection, database: str, column: str, rows: str, cursor: str, message: str
) -> None:
    origin.execute(f"CREATE TABLE t ({column})".encode())
    origin.execute(f"INSERT INTO t VALUES {rows}".encode())  # noqa: S608
    with PostgresOrigin("pg", database) as reading, pytest.raises(UsageError, match=f"(?s){message}"):
        reading.newest(T, cursor)


def test_a_hostile_checkpoint_is_a_value_and_not_sql(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (i timestamp)")
    columns = reading.describe(T).table.columns
    with pytest.raises(Exception, match="invalid input syntax"):
        reading.rows(T, columns, Increment("i", "x' OR '1'='1")).read_all()
