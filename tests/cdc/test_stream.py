"""stream: a source is followed while somebody writes, and stopped in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise

import psycopg
import pytest
from tests.projects import landing_source, table
from tests.proxy import Proxy

from dbt_bridge.cdc import followed_source
from dbt_bridge.cdc.stream import stream
from dbt_bridge.cdc.stream_connection import StreamOptions
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import ConnectionFailed, OriginError, UsageError
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.stream_progress import Batch, WatchSilent
from dbt_bridge.run.sync import SyncOptions, sync

Ask = Callable[[str], list[tuple[object, ...]]]
QUICK = StreamOptions(every=0.2)
ORDERS = table("orders")


class Seen(WatchSilent):
    """Keeps what the stream tells."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.caught: list[Position] = []
        self.retries: list[BaseException] = []
        self.receipts: list[Receipt] = []

    def finished(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)

    def batch(self, batch: Batch) -> None:
        self.batches.append(batch)

    def caught_up(self, source: str, at: Position) -> None:
        self.caught.append(at)

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        self.retries.append(error)


def until(condition: Callable[[], bool], running: Future[None], seconds: float = 180) -> None:
    """Wait for a condition; what the stream raised is raised here."""
    end = time.monotonic() + seconds
    while not condition():
        if running.done():
            running.result()
            raise AssertionError("the stream ended")
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def shop(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    origin.execute("INSERT INTO orders SELECT g, 'n' FROM generate_series(1, 100) g")
    return origin


@pytest.fixture
def followed(project: Project) -> Project:
    source = landing_source(ORDERS, slot="dbt_bridge_stream")
    return replace(project, sources=(source,))


@contextmanager
def streaming(
    project: Project,
    seen: Seen,
    rebuild: Callable[[frozenset[str]], bool] | None = None,
    options: StreamOptions = QUICK,
) -> Iterator[tuple[Future[None], threading.Event]]:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, project, options, seen, stop, rebuild)
        try:
            yield running, stop
        finally:
            stop.set()


def test_changes_land_while_the_stream_goes_on_and_it_stops_in_order(
    shop: psycopg.Connection, followed: Project, landed: Ask
) -> None:
    seen = Seen()
    with streaming(followed, seen) as (running, stop):
        until(lambda: bool(seen.caught), running)
        for i in range(3):
            before = len(seen.batches)
            shop.execute("UPDATE orders SET note = %s WHERE id <= 10", [f"round {i}"])
            until(lambda before=before: len(seen.batches) > before, running)  # type: ignore[misc]
        stop.set()
        assert running.result(timeout=180) is None, "it raises nothing"
    assert sum(batch.changes for batch in seen.batches) == 30
    assert all(batch.from_lsn for batch in seen.batches)
    assert all(a.to_lsn <= b.from_lsn < b.to_lsn for a, b in pairwise(seen.batches))
    assert landed("SELECT count(*) FROM shop_landing.orders WHERE note = 'round 2'") == [(10,)]
    changes = "SELECT sum(rows_loaded) FROM _dbt_bridge.receipts WHERE hop = 'cdc' AND status = 'success'"
    assert landed(changes) == [(30,)]


def test_a_stream_that_was_stopped_goes_on_where_it_was(
    shop: psycopg.Connection, followed: Project, landed: Ask
) -> None:
    for i in range(2):
        seen = Seen()
        with streaming(followed, seen) as (running, _):
            until(lambda seen=seen: bool(seen.caught), running)  # type: ignore[misc]
        shop.execute("INSERT INTO orders VALUES (%s, 'between')", [1000 + i])
    with streaming(followed, Seen()) as (running, _):
        pass
    running.result(timeout=180)
    sync(followed, SyncOptions(), WatchSilent())
    assert landed("SELECT count(*) FROM shop_landing.orders WHERE note = 'between'") == [(2,)]
    copies = "SELECT count(*) FROM _dbt_bridge.receipts WHERE hop = 'initial_copy'"
    assert landed(copies) == [(1,)]


