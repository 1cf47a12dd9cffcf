"""An open origin shows one moment: what is written meanwhile is not seen, and tables agree with each other."""

from __future__ import annotations

import threading

import psycopg
import pytest

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName

A, B = TableName("public", "a"), TableName("public", "b")


def rows_of(origin: PostgresOrigin, name: TableName, workers: int = 1) -> int:
    return origin.rows(name, origin.describe(name).table.columns, workers=workers).read_all().num_rows


def test_rows_written_after_the_first_use_are_not_seen(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE a AS SELECT 1 AS i")
    with PostgresOrigin("pg", database) as reading:
        reading.tables(None)
        origin.execute("INSERT INTO a VALUES (2)")
        assert rows_of(reading, A) == 1
        assert reading.newest(A, "i") == "1"
        origin.execute("DELETE FROM a")
        assert rows_of(reading, A, workers=2) == 1
    with PostgresOrigin("pg", database) as again:
        assert rows_of(again, A) == 0


def test_two_tables_agree_while_a_writer_fills_both(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE a (i int)")
    origin.execute("CREATE TABLE b (i int)")
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        with psycopg.connect(database) as connection:
            while not stop.is_set():
                connection.execute("INSERT INTO a VALUES (1)")
                connection.execute("INSERT INTO b VALUES (1)")
                connection.commit()
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(180)
        for _ in range(5):
            with PostgresOrigin("pg", database) as reading:
                counts = [rows_of(reading, A), rows_of(reading, B), rows_of(reading, A)]
            assert counts[0] > 0
            assert len(set(counts)) == 1
    finally:
        stop.set()
        writer.join()


def test_a_described_table_cannot_be_dropped_until_close(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE a AS SELECT 1 AS i")
    origin.execute("SET lock_timeout = '50ms'")
    with PostgresOrigin("pg", database) as reading:
        described = reading.describe(A)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            origin.execute("DROP TABLE a")
        assert reading.rows(A, described.table.columns).read_all().num_rows == 1
    origin.execute("SET lock_timeout = '60s'")  # the server sees in a moment that the reader has gone
    origin.execute("DROP TABLE a")


def test_a_table_truncated_after_the_snapshot_is_an_error_and_not_empty(
    origin: psycopg.Connection, reading: PostgresOrigin
) -> None:
    """TRUNCATE is not MVCC-safe: the snapshot would see an empty table."""
    origin.execute("CREATE TABLE a AS SELECT 1 AS i")
    reading.tables(None)
    origin.execute("TRUNCATE a")
    with pytest.raises(OriginError, match=r"public\.a was truncated or rewritten"):
        reading.describe(A)


def test_a_partition_rewritten_after_the_snapshot_is_an_error(
    origin: psycopg.Connection, reading: PostgresOrigin
) -> None:
    origin.execute("CREATE TABLE a (i int) PARTITION BY RANGE (i)")
    origin.execute("CREATE TABLE a_1 PARTITION OF a FOR VALUES FROM (0) TO (10)")
    reading.tables(None)
    origin.execute("TRUNCATE a_1")
    with pytest.raises(OriginError, match="truncated or rewritten"):
        reading.describe(A)


def test_a_question_that_fails_leaves_the_snapshot_usable(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE a AS SELECT 1 AS i")
    reading.describe(A)
    with pytest.raises(OriginError):
        reading.describe(TableName("public", "missing"))
    origin.execute("INSERT INTO a VALUES (2)")
    assert rows_of(reading, A) == 1


def test_constructing_connects_to_nothing() -> None:
    PostgresOrigin("pg", "postgresql://nobody@127.0.0.1:1/nothing").close()


def test_a_closed_origin_does_not_begin_another_snapshot(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE t (id int)")
    reading = PostgresOrigin("pg", database)
    reading.describe(TableName("public", "t"))
    reading.close()
    with pytest.raises(OriginError, match="was closed"):
        reading.describe(TableName("public", "t"))
