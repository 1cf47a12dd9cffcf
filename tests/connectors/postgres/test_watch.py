"""A server that works is waited for, one that can no longer be heard is not: on real servers behind a proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg.conninfo import make_conninfo
from tests.proxy import Proxy

from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.connectors.postgres.destination.session import connect
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.wire.watch import Silence, find_keepalives
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import ConnectionFailed, DestinationError, OriginError
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.system.owned_reader import make_reader
from dbt_bridge.system.retry import is_transient
from dbt_bridge.system.silence import Said

Proxied = Callable[..., tuple[str, Proxy]]
SOON = {"keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "2", "connect_timeout": "2"}
ROWS = pa.table({"id": pa.array(range(200_000), pa.int64()), "note": pa.array(["n" * 40] * 200_000)})
NOTES = Table(TableName("landing", "notes"), (Column("id", pa.int64()), Column("note", pa.string())))


@pytest.fixture
def notes(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE SCHEMA landing")
    origin.execute(
        "CREATE TABLE landing.notes AS SELECT g AS id, repeat('n', 40) AS note FROM generate_series(1, 200000) g"
    )
    origin.execute("ALTER TABLE landing.notes ADD PRIMARY KEY (id)")
    return origin


def is_connected(origin: psycopg.Connection, pid: int | None) -> bool:
    assert pid is not None
    return bool(origin.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall())


def test_a_server_that_works_is_waited_for(origin: psycopg.Connection, database: str, proxied: Proxied) -> None:
    url, proxy = proxied(database, **SOON)
    origin.execute("SELECT pg_advisory_lock(7)")
    with closing(connect(url, "here")) as connection:
        look, upto = connection.watch.look, proxy.connections + 3

        def let_go_after_three_looks(silent: float) -> None:
            look(silent)
            if proxy.connections == upto:
                origin.execute("SELECT pg_advisory_unlock_all()")

        connection.look = let_go_after_three_looks
        connection.execute("SELECT pg_advisory_lock(7)")
        assert proxy.connections == upto


def test_an_answer_that_the_network_lost_is_not_waited_for(
    origin: psycopg.Connection, database: str, proxied: Proxied
) -> None:
    url, proxy = proxied(database, **SOON)
    with closing(connect(url, "here")) as connection:
        pid = connection.watch.pid
        assert is_connected(origin, pid)
        proxy.fail_on("where is it", "stall")
        with pytest.raises(Silence, match=r"no answer for \d+ s, while the server has answered or waits for us"):
            connection.execute("SELECT 'where is it'")
        while is_connected(origin, pid):
            pass  # it was ended, and is gone in a moment
    assert proxy.struck.is_set()


def test_a_commit_that_did_not_arrive_is_not_taken_later(
    origin: psycopg.Connection, database: str, proxied: Proxied
) -> None:
    origin.execute("CREATE TABLE kept (id int)")
    url, proxy = proxied(database, **SOON)
    with closing(connect(url, "here")) as connection:
        pid = connection.watch.pid
        proxy.fail_on("COMMIT", "stall")
        with pytest.raises(Silence), connection.transaction():
            connection.execute("INSERT INTO kept VALUES (1)")
    while is_connected(origin, pid):
        pass
    proxy.close()  # what is on its way now finds nobody
    assert origin.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_network_that_is_gone_altogether_is_told_so(
    origin: psycopg.Connection, database: str, proxied: Proxied
) -> None:
    url, proxy = proxied(database, **SOON)
    with closing(connect(url, "here")) as connection:
        proxy.freeze()
        with pytest.raises(Silence, match="the server does not answer another connection either"):
            connection.execute("SELECT 1")


@pytest.mark.parametrize("bytes_read", [2_000, 3_000_000], ids=["as it begins", "in the middle"])
def test_a_copy_whose_network_went_silent_ends(
    notes: psycopg.Connection, database: str, proxied: Proxied, bytes_read: int
) -> None:
    url, proxy = proxied(database, **SOON)
    with PostgresOrigin("shop", url) as origin:
        columns = origin.describe(NOTES.name).table.columns
        proxy.fail_after(bytes_read, "stall")
        with pytest.raises(OriginError, match="no answer for") as broken:
            origin.rows(NOTES.name, columns).read_all()
    assert broken.value.broke_off
    assert proxy.struck.is_set()


@pytest.mark.parametrize("moment", ["COPY ", "COMMIT"])
def test_a_load_whose_network_went_silent_ends(
    origin: psycopg.Connection, database: str, proxied: Proxied, moment: str
) -> None:
    url, proxy = proxied(database, **SOON)
    with PostgresWarehouse("here", url) as warehouse:
        proxy.fail_on(moment, "stall")
        with pytest.raises(DestinationError, match="no answer for") as broken:
            warehouse.load(Load(NOTES, "replace", "first"), ROWS.to_reader())
        assert is_transient(broken.value)
        assert proxy.struck.is_set()
        loaded = warehouse.load(Load(NOTES, "replace", "second"), ROWS.to_reader())
    assert loaded.rows_inserted == ROWS.num_rows


def test_a_copy_that_moves_on_is_waited_for(
    notes: psycopg.Connection, database: str, until: Callable[[Callable[[], object]], object]
) -> None:
    """Its client, or the network, takes longer for a batch of rows than for its turn to be asked."""
    asked = "SELECT bytes_processed FROM pg_stat_progress_copy JOIN pg_stat_activity USING (pid)"
    waits = " WHERE pid = %s AND wait_event = 'ClientRead' AND bytes_processed > %s"

    def write(first: int) -> None:
        copy.write("".join(f"{number}\t{'n' * 40}\n" for number in range(first, first + 20_000)).encode())

    with closing(connect(database, "here")) as connection, pytest.raises(psycopg.OperationalError):
        watch = connection.watch
        with connection.cursor().copy("COPY landing.notes FROM STDIN") as copy:
            write(1_000_000)
            until(lambda: notes.execute(asked + waits, [watch.pid, 500_000]).fetchall())
            assert watch.ask(ends=False) is Said.WAITS_FOR_US
            write(2_000_000)
            until(lambda: notes.execute(asked + waits, [watch.pid, 1_500_000]).fetchall())
            assert watch.ask(ends=True) is Said.WORKS
            assert watch.ask(ends=True) is Said.WAITS_FOR_US, "it stands still"
            until(lambda: not is_connected(notes, watch.pid))


def test_an_interruption_ends_a_load_whose_rows_take_their_time(
    origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    def rows() -> Iterator[pa.RecordBatch]:
        yield from ROWS.to_batches()
        begun.set()
        release.wait()

    def interrupt(_: object) -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr("dbt_bridge.system.silence.Watch.look_at_waiting", interrupt)
    with PostgresWarehouse("here", make_conninfo(database, options="-c lock_timeout=20s")) as warehouse:
        with pytest.raises(KeyboardInterrupt):
            warehouse.load(Load(NOTES, "replace", "first"), make_reader(ROWS.schema, rows()))
        assert origin.execute("SELECT relname FROM pg_class WHERE relname ~ 'stage'").fetchall() == []
        release.set()


def test_a_stream_whose_beginning_got_no_answer_ends(
    notes: psycopg.Connection, database: str, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReplicationStream, "silence", 3.0)
    url, proxy = proxied(database, **SOON)
    notes.execute("CREATE PUBLICATION all_of_it FOR ALL TABLES")
    with Replication("shop", url) as replication, replication.create_slot("here") as slot:
        at = slot.consistent_point

    def stream() -> ReplicationStream:
        return ReplicationStream("shop", url, "here", ["all_of_it"], at, binary=False, spool_folder=None)

    for fault in ("stall", "lose"):
        proxy.fail_on("START_REPLICATION", fault)  # type: ignore[arg-type]
        with pytest.raises((ConnectionFailed, OriginError)), stream():
            pass
        assert proxy.struck.is_set()
    with stream():
        pass


def test_libpqs_own_parameters_set_how_long(database: str) -> None:
    plain: Any = find_keepalives(database)
    assert (plain.idle, plain.bound) == (30, 60)
    mine = find_keepalives(f"{database}?keepalives_idle=300&keepalives_interval=20&keepalives_count=6")
    assert (mine.idle, mine.bound) == (300, 420)