def test_an_idle_stream_lets_the_origin_go_on(
    shop: psycopg.Connection, followed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another table fills the log; the slot does not hold it."""
    monkeypatch.setattr(followed_source, "Pace", partial(followed_source.Pace, idle=0.5))  # 10 s else
    seen = Seen()
    shop.execute("CREATE TABLE other (x text)")
    where = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) FROM pg_replication_slots"

    def behind() -> int:
        row = shop.execute(f"{where} WHERE slot_name = 'dbt_bridge_stream'".encode()).fetchone()
        assert row is not None
        return int(row[0])

    with streaming(followed, seen) as (running, _):
        until(lambda: bool(seen.caught), running)
        shop.execute("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        assert behind() > 1_000_000
        until(lambda: behind() < 1_000_000, running, seconds=60)


def test_the_stream_survives_a_lost_connection(shop: psycopg.Connection, followed: Project, landed: Ask) -> None:
    seen = Seen()
    with streaming(followed, seen) as (running, _):
        until(lambda: bool(seen.caught), running)
        kill = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND database = %s"
        database = shop.info.dbname
        # The first one may be the walsender of the catch-up, which is over anyway.
        until(lambda: shop.execute(kill, [database]).rowcount < 0 or bool(seen.retries), running)
        shop.execute("UPDATE orders SET note = 'after' WHERE id = 1")
        until(lambda: any(batch.changes == 1 for batch in seen.batches), running)
    assert landed("SELECT note FROM shop_landing.orders WHERE id = 1") == [("after",)]


@pytest.mark.parametrize("rebuild", [None, lambda changed: True], ids=["", "with builds"])
def test_a_slot_that_is_gone_ends_the_stream(
    shop: psycopg.Connection, followed: Project, rebuild: Callable[[frozenset[str]], bool] | None
) -> None:
    sync(followed, SyncOptions(), WatchSilent())
    shop.execute("SELECT pg_drop_replication_slot('dbt_bridge_stream')")
    with pytest.raises(OriginError, match="is gone"), streaming(followed, Seen(), rebuild) as (running, _):
        running.result(timeout=180)


@pytest.mark.parametrize("rebuild", [None, lambda changed: True], ids=["", "with builds"])
def test_a_bounded_stream_that_never_came_through_fails(
    shop: psycopg.Connection, followed: Project, server: Server, rebuild: Callable[[frozenset[str]], bool] | None
) -> None:
    seen = Seen()
    refused = f'ALTER DATABASE "{shop.info.dbname}" ALLOW_CONNECTIONS false'
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(refused.encode())
    with (
        pytest.raises(ConnectionFailed, match="not currently accepting connections"),
        streaming(followed, seen, rebuild, replace(QUICK, max_seconds=0.5)) as (running, _),
    ):
        running.result(timeout=180)
    assert seen.retries


def test_a_full_refresh_is_not_repeated_when_a_connection_breaks(
    shop: psycopg.Connection, followed: Project, landed: Ask
) -> None:
    seen = Seen()
    kill = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND database = %s"
    with streaming(followed, seen, options=replace(QUICK, full_refresh=True)) as (running, _):
        until(lambda: bool(seen.caught), running)
        database = shop.info.dbname
        until(lambda: shop.execute(kill, [database]).rowcount < 0 or bool(seen.retries), running)
        shop.execute("UPDATE orders SET note = 'after' WHERE id = 1")
        until(lambda: any(batch.changes == 1 for batch in seen.batches), running)
    copies = "SELECT count(*) FROM _dbt_bridge.receipts WHERE hop = 'initial_copy'"
    assert landed(copies) == [(1,)]


def test_columns_that_come_with_values_are_copied_while_streaming(
    shop: psycopg.Connection, followed: Project, landed: Ask
) -> None:
    seen = Seen()
    with streaming(followed, seen) as (running, _):
        until(lambda: bool(seen.caught), running)
        shop.execute("ALTER TABLE orders ADD COLUMN size int DEFAULT 7")
        shop.execute("INSERT INTO orders (id) VALUES (500)")
        until(lambda: any(r.hop == "initial_copy" and r.rows_loaded == 101 for r in seen.receipts), running)
    assert landed("SELECT count(*) FROM shop_landing.orders WHERE size = 7") == [(101,)]


def test_columns_that_come_without_a_row_are_seen_after_a_while(
    shop: psycopg.Connection, followed: Project, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbt_bridge.cdc.stream.LOOK", 0.5)
    seen = Seen()
    with streaming(followed, seen) as (running, _):
        until(lambda: bool(seen.caught), running)
        shop.execute("ALTER TABLE orders ADD COLUMN size int DEFAULT 7")
        until(lambda: any(r.hop == "initial_copy" for r in seen.receipts[1:]), running)
    assert landed("SELECT count(*) FROM shop_landing.orders WHERE size = 7") == [(100,)]


def test_values_that_read_otherwise_without_a_row_are_seen_after_a_while(
    shop: psycopg.Connection, followed: Project, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbt_bridge.cdc.stream.LOOK", 0.5)
    shop.execute("CREATE TYPE mood AS ENUM ('sad'); ALTER TABLE orders ADD COLUMN m mood NOT NULL DEFAULT 'sad'")
    seen = Seen()
    with streaming(followed, seen) as (running, _):
        until(lambda: bool(seen.caught), running)
        shop.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
        until(lambda: any(r.hop == "initial_copy" for r in seen.receipts[1:]), running)
    assert landed("SELECT m, count(*) FROM shop_landing.orders GROUP BY m") == [("blue", 100)]


def test_models_are_built_after_each_batch_that_changed_something(
    shop: psycopg.Connection, followed: Project, landed: Ask
) -> None:
    built: list[frozenset[str]] = []

    def rebuild(changed: frozenset[str]) -> bool:
        landed("SELECT count(*) FROM shop_landing.orders")  # nobody else holds the warehouse
        built.append(changed)
        return True

    with streaming(followed, Seen(), rebuild) as (running, _):
        until(lambda: len(built) == 1, running)
        shop.execute("DELETE FROM orders WHERE id = 3")
        until(lambda: len(built) == 2, running)
    assert built[-1] == {ORDERS.node}


def test_turns_without_news_leave_no_trace_and_a_table_set_aside_is_copied_once(
    shop: psycopg.Connection, followed: Project, landed: Ask
) -> None:
    shop.execute("CREATE TABLE odd (id int PRIMARY KEY, n numeric(10, 2))")
    shop.execute("INSERT INTO odd VALUES (1, 'NaN')")
    odd = table("odd")
    both = replace(followed, sources=(replace(followed.sources[0], tables=(ORDERS, odd)),))
    seen, built = Seen(), []

    def rebuild(changed: frozenset[str]) -> bool:
        built.append(changed)
        return True

    with streaming(both, seen, rebuild) as (running, _):
        until(lambda: len(built) == 1, running)
        turns = len(seen.caught)
        until(lambda: len(seen.caught) > turns + 2, running)
        shop.execute("DELETE FROM orders WHERE id = 3")
        until(lambda: len(built) == 2, running)
    assert built == [{ORDERS.node}, {ORDERS.node}]
    told = "SELECT node, hop, status FROM _dbt_bridge.receipts ORDER BY finished_at"
    assert sorted(landed(told)) == [
        (odd.node, "cdc", "failed"),
        (ORDERS.node, "cdc", "success"),
        (ORDERS.node, "initial_copy", "success"),
    ]


def test_a_table_set_aside_is_not_copied_again_when_the_tables_are_looked_at(
    shop: psycopg.Connection, followed: Project, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbt_bridge.cdc.stream.LOOK", 0.5)
    shop.execute("CREATE TABLE odd (id int PRIMARY KEY, n numeric(10, 2))")
    shop.execute("INSERT INTO odd VALUES (1, 'NaN')")
    odd = table("odd")
    both, seen = replace(followed, sources=(replace(followed.sources[0], tables=(ORDERS, odd)),)), Seen()
    with streaming(both, seen) as (running, _):
        until(lambda: bool(seen.caught), running)
        shop.execute("ALTER TABLE orders ADD COLUMN size int DEFAULT 7")
        until(lambda: sum(r.hop == "initial_copy" and r.node == ORDERS.node for r in seen.receipts) == 2, running)
    assert landed(f"SELECT count(*) FROM _dbt_bridge.receipts WHERE node = '{odd.node}'") == [(1,)]  # noqa: S608


def test_a_stream_of_which_no_table_is_left_ends(shop: psycopg.Connection, followed: Project) -> None:
    shop.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    with pytest.raises(OriginError, match="no table is followed"), streaming(followed, Seen()) as (running, _):
        running.result(timeout=180)


def test_a_project_without_cdc_has_nothing_to_stream(project: Project) -> None:
    with pytest.raises(UsageError, match="nothing to follow"):
        stream(project, StreamOptions(), WatchSilent(), threading.Event())


def test_the_servers_restart_is_waited_for(
    shop: psycopg.Connection, followed: Project, landed: Ask, server: Server
) -> None:
    """Not the shared server: its connections are ended one by one, and refused for a moment by `datallowconn`.

    The one that says who wants the landing is lost last: while the stream waits for the others.
    """
    seen = Seen()
    with (
        psycopg.connect(server.url(), autocommit=True) as admin,
        streaming(followed, seen) as (running, _),
    ):
        until(lambda: bool(seen.caught), running)
        allow = f'ALTER DATABASE "{shop.info.dbname}" ALLOW_CONNECTIONS %s'
        admin.execute((allow % "false").encode())
        admin.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        until(lambda: bool(seen.retries), running)
        lost = len(seen.retries)
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'dbt-bridge'",
            [shop.info.dbname],
        )
        until(lambda: len(seen.retries) >= lost + 2, running)
        admin.execute((allow % "true").encode())
        shop.execute("UPDATE orders SET note = 'up again' WHERE id = 2")
        until(lambda: any(batch.changes == 1 for batch in seen.batches), running)
    assert landed("SELECT note FROM shop_landing.orders WHERE id = 2") == [("up again",)]


def test_a_connection_that_went_silent_does_not_keep_the_stream_from_its_own_slot(
    shop: psycopg.Connection,
    followed: Project,
    landed: Ask,
    database: str,
    proxied: Callable[[str], tuple[str, Proxy]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server does not know that nobody listens, and would keep the slot for another minute."""
    url, proxy = proxied(database)
    monkeypatch.setattr(ReplicationStream, "status_every", 0.3)
    monkeypatch.setattr(ReplicationStream, "silence", 2.0)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", url)
    seen, reader = Seen(), "SELECT active_pid FROM pg_replication_slots WHERE active AND database = current_database()"
    with streaming(followed, seen) as (running, _):
        until(lambda: bool(seen.caught), running)
        shop.execute("UPDATE orders SET note = 'before' WHERE id = 1")
        until(lambda: any(batch.changes == 1 for batch in seen.batches), running)
        (before,) = shop.execute(reader).fetchall()
        proxy.freeze()
        monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
        until(lambda: bool(seen.retries), running)
        assert shop.execute(reader).fetchall() == [before]
        shop.execute("UPDATE orders SET note = 'after' WHERE id < 3")
        until(lambda: any(batch.changes == 2 for batch in seen.batches), running)
    assert landed("SELECT note FROM shop_landing.orders WHERE id < 3") == [("after",), ("after",)]
