"""What goes wrong outside: each fault names what, where and the next command, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server

PASSWORD = "the-r1ght-one"
WRONG = "c4n4ry-wr0ng"
YAML = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public}}}
    tables: [{name: orders}]
exposures:
  - name: crm
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('big')]
    config: {meta: {bridge: {destination: crm, schema: crm, table: big, write_disposition: replace}}}
"""


@dataclass(frozen=True)
class Shop:
    """A dbt project, and its origin on a server that asks for a password."""

    root: Path
    server: Server

    @property
    def url(self) -> str:
        return self.server.url()

    def landed(self) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.root / "warehouse.duckdb"), read_only=True) as connection:
            found = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'landing' AND table_name = 'orders'"
            if connection.execute(found).fetchall() == [(0,)]:
                return []
            return connection.execute("SELECT count(*), sum(amount) FROM landing.orders").fetchall()


@pytest.fixture(scope="module")
def locked_server() -> Iterator[Server]:
    running = postgres.start(settings={"fsync": "off"}, password=PASSWORD)
    try:
        yield running
    finally:
        postgres.remove(running)


@pytest.fixture
def shop(dbt_root: Path, locked_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    (dbt_root / "models" / "all.yml").write_text(YAML)
    (dbt_root / "models" / "big.sql").write_text("select * from {{ source('shop', 'orders') }}")
    with psycopg.connect(locked_server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(10,2) NOT NULL, note text)")
        connection.execute("INSERT INTO orders VALUES (1, 10), (2, 20)")
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", locked_server.url())
    monkeypatch.chdir(dbt_root)
    yield Shop(dbt_root, locked_server)
    with psycopg.connect(locked_server.url(), autocommit=True) as connection:
        connection.execute("DROP TABLE orders")


Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """One command with --json in this process; answers its exit code and document, and finds no password in either."""

    def command(*arguments: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = run_command([*arguments, "--json"])
        said = capfd.readouterr()
        assert WRONG not in said.out + said.err
        document: dict[str, Any] = json.loads(said.out)
        return code, document

    return command


def test_a_wrong_password_is_said_without_it_and_nothing_is_written(
    shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("sync")[0] == 0
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", shop.url.replace(PASSWORD, WRONG))

    code, document = run("build")
    (receipt,) = document["receipts"]
    assert (code, receipt["status"], receipt["rows_loaded"]) == (1, "failed", 0)
    assert "origin 'shop_pg' at 127.0.0.1" in receipt["error"]
    assert 'password authentication failed for user "postgres"' in receipt["error"]
    assert "-> check [sources.shop_pg] credentials in .dlt/secrets.toml" in receipt["error"]
    assert document["dbt"] is None
    assert shop.landed() == [(2, 30)]

    code, document = run("doctor")
    faults = [check for check in document["checks"] if check["status"] == "fault"]
    assert (code, faults[0]["subject"]) == (1, "origin shop_pg")
    assert "password authentication failed" in faults[0]["what"]


def test_a_destination_that_is_not_installed_is_answered_with_pip(
    shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESTINATION__CRM__DESTINATION_TYPE", "snowflake")
    monkeypatch.setenv("DESTINATION__CRM__CREDENTIALS", f"snowflake://u:{WRONG}@account/db/schema?warehouse=w&role=r")
    code, document = run("build")
    receipt = document["receipts"][-1]
    assert (code, receipt["hop"], receipt["status"]) == (1, "deliver", "failed")
    assert "'crm'" in receipt["error"]
    assert "'dlt[snowflake]'" in receipt["error"]


@pytest.mark.parametrize(
    ("adapter", "mend"),
    [("snowflake", "'dlt[snowflake]'"), ("clickhouse", "pip install dbt-clickhouse")],
)
def test_an_adapter_that_is_not_installed_is_answered_with_pip(shop: Shop, run: Run, adapter: str, mend: str) -> None:
    output = {"type": adapter, "account": "a", "schema": "s"}
    (shop.root / "profiles.yml").write_text(json.dumps({"shop": {"target": "dev", "outputs": {"dev": output}}}))
    code, document = run("build")
    assert code == 2 and mend in document["error"]["mend"]


def test_a_full_disk_under_the_warehouse_leaves_the_old_rows(shop: Shop, run: Run) -> None:
    """The limit of the file size stands for it: writing breaks off with an error of the operating system."""
    assert run("sync")[0] == 0
    with psycopg.connect(shop.url, autocommit=True) as connection:
        connection.execute("INSERT INTO orders SELECT g, 1, md5(g::text) FROM generate_series(3, 150000) g")

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    done = subprocess.run(
        [sys.executable, "-m", "dbt_bridge", "sync", "--json"], cwd=shop.root, check=False, capture_output=True,
        text=True, preexec_fn=small_files, timeout=120,
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert done.returncode == 1
    said = json.dumps(document, ensure_ascii=False)
    assert "free disk space beside the DuckDB file, then run the same command again" in said
    assert "landing.orders" in said
    assert shop.landed() == [(2, 30)]

    code, document = run("sync")
    assert (code, document["receipts"][0]["rows_loaded"]) == (0, 150_000)


def test_an_origin_that_restarts_in_the_middle_is_said_and_the_same_command_repairs(shop: Shop, run: Run) -> None:
    """The sync waits for a lock that this test holds, so the server goes away while the table is read."""
    assert run("sync")[0] == 0
    holder = psycopg.connect(shop.url)
    holder.execute("INSERT INTO orders VALUES (3, 30)")
    holder.commit()
    holder.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
    process = subprocess.Popen(
        [sys.executable, "-m", "dbt_bridge", "sync", "--json"], cwd=shop.root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(shop.url, autocommit=True) as watcher:
        _until(lambda: watcher.execute(waiting).fetchall() != [(0,)] or process.poll() is not None)
    os.kill(holder.info.backend_pid, signal.SIGKILL)  # the server ends every session, recovers and starts again
    out, err = process.communicate(timeout=180)
    holder.close()
    _until(lambda: _answers(shop.url))

    (receipt,) = json.loads(out)["receipts"]
    assert (process.returncode, receipt["status"]) == (1, "failed"), err
    assert "origin 'shop_pg', table public.orders broke off" in receipt["error"]
    assert "-> run the same command again when the server is up" in receipt["error"]
    assert shop.landed() == [(2, 30)]
    code, document = run("sync")
    assert (code, document["receipts"][0]["rows_loaded"]) == (0, 3)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _until(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
