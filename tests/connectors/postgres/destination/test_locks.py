"""A table that somebody has open: readers go on, writers too, and who is in the way is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.destination import locks
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import ConnectionFailed
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.system.lock_wait import LockWait, use_lock_wait

NOTES = TableName("landing", "notes")
COUNT = "SELECT count(*) FROM landing.notes"


@pytest.fixture(autouse=True)
def _tell_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_TELL", 0.0)


@contextmanager
def opened(database: str, wait: LockWait) -> Iterator[PostgresWarehouse]:
    with use_lock_wait(wait), PostgresWarehouse("pg", database) as warehouse:
        yield warehouse


def arrive(warehouse: PostgresWarehouse, *ids: int, type_: pa.DataType | None = None, how: str = "replace") -> None:
    rows = pa.table({"id": pa.array(ids, type_ or pa.int32())})
    load = Load(Table.of_schema(NOTES, rows.schema, ()), how, "load-1")  # type: ignore[arg-type]
    warehouse.load(load, rows.to_reader())


def test_rows_are_replaced_under_a_reader(origin: psycopg.Connection, database: str) -> None:
    with opened(database, LockWait()) as warehouse:
        arrive(warehouse, 1, 2)
        with psycopg.connect(database) as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            assert reader.execute(COUNT).fetchone() == (2,)
            arrive(warehouse, 3, 4, 5)
            assert reader.execute(COUNT).fetchone() == (2,)
            assert origin.execute(COUNT).fetchone() == (3,)
        before = origin.execute("SELECT 'landing.notes'::regclass::oid").fetchone()
        arrive(warehouse, 6)
        assert origin.execute("SELECT 'landing.notes'::regclass::oid").fetchone() != before, "a new table again"


def test_who_is_in_the_way_is_told_and_meanwhile_others_read(origin: psycopg.Connection, database: str) -> None:
    told: list[str] = []
    with psycopg.connect(database) as reader:

        def let_go(text: str) -> None:
            told.append(text)
            origin.execute("SET lock_timeout = '1ms'")
            assert origin.execute(COUNT).fetchone() == (1,), "no one waits behind the one who waits"
            reader.rollback()

        with opened(database, LockWait(600, let_go)) as warehouse:
            arrive(warehouse, 1)
            reader.execute(COUNT)
            arrive(warehouse, 2**40, type_=pa.int64(), how="append")
        (text,) = told
        assert "waiting up to 600 seconds for landing.notes" in text
        assert f"server process {reader.info.backend_pid}" in text
    assert origin.execute("SELECT id FROM landing.notes ORDER BY id").fetchall() == [(1,), (2**40,)]


@pytest.mark.parametrize("mode", ["ACCESS SHARE", "ROW EXCLUSIVE"])
def test_after_its_time_the_load_gives_up_and_the_old_rows_stay(
    origin: psycopg.Connection, database: str, mode: str
) -> None:
    with opened(database, LockWait()) as warehouse, psycopg.connect(database) as other:
        arrive(warehouse, 1)
        other.execute(f"LOCK TABLE landing.notes IN {mode} MODE".encode())
        with pytest.raises(ConnectionFailed, match=rf"server process {other.info.backend_pid}") as refused:
            arrive(warehouse, 2**40, type_=pa.int64(), how="append")
        assert "--lock-wait" in refused.value.mend and refused.value.table == NOTES
    assert origin.execute("SELECT id FROM landing.notes").fetchall() == [(1,)]


def test_a_reader_does_not_keep_rows_from_being_appended(origin: psycopg.Connection, database: str) -> None:
    with opened(database, LockWait()) as warehouse, psycopg.connect(database) as reader:
        arrive(warehouse, 1)
        reader.execute(COUNT)
        arrive(warehouse, 2, how="append")
    assert origin.execute(COUNT).fetchone() == (2,)


@pytest.fixture
def eager_vacuum(origin: psycopg.Connection) -> Iterator[None]:
    """The server looks every second for tables to vacuum."""
    origin.execute("ALTER SYSTEM SET autovacuum_naptime = 1")
    origin.execute("SELECT pg_reload_conf()")
    yield
    origin.execute("ALTER SYSTEM RESET autovacuum_naptime")
    origin.execute("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("eager_vacuum")
def test_an_autovacuum_gives_way(
    origin: psycopg.Connection, database: str, until: Callable[[Callable[[], object]], object]
) -> None:
    """The server ends it for whoever waits for longer than `deadlock_timeout`, which a short spell never does."""
    slowly = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1"
    with opened(database, LockWait()) as warehouse:
        arrive(warehouse, *range(100_000))
        origin.execute(f"ALTER TABLE landing.notes SET ({slowly}, autovacuum_vacuum_scale_factor = 0)".encode())
        origin.execute("DELETE FROM landing.notes WHERE id % 2 = 0")
        vacuums = (
            "SELECT a.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE a.backend_type = 'autovacuum worker' AND l.relation = 'landing.notes'::regclass"
        )
        until(lambda: origin.execute(vacuums).fetchall())
        arrive(warehouse, -1, how="append")
    assert origin.execute(COUNT).fetchone() == (50_001,)
