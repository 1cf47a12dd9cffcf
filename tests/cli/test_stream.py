"""`dbt-bridge stream`, as a service manager runs it: a process that is told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import psycopg
import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.cli.commands.stream import stop_by_signals
from dbt_bridge.connectors.postgres.changes.lsn import format_lsn, parse_lsn

SOURCES = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public, replication: cdc, slot: %s}}}
    tables: [{name: orders}, {name: customers}]
"""
# Ctrl-C is ignored by what was started in the background, and its children inherit that.
_MINDING_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.argv[0] = 'dbt-bridge'; from dbt_bridge.cli import main; main()"
)


@pytest.fixture
def slot(database: str) -> str:
    return f"stream_{database.rsplit('/', 1)[1]}"


@pytest.fixture
def shop(
    dbt_root: Path, origin: psycopg.Connection, database: str, slot: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, amount int)")
    origin.execute("CREATE TABLE customers (id int PRIMARY KEY)")
    origin.execute("INSERT INTO orders VALUES (1, 10)")
    (dbt_root / "models" / "sources.yml").write_text(SOURCES % slot)
    (dbt_root / "models" / "total.sql").write_text(
        "{{ config(materialized='table') }}\n"
        "select sum(amount) as total, now() as built_at from {{ source('shop', 'orders') }}"
    )
    (dbt_root / "models" / "people.sql").write_text(
        "{{ config(materialized='table') }}\n"
        "select count(*) as people, now() as built_at from {{ source('shop', 'customers') }}"
    )
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.chdir(dbt_root)
    yield dbt_root
    until(
        lambda: (
            origin.execute("SELECT 1 FROM pg_replication_slots WHERE active AND slot_name = %s", [slot]).fetchone()
            is None
        )
    )
    origin.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [slot])


@contextmanager
def streaming(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _MINDING_CTRL_C, "stream", "--every", "200ms", *arguments],
        env=os.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=180)


def until(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def confirmed(origin: psycopg.Connection, slot: str, at: int) -> Callable[[], bool]:
    """Whether the destination has everything up to a position."""
    asked = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"

    def is_there() -> bool:
        row = origin.execute(asked, [slot]).fetchone()
        return row is not None and row[0] is not None and parse_lsn(row[0]) >= at

    return is_there


def end_of_log(origin: psycopg.Connection) -> int:
    row = origin.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(row[0])


def asked(root: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(root / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_sigterm_finishes_the_batch_and_is_a_success(shop: Path, origin: psycopg.Connection, slot: str) -> None:
    with streaming("--json", "--metrics-port", "0") as process:
        assert process.stderr is not None
        until(
            lambda: bool(
                origin.execute(
                    "SELECT active FROM pg_replication_slots WHERE slot_name = %s AND active", [slot]
                ).fetchall()
            )
        )
        for number in range(2, 12):
            origin.execute("INSERT INTO orders VALUES (%s, 10)", [number])
        until(confirmed(origin, slot, end_of_log(origin)))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    batches = [json.loads(line) for line in out.splitlines()]
    assert sum(batch["changes"] for batch in batches) >= 10
    assert all(batch["source"] == "shop" for batch in batches)
    assert "source.shop.shop.orders" in {table for batch in batches for table in batch["tables"]}
    assert asked(shop, "SELECT count(*), sum(amount) FROM landing.orders") == [(11, 110)]


def test_a_person_and_prometheus_see_the_same(shop: Path, origin: psycopg.Connection, slot: str) -> None:
    with streaming("--metrics-port", "0", "--max-seconds", "60") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)
        assert found, line
        until(
            lambda: bool(
                origin.execute(
                    "SELECT active FROM pg_replication_slots WHERE slot_name = %s AND active", [slot]
                ).fetchall()
            )
        )
        origin.execute("INSERT INTO customers SELECT generate_series(1, 7)")
        wanted = 'dbt_bridge_events_total{source="shop"} '
        until(lambda: f"{wanted}7" in urllib.request.urlopen(found[0], timeout=60).read().decode())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "7 changes" in err
    assert "stopped: what was committed stays" in err


def test_only_what_is_downstream_of_the_changes_is_built(shop: Path, origin: psycopg.Connection, slot: str) -> None:
    assert run_command(["build", "--quiet"]) == 0
    before = asked(shop, "SELECT built_at FROM people")
    origin.execute("INSERT INTO orders VALUES (2, 32)")
    with streaming("--build") as process:
        until(confirmed(origin, slot, end_of_log(origin)))
        built = shop / "target" / "run_results.json"
        until(lambda: "model.shop.total" in built.read_text() and "model.shop.people" not in built.read_text())
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "dbt build: 1 nodes, all well" in err
    assert asked(shop, "SELECT total FROM total") == [(42,)]
    assert asked(shop, "SELECT built_at FROM people") == before


def test_a_bounded_sync_stops_where_it_is_told(shop: Path, origin: psycopg.Connection) -> None:
    assert run_command(["sync", "--quiet"]) == 0
    origin.execute("INSERT INTO orders VALUES (2, 10)")
    middle = end_of_log(origin)
    origin.execute("INSERT INTO orders VALUES (3, 10)")
    assert run_command(["sync", "--quiet", "--until-lsn", format_lsn(middle)]) == 0
    assert asked(shop, "SELECT max(id) FROM landing.orders") == [(2,)]
    assert run_command(["sync", "--quiet", "--max-seconds", "60"]) == 0
    assert asked(shop, "SELECT max(id) FROM landing.orders") == [(3,)]


def test_there_must_be_something_to_follow(dbt_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dbt_root)
    assert run_command(["stream"]) == 2


def test_a_second_ctrl_c_breaks_off() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stop_by_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set(), "however often a service manager asks, the batch is finished"
        signal.raise_signal(signal.SIGINT)
    with stop_by_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
