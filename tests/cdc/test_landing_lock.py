"""A stream of another process lets go of its landing while that is held still, and then goes on by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import psycopg
import pytest
from tests.proxy import Proxy

from dbt_bridge.connectors.postgres.changes.landing_lock import LandingLease, lock_landing, share_landing
from dbt_bridge.connectors.postgres.changes.lsn import parse_lsn
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import OriginError

SLOT = "dbt_bridge_hold"
SOURCES = f"""
sources:
  - name: shop
    schema: landing
    config: {{meta: {{bridge: {{origin: shop_pg, schema: public, replication: cdc, slot: {SLOT}}}}}}}
    tables: [{{name: orders}}]
"""
HOLDER = f"""
import sys, time
from dbt_bridge.connectors.postgres.changes.landing_lock import lock_landing
with lock_landing("shop_pg", sys.argv[1], "{SLOT}", lambda _: None):
    print("held", flush=True)
    time.sleep(600)
"""
READER = "SELECT active_pid FROM pg_replication_slots WHERE active AND slot_name = %s"
STANDS = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"


def quiet(_: str) -> None:
    """Nobody is told."""


def until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=180)


def streaming(*more: str) -> object:
    return started("-m", "dbt_bridge", "stream", "--every", "100ms", *more)


@contextmanager
def writing(database: str) -> Iterator[None]:
    """Twenty rows a second, for as long as the context lasts."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not stop.wait(0.05):
                connection.execute("INSERT INTO orders SELECT coalesce(max(id), 0) + 1, 'w' FROM orders")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def in_postgres(shop: Path, server: Server, database: str) -> Iterator[str]:
    """The same project with a Postgres warehouse, which nobody locks; its URL."""
    name = f"{database.rsplit('/', 1)[1]}_warehouse"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"'.encode())
    known = psycopg.conninfo.conninfo_to_dict(server.url(name))
    output = {"type": "postgres", "schema": "public", "threads": 2, "password": "", **known, "port": int(known["port"])}
    (shop / "profiles.yml").write_text(json.dumps({"shop": {"target": "dev", "outputs": {"dev": output}}}))
    yield server.url(name)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def shop(dbt_root: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    origin.execute("INSERT INTO orders SELECT g, 'n' FROM generate_series(1, 100) g")
    (dbt_root / "models" / "sources.yml").write_text(SOURCES)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.chdir(dbt_root)
    return dbt_root


def stands(origin: psycopg.Connection) -> int:
    ((at,),) = origin.execute(STANDS, [SLOT]).fetchall() or [(None,)]
    return parse_lsn(at) if at else 0


def end_of_log(origin: psycopg.Connection) -> int:
    ((at,),) = origin.execute("SELECT pg_current_wal_lsn()::text").fetchall()
    return parse_lsn(at)


def is_followed(origin: psycopg.Connection) -> bool:
    return bool(origin.execute(READER, [SLOT]).fetchall())


def landed(path: Path) -> int:
    with duckdb.connect(str(path)) as connection:  # to write: nobody else may have the file
        ((count,),) = connection.execute("SELECT count(*) FROM landing.orders").fetchall()
        return int(count)


@pytest.mark.parametrize("builds", [[], ["--build"]], ids=["", "with builds"])
def test_a_stream_lets_go_under_a_writer_and_arrives_after_it(
    shop: Path, origin: psycopg.Connection, database: str, builds: list[str]
) -> None:
    file = shop / "warehouse.duckdb"
    with streaming(*builds) as process, writing(database):  # type: ignore[attr-defined]
        until(lambda: stands(origin) > 0 and file.exists(), process)
        before = end_of_log(origin)
        until(lambda: stands(origin) >= before, process)
        began = time.monotonic()
        with lock_landing("shop_pg", database, SLOT, quiet):
            assert builds or time.monotonic() - began < 30, "it reacts in a second or two, and closes in order"
            count, at = landed(file), stands(origin)
            origin.execute("INSERT INTO orders SELECT g, 'held' FROM generate_series(1000000, 1000100) g")
            time.sleep(0.5)  # there is no condition to wait for: it must not go on
            assert not is_followed(origin)
            assert (landed(file), stands(origin)) == (count, at)
        later = end_of_log(origin)
        until(lambda: stands(origin) >= later, process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert err.count("shop: paused: another process") == 1
    assert "trying again" not in err, "a pause is no error"
    assert landed(file) > count + 100
    with duckdb.connect(str(file)) as connection:
        assert connection.execute("SELECT count(*) FROM landing.orders WHERE note = 'held'").fetchall() == [(101,)]


def test_a_stream_into_postgres_lets_go_too(
    shop: Path, in_postgres: str, origin: psycopg.Connection, database: str
) -> None:
    with streaming() as process, psycopg.connect(in_postgres, autocommit=True) as warehouse:  # type: ignore[attr-defined]

        def count() -> int:
            ((rows,),) = warehouse.execute("SELECT count(*) FROM landing.orders").fetchall()
            return int(rows)

        with writing(database):
            until(lambda: stands(origin) > 0, process)
            before = end_of_log(origin)
            until(lambda: stands(origin) >= before, process)
            with lock_landing("shop_pg", database, SLOT, quiet):
                still = count(), stands(origin)
                time.sleep(0.5)  # there is no condition to wait for: it must not go on
                assert (count(), stands(origin)) == still
        later = end_of_log(origin)
        until(lambda: stands(origin) >= later, process)
        assert origin.execute("SELECT count(*) FROM orders").fetchall() == [(count(),)]


def test_whoever_holds_and_is_killed_holds_nobody_up(shop: Path, origin: psycopg.Connection, database: str) -> None:
    with streaming("--json", "--metrics-port", "0") as process:  # type: ignore[attr-defined]
        until(lambda: is_followed(origin), process)
        with started("-c", HOLDER, database) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            assert not is_followed(origin)
            holder.kill()
        origin.execute("INSERT INTO orders VALUES (5000, 'after')")
        later = end_of_log(origin)
        until(lambda: stands(origin) >= later, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert sum(json.loads(line)["changes"] for line in out.splitlines()) == 1
    assert landed(shop / "warehouse.duckdb") == 101


def test_a_stream_that_starts_meanwhile_waits(shop: Path, origin: psycopg.Connection, database: str) -> None:
    with ExitStack() as stack:
        holding = stack.enter_context(ExitStack())
        holding.enter_context(lock_landing("shop_pg", database, SLOT, quiet))
        process = stack.enter_context(streaming())  # type: ignore[arg-type]
        assert process.stderr is not None
        assert "shop: paused" in process.stderr.readline()
        assert not (shop / "warehouse.duckdb").exists()
        holding.close()
        until(lambda: is_followed(origin), process)


def test_two_who_want_to_hold_wait_for_each_other(origin: psycopg.Connection, database: str) -> None:
    order: list[str] = []

    def second() -> None:
        with lock_landing("shop_pg", database, SLOT, quiet):
            order.append("second")

    with lock_landing("shop_pg", database, SLOT, quiet):
        thread = threading.Thread(target=second)
        thread.start()
        wanting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%%'"
        end = time.monotonic() + 180
        while len(origin.execute(wanting).fetchall()) < 1 and time.monotonic() < end:
            time.sleep(0.02)
        order.append("first")
    thread.join(timeout=180)
    assert order == ["first", "second"]


class Pooler(Proxy):
    """It greets its clients with a process id of its own, as PgBouncer does."""

    _KEY = b"K\x00\x00\x00\x0c"

    def __init__(self, host: str, port: int) -> None:
        self.passed = bytearray()
        super().__init__(host, port)

    def alter(self, data: bytes) -> bytes:
        if (at := data.find(self._KEY)) >= 0:
            data = data[: at + 5] + b"\0\0\0\7" + data[at + 9 :]
        self.passed.extend(data)
        return data


def test_through_a_pooler_no_lock_and_no_setting_is_left_behind(origin: psycopg.Connection, database: str) -> None:
    port = urlsplit(database).port or 5432
    pooler = Pooler("127.0.0.1", port)
    url = database.replace(f":{port}/", f":{pooler.port}/")
    try:
        lease = LandingLease("shop", "shop_pg", url, SLOT)
        assert lease.take() and not lease.is_wanted()
        with share_landing("shop_pg", url, SLOT, quiet):
            assert origin.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchall() == [(0,)]
        with pytest.raises(OriginError, match="through a pooler"), lock_landing("shop_pg", url, SLOT, quiet):
            pass
        lease.let_go()
        assert b"pg_backend_pid" in pooler.passed and b"set_config" not in pooler.passed
    finally:
        pooler.close()


def test_a_search_path_with_things_of_the_users_own_shadows_no_lock(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE SCHEMA own")
    locks = "CREATE FUNCTION own.pg_try_advisory_lock(bigint) RETURNS boolean LANGUAGE sql RETURN false"
    origin.execute(locks)
    origin.execute(f"ALTER DATABASE {origin.info.dbname} SET search_path = own, pg_catalog".encode())
    with lock_landing("shop_pg", database, SLOT, quiet, patience=1):
        assert origin.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchall() == [(2,)]


def test_who_does_not_let_go_is_named(
    origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbt_bridge.connectors.postgres.changes.landing_lock._TELL", 0.0)
    lease, messages = LandingLease("shop", "shop_pg", database, SLOT), []
    assert lease.take()
    try:
        with (
            pytest.raises(OriginError) as refused,
            lock_landing("shop_pg", database, SLOT, messages.append, patience=0.5),
        ):
            pass
        assert "dbt-bridge at" in refused.value.what and "server process" in refused.value.what
        assert "pg_terminate_backend" in refused.value.mend
        assert len(messages) == 1 and "waiting for dbt-bridge at" in messages[0]
    finally:
        lease.let_go()


def test_a_reader_who_knows_nothing_of_this_is_waited_for_and_named(origin: psycopg.Connection, database: str) -> None:
    origin.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
    origin.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    with closing(psycopg.connect(f"{database}?replication=database", autocommit=True)) as reader:
        options = "(proto_version '1', publication_names 'everything')"
        reader.pgconn.send_query(f"START_REPLICATION SLOT {SLOT} LOGICAL 0/0 {options}".encode())
        end = time.monotonic() + 180
        while not is_followed(origin) and time.monotonic() < end:
            time.sleep(0.02)
        with (
            pytest.raises(OriginError, match=rf"server process {reader.info.backend_pid}"),
            lock_landing("shop_pg", database, SLOT, quiet, patience=0.3),
        ):
            pass
