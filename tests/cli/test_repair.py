"""`dbt-bridge repair`, as a person and a program run it, also while a stream follows the same tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import psycopg
import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.connectors.postgres.changes.lsn import parse_lsn

SLOT = "dbt_bridge_cli_repair"
SOURCES = f"""
sources:
  - name: shop
    schema: landing
    config: {{meta: {{bridge: {{origin: shop_pg, schema: public, replication: cdc, slot: {SLOT}}}}}}}
    tables: [{{name: orders}}]
"""
SPOIL = "UPDATE landing.orders SET note = 'wrong' WHERE id <= 3; DELETE FROM landing.orders WHERE id = 4"
WRONG = "SELECT count(*) FILTER (note = 'wrong'), count(*) FILTER (id = 4) FROM landing.orders"


@pytest.fixture
def shop(dbt_root: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    origin.execute("INSERT INTO orders SELECT g, 'n' FROM generate_series(1, 100) g")
    (dbt_root / "models" / "sources.yml").write_text(SOURCES)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.chdir(dbt_root)
    return dbt_root


def asked(root: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(root / "warehouse.duckdb")) as connection:
        return connection.execute(sql).fetchall()


def test_a_person_and_a_program_are_told_what_was_repaired(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["sync", "--quiet"]) == 0
    asked(shop, SPOIL)
    capsys.readouterr()
    assert run_command(["repair", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "landing.orders" in told and "dry run: nothing was written" in told
    assert asked(shop, WRONG) == [(3, 0)]

    assert run_command(["build", "--verify", "--quiet"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and "landing.orders" in told.err and "dbt-bridge repair" in told.err

    assert run_command(["repair", "--max-share", "2%", "--quiet"]) == 1
    told = "".join(capsys.readouterr())
    assert "4 of 100 rows of duckdb: landing.orders differ (4.00%), and a repair may touch 2" in told
    assert run_command(["repair", "--max-share", "half"]) == 2
    assert run_command(["repair", "--select", "source:shop.orders", "--exclude", "source:shop.orders"]) == 2
    assert asked(shop, WRONG) == [(3, 0)]

    capsys.readouterr()
    assert run_command(["repair", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["error"]) == ("success", None)
    assert [p["status"] for p in document["before"]] == ["different"]
    assert [p["status"] for p in document["parity"]] == ["equal"]
    (receipt,) = document["receipts"]
    assert (receipt["hop"], receipt["rows_inserted"], receipt["rows_updated"]) == ("repair", 1, 3)
    assert asked(shop, WRONG) == [(0, 1)]
    assert run_command(["verify", "--quiet"]) == 0


def until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_stream_makes_room_for_it(shop: Path, origin: psycopg.Connection) -> None:
    def confirmed() -> int:
        of = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
        ((at,),) = origin.execute(of, [SLOT]).fetchall() or [(None,)]
        return parse_lsn(at) if at else 0

    def now() -> int:
        ((at,),) = origin.execute("SELECT pg_current_wal_lsn()::text").fetchall()
        return parse_lsn(at)

    assert run_command(["sync", "--quiet"]) == 0
    asked(shop, SPOIL)
    command = [sys.executable, "-m", "dbt_bridge", "stream", "--every", "100ms"]
    process = subprocess.Popen(command, env=os.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        origin.execute("INSERT INTO orders VALUES (200, 'streamed')")
        end = now()
        until(lambda: confirmed() >= end, process)
        assert run_command(["repair", "--quiet"]) == 0
        origin.execute("INSERT INTO orders VALUES (201, 'streamed')")
        end = now()
        until(lambda: confirmed() >= end, process)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=180)
    finally:
        process.kill()
        process.communicate(timeout=180)
    assert process.returncode == 0, told
    assert told.count("paused: another process") == 1
    assert asked(shop, WRONG) == [(0, 1)]
    assert asked(shop, "SELECT count(*) FROM landing.orders") == [(102,)]
