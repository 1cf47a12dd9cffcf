"""Ctrl-C comes to one thread alone: what the other one waits for at its database is ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import duckdb
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.duckdb.queries import DuckDBQueries
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.contracts.destination import Replica
from dbt_bridge.contracts.queries import Queries
from dbt_bridge.contracts.side import Cancels, Side
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.reconciliation import Selection
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.prove.sides import make_landing_side
from dbt_bridge.verify.rows.in_parallel import run_side_by_side

LONG = 120  # seconds at least, which nobody waits for
SLEEP = "SELECT 1 AS n FROM pg_sleep(120)"
COUNT = "SELECT sum(a.range * b.range % 7)::BIGINT AS n FROM range(1000000) AS a, range(10000000) AS b"


def ended(side: Side, has_begun: Callable[[], bool] = lambda: True) -> None:
    """Interrupt while another thread reads the side."""
    assert isinstance(side, Cancels)

    def interrupted(_: Event) -> None:
        while not has_begun():
            pass
        raise KeyboardInterrupt

    def read(_: Event) -> None:
        side.rows(["n"]).read_all()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(Both(interrupted, read), side.cancel)
    assert time.monotonic() - began < LONG / 2


def of_query(queries: Queries, sql: str) -> Side:
    return queries.side("long", Selection(f"({sql}) AS q", {"n": "n"}))


def test_a_query_of_postgres(database: str, origin: psycopg.Connection) -> None:
    def sleeps() -> bool:
        return origin.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone() is not None

    queries = PostgresQueries("shop", database)
    ended(of_query(queries, SLEEP), sleeps)
    queries.close()


def test_a_query_of_duckdb() -> None:
    with duckdb.connect() as connection:
        ended(of_query(DuckDBQueries("warehouse", connection, "memory"), COUNT))
        assert connection.sql("SELECT 1").fetchall() == [(1,)], "others go on"


VIEW = Replica("long", Table(TableName("main", "long"), (Column("n", pa.int64()),)))


def test_what_duckdb_holds(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        connection.execute(f"CREATE VIEW long AS {COUNT}")
    with DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse, warehouse.open_state() as state:
        ended(make_landing_side(state, VIEW, "long"))
