"""What goes wrong around a cdc source: each fault is said, nothing is lost, and the same command goes on from there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.killed import killed_sync
from tests.projects import SyncTables, cdc_source
from tests.proxy import Proxy

from dbt_bridge.cdc import preparation
from dbt_bridge.cdc.applier import Applier
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.changes import feed, receiver, slot_reader
from dbt_bridge.connectors.postgres.changes.pgoutput.decoder import Decoder
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.demo import postgres
from dbt_bridge.errors import ConnectionFailed
from dbt_bridge.nouns.project import Project


@pytest.fixture
def shop(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(10,2), note text)")
    origin.execute("INSERT INTO orders SELECT g, g, 'n' || g FROM generate_series(1, 500) g")
    return origin


def same(shop: psycopg.Connection, file: Path, name: str) -> None:
    """Both ends hold the same rows."""
    with duckdb.connect(str(file), read_only=True) as connection:
        landed = connection.execute(f"SELECT * FROM landing.{name} ORDER BY 1").fetchall()  # noqa: S608
    assert landed == shop.execute(f"SELECT * FROM {name} ORDER BY 1".encode()).fetchall()  # noqa: S608


def test_a_second_process_on_the_slot_is_told_so(
    shop: psycopg.Connection, sync_sources: SyncTables, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_reader, "_BUSY", 0.5)
    sync_sources(cdc_source("orders"))
    shop.execute("UPDATE orders SET note = 'x' WHERE id = 1")
    with ReplicationStream(
        "shop_pg", database, "dbt_bridge_test", ["dbt_bridge_test"], 0, binary=False, spool_folder=None
    ):
        error = sync_sources(cdc_source("orders"))["orders"].error or ""
    assert "slot 'dbt_bridge_test'" in error and "in use" in error, error
    assert sync_sources(cdc_source("orders"))["orders"].status == "success"


def test_a_long_transaction_at_the_origin_is_not_waited_for(
    shop: psycopg.Connection, sync_sources: SyncTables, database: str, warehouse_file: Path
) -> None:
    sync_sources(cdc_source("orders"))
    with psycopg.connect(database) as long:
        long.execute("UPDATE orders SET note = 'long' WHERE id <= 100")
        shop.execute("UPDATE orders SET note = 'short' WHERE id = 200")
        assert sync_sources(cdc_source("orders"))["orders"].rows_loaded == 1
        same(shop, warehouse_file, "orders")
        long.commit()
    assert sync_sources(cdc_source("orders"))["orders"].rows_loaded == 100
    same(shop, warehouse_file, "orders")


def test_several_sources_of_one_origin_have_slots_of_their_own(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    one, two = cdc_source("orders"), cdc_source("orders", slot="dbt_bridge_other", schema="elsewhere")
    sync_sources(one, two)
    shop.execute("DELETE FROM orders WHERE id > 10")
    sync_sources(one)
    same(shop, warehouse_file, "orders")
    shop.execute("UPDATE orders SET note = 'again'")
    sync_sources(two, one)
    same(shop, warehouse_file, "orders")
    with duckdb.connect(str(warehouse_file), read_only=True) as connection:
        found = connection.execute("SELECT count(*), count(*) FILTER (note = 'again') FROM elsewhere.orders").fetchall()
    assert found == [(10, 10)]


def test_a_connection_that_is_reset_in_the_middle_is_said_and_nothing_is_lost(
    shop: psycopg.Connection,
    sync_sources: SyncTables,
    database: str,
    warehouse_file: Path,
    proxied: Callable[[str], tuple[str, Proxy]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reset comes while the first of many chunks is applied."""
    sync_sources(cdc_source("orders"))
    shop.execute("UPDATE orders SET note = repeat('x', 3000)")
    url, proxy = proxied(database)
    apply, broken = Applier._apply, threading.Event()

    def breaking(self: Applier, node: str, event: object) -> None:
        if not broken.is_set():
            broken.set()
            proxy.reset()
        apply(self, node, event)

    monkeypatch.setattr(DuckDBWarehouse, "chunk_rows", 10)
    monkeypatch.setattr(receiver, "RUN_MESSAGES", 10)
    monkeypatch.setattr(feed, "_HUGE", 5)
    monkeypatch.setattr(Applier, "_apply", breaking)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", url)
    receipt = sync_sources(cdc_source("orders"))["orders"]
    assert broken.is_set() and receipt.status == "failed" and "origin 'shop_pg'" in (receipt.error or "")
    receipt = sync_sources(cdc_source("orders"))["orders"]
    assert (receipt.status, receipt.rows_loaded) == ("success", 500)
    same(shop, warehouse_file, "orders")


def test_a_slow_destination_keeps_the_slot_alive_and_the_chunks_that_wait_bounded(
    shop: psycopg.Connection,
    sync_sources: SyncTables,
    database: str,
    warehouse_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The destination stands still until the server has waited twice as long as it does for an answer."""
    name = shop.info.dbname
    shop.execute(f"ALTER DATABASE {name} SET wal_sender_timeout = '2s'".encode())
    sync_sources(cdc_source("orders"))
    for _ in range(40):
        shop.execute("UPDATE orders SET note = note || 'x'")
    apply, slow, decoded = Applier._apply, threading.Event(), []
    decode = Decoder.decode

    def counted(self: Decoder, run_: Any) -> Any:
        decoded.append(len(run_))
        return decode(self, run_)

    def waiting(self: Applier, node: str, event: object) -> None:
        if not slow.is_set():
            slow.set()
            began = time.monotonic()
            while time.monotonic() - began < 4.5:  # this is what is slow
                time.sleep(0.1)
            state = "SELECT active FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_test'"
            assert shop.execute(state).fetchall() == [(True,)]
            assert sum(decoded) < 10_000, "what waits for the destination is bounded"
        apply(self, node, event)

    monkeypatch.setattr(DuckDBWarehouse, "chunk_rows", 100)
    monkeypatch.setattr(receiver, "RUN_MESSAGES", 600)
    monkeypatch.setattr(ReplicationStream, "status_every", 0.3)
    monkeypatch.setattr(Decoder, "decode", counted)
    monkeypatch.setattr(Applier, "_apply", waiting)
    receipt = sync_sources(cdc_source("orders"))["orders"]
    assert slow.is_set() and receipt.status == "success", receipt.error
    assert sum(decoded) > 20_000
    same(shop, warehouse_file, "orders")


def test_a_destination_that_another_process_holds_is_said_and_the_slot_stays_where_it_is(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    sync_sources(cdc_source("orders"))
    confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_test'"
    before = shop.execute(confirmed).fetchall()
    shop.execute("UPDATE orders SET note = 'y'")
    holding = (
        f"import duckdb, sys; c = duckdb.connect({str(warehouse_file)!r}); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ConnectionFailed, match=f"in use: PID {holder.pid}"):
            sync_sources(cdc_source("orders"))
        assert holder.stdin is not None
        holder.stdin.close()
    assert shop.execute(confirmed).fetchall() == before
    assert sync_sources(cdc_source("orders"))["orders"].rows_loaded == 500
    same(shop, warehouse_file, "orders")


def test_a_connection_that_goes_silent_is_given_up(
    shop: psycopg.Connection,
    sync_sources: SyncTables,
    database: str,
    warehouse_file: Path,
    proxied: Callable[[str], tuple[str, Proxy]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half-open, as behind a firewall that forgot the connection: nothing comes, and nobody says so."""
    sync_sources(cdc_source("orders"))
    shop.execute("UPDATE orders SET note = 'x'")
    url, proxy = proxied(database)
    apply = Applier._apply

    def silent(self: Applier, node: str, event: object) -> None:
        proxy.freeze()
        apply(self, node, event)

    monkeypatch.setattr(DuckDBWarehouse, "chunk_rows", 10)
    monkeypatch.setattr(Applier, "_apply", silent)
    monkeypatch.setattr(ReplicationStream, "status_every", 0.2)
    monkeypatch.setattr(ReplicationStream, "silence", 2.0)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", f"{url}?connect_timeout=4")
    ahead = shop.execute("SELECT (pg_current_wal_lsn() + 1000000)::text").fetchall()[0][0]
    receipt = sync_sources(cdc_source("orders"), until_lsn=ahead)["orders"]
    assert receipt.status == "failed" and "has sent nothing" in (receipt.error or ""), receipt.error
    proxy.reset()  # the server would notice after its wal_sender_timeout
    monkeypatch.undo()
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    assert sync_sources(cdc_source("orders"))["orders"].status == "success"
    same(shop, warehouse_file, "orders")


@pytest.mark.parametrize("step", ["copied", "applied"])
def test_a_server_that_restarts_in_the_middle_is_said_and_the_same_command_goes_on(
    step: str, project: Project, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the copy nothing shows; in the middle of changes what was committed stays."""
    running = postgres.start(settings={"fsync": "off"})
    try:
        monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", running.url())
        with psycopg.connect(running.url(), autocommit=True) as shop:
            shop.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(10,2), note text)")
            shop.execute("INSERT INTO orders SELECT g, g, repeat('n', 2000) || g FROM generate_series(1, 500) g")
            if step == "applied":
                sync_sources(cdc_source("orders"))
                shop.execute("UPDATE orders SET note = note || 'x'")
        broken = threading.Event()

        def crash(function: Callable[..., Any]) -> Callable[..., Any]:
            def crashing(*given: Any, **named: Any) -> Any:
                if not broken.is_set():
                    broken.set()
                    with psycopg.connect(running.url()) as victim:
                        os.kill(victim.info.backend_pid, signal.SIGKILL)  # every session ends; recovery; start
                        with contextlib.suppress(psycopg.Error):
                            victim.execute("SELECT pg_sleep(60)")
                return function(*given, **named)

            return crashing

        if step == "copied":
            monkeypatch.setattr(preparation, "copy_tables", crash(preparation.copy_tables))
        else:
            monkeypatch.setattr(DuckDBWarehouse, "chunk_rows", 10)
            monkeypatch.setattr(receiver, "RUN_MESSAGES", 10)
            monkeypatch.setattr(feed, "_HUGE", 5)
            monkeypatch.setattr(Applier, "_apply", crash(Applier._apply))
        receipt = sync_sources(cdc_source("orders"))["orders"]
        assert broken.is_set() and receipt.status == "failed", receipt
        until_up(running.url())
        assert sync_sources(cdc_source("orders"))["orders"].status == "success"
        with psycopg.connect(running.url()) as shop:
            same(shop, warehouse_file, "orders")
    finally:
        postgres.remove(running)


def until_up(url: str, seconds: float = 180) -> None:
    """Until the server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < end, "the server did not come back"
            time.sleep(0.05)


def test_a_full_disk_at_the_destination_leaves_its_rows_and_the_slot(
    shop: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path, database: str
) -> None:
    """The limit of the file size stands for it, in a process of its own."""
    sync_sources(cdc_source("orders"))
    confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_test'"
    before = shop.execute(confirmed).fetchall()
    with duckdb.connect(str(warehouse_file), read_only=True) as connection:
        rows = connection.execute("SELECT * FROM landing.orders ORDER BY id").fetchall()
    text = "(SELECT string_agg(md5((g * 10 + i)::text), '') FROM generate_series(1, 9) i)"
    shop.execute(f"INSERT INTO orders SELECT g, 1, {text} FROM generate_series(1000, 29000) g".encode())  # noqa: S608
    orders = killed_sync.Orders(
        str(warehouse_file.parent), ("orders",), "duckdb", {"type": "duckdb", "path": str(warehouse_file)},
        environment={"SOURCES__SHOP_PG__CREDENTIALS": database}, node="source.shop.landing", slot="dbt_bridge_test",
        largest_file=3_000_000,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, killed_sync.__file__], input=json.dumps(asdict(orders)) + "\n", capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout == "1\n" and "free disk space" in done.stderr, done.stderr
    assert shop.execute(confirmed).fetchall() == before
    with duckdb.connect(str(warehouse_file), read_only=True) as connection:
        assert connection.execute("SELECT * FROM landing.orders ORDER BY id").fetchall() == rows
    assert sync_sources(cdc_source("orders"))["orders"].rows_loaded == 28_001
    same(shop, warehouse_file, "orders")
