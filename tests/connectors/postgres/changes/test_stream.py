"""The stream of a slot: nothing is lost, nothing comes twice, and what breaks is said."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.receiver import RUN_BYTES, RUN_MESSAGES
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.stream import OBJECT_IN_USE, ReplicationStream
from dbt_bridge.connectors.postgres.changes.walsender import Walsender
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import ConnectionFailed, OriginError
from dbt_bridge.nouns.table import TableName
from dbt_bridge.system.retry import SLOT

ITEMS = TableName("public", "items")


def _slot(url: str, name: str, tables: tuple[TableName, ...] = (ITEMS,)) -> int:
    with Replication("shop", url) as replication:
        publication.ensure(replication, name, tables, [])
        with replication.create_slot(name) as slot:
            return slot.consistent_point


def _now(url: str) -> int:
    with Replication("shop", url) as replication:
        return replication.current_lsn()


def _stream(url: str, name: str, start: int, spool: Path | None = None, *, binary: bool = False) -> ReplicationStream:
    return ReplicationStream("shop", url, name, [name, f"{name}_inserts"], start, binary=binary, spool_folder=spool)


def _changes(reader) -> list[tuple[str, str, tuple[str | None, ...]]]:
    return [change for transaction in reader.transactions for change in transaction.changes]


@pytest.fixture
def items(database: str) -> Iterator[psycopg.Connection]:
    """A connection to a database with one table."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
        yield connection


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server that tests may restart and misconfigure."""
    running = postgres.start(settings={"fsync": "off"})
    try:
        yield running
    finally:
        postgres.remove(running)


def test_every_version_sends_what_happened(each_database: str, taken: Callable, tmp_path: Path) -> None:
    with psycopg.connect(each_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
        connection.execute("CREATE TABLE log (line text)")
        with Replication("shop", each_database) as replication:
            publication.ensure(replication, "every", [ITEMS], [TableName("public", "log")])
            with replication.create_slot("every") as slot:
                start = slot.consistent_point
        connection.execute("INSERT INTO items VALUES (1, 'a'), (2, NULL)")
        connection.execute("UPDATE items SET name = 'b' WHERE id = 1")
        connection.execute("DELETE FROM items WHERE id = 2")
        connection.execute("INSERT INTO log VALUES ('x')")
        connection.execute("UPDATE log SET line = 'y'")  # works, as this table is published without its updates
        connection.execute("TRUNCATE items")
        for binary in (False, True):
            with _stream(each_database, "every", start, tmp_path, binary=binary) as stream:
                reader = taken(stream, _now(each_database))
            one = "00000001" if binary and connection.info.server_version >= 140000 else "1"
            two = one.replace("1", "2")
            text = {value: value.encode().hex() if one != "1" else value for value in "abx"}
            assert _changes(reader) == [
                ("I", "public.items", (one, text["a"])),
                ("I", "public.items", (two, None)),
                ("U", "public.items", (one, text["b"])),
                ("D", "public.items", (two, None)),
                ("I", "public.log", (text["x"],)),
                ("T", "public.items", ()),
            ]


def test_snapshot_and_stream_have_no_gap_and_no_duplicate_while_writers_run(
    database: str, items: psycopg.Connection, taken: Callable, until: Callable
) -> None:
    stop, written = threading.Event(), [0, 0, 0]

    def write(writer: int) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not stop.is_set():
                written[writer] += 1
                connection.execute("INSERT INTO items VALUES (%s, 'w')", [writer * 1_000_000 + written[writer]])

    writers = [threading.Thread(target=write, args=(n,)) for n in range(len(written))]
    for writer in writers:
        writer.start()
    try:
        with Replication("shop", database) as replication:
            publication.ensure(replication, "gapless", [ITEMS], [])
            until(lambda: min(written) > 20)
            with replication.create_slot("gapless") as slot, psycopg.connect(database) as copy:
                before = sum(written)
                copy.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                copy.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'".encode())
                until(lambda: sum(written) > before + 50)
                copied = [str(row[0]) for row in copy.execute("SELECT id FROM items")]
            with _stream(database, "gapless", slot.consistent_point) as stream:
                taken(stream, _now(database))  # while they write
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    with _stream(database, "gapless", slot.consistent_point) as stream:
        streamed = [values[0] for _, _, values in _changes(taken(stream, _now(database)))]
    there = sorted(str(row[0]) for row in items.execute("SELECT id FROM items"))
    assert sorted(copied + streamed) == there
    assert copied and streamed


def test_everything_acknowledged_before_is_below_the_current_lsn_and_comes(
    database: str, items: psycopg.Connection, taken: Callable
) -> None:
    """Also what `synchronous_commit = off` acknowledged before it was on disk, at any place of a page of the log."""
    start = _slot(database, "asynchronous")
    items.execute("SET synchronous_commit = off")
    with Replication("shop", database) as replication, _stream(database, "asynchronous", start) as stream:
        reader = None
        for n in range(60):
            items.execute("INSERT INTO items VALUES (%s, %s)", [n, "x" * (n * 53)])
            reader = taken(stream, replication.current_lsn(), reader, acknowledge=True)
            assert [values[0] for _, _, values in _changes(reader)] == [str(i) for i in range(n + 1)]


def test_an_open_transaction_does_not_keep_the_stream_from_the_current_lsn(
    database: str, items: psycopg.Connection, taken: Callable
) -> None:
    """Its records may be in the log's buffers only, where an idle server leaves them."""
    start = _slot(database, "idle")
    with _stream(database, "idle", start) as stream, psycopg.connect(database) as other:
        other.execute("INSERT INTO items SELECT i, 'open' FROM generate_series(1, 100) i")
        assert _changes(taken(stream, _now(database))) == []


def test_a_role_that_only_reads_can_ask_for_the_current_lsn(database: str, items: psycopg.Connection) -> None:
    """A logical message is no change of data: Postgres lets read-only transactions write it."""
    assert _now(f"{database}?options=-c%20default_transaction_read_only%3Don") > 0


def test_an_idle_slot_advances_while_another_database_writes(
    server: Server, database: str, items: psycopg.Connection, taken: Callable, until: Callable
) -> None:
    start = _slot(database, "advancing")
    with _stream(database, "advancing", start) as stream, psycopg.connect(server.url(), autocommit=True) as other:
        other.execute("CREATE TABLE advancing AS SELECT i FROM generate_series(1, 100000) i")
        other.execute("DROP TABLE advancing")
        taken(stream, _now(server.url()), acknowledge=True)
        with Replication("shop", database) as replication:
            until(lambda: replication.slot("advancing").confirmed_flush_lsn > start + 1_000_000)


def test_what_other_databases_write_costs_the_consumer_nothing(
    server: Server, database: str, items: psycopg.Connection, taken: Callable
) -> None:
    """Each of their commits makes the server tell how far it is; the consumer is told a few times per second."""
    start = _slot(database, "aside")
    with _stream(database, "aside", start) as stream, psycopg.connect(server.url(), autocommit=True) as other:
        taken(stream, _now(database))
        begun, runs, commits = time.monotonic(), 0, 0
        while time.monotonic() < begun + 1.5:
            other.execute("SELECT pg_logical_emit_message(true, 'aside', '')")
            commits += 1
            runs += stream.next(0) is not None
        assert commits > 100
        assert 2 <= runs <= 8
        items.execute("INSERT INTO items VALUES (1, 'a')")
        assert len(_changes(taken(stream, _now(database)))) == 1


def test_an_idle_stream_takes_no_time(database: str, items: psycopg.Connection, taken: Callable) -> None:
    start = _slot(database, "resting")
    with _stream(database, "resting", start) as stream:
        taken(stream, _now(database), acknowledge=True)
        while stream.next(0.5) is not None:
            pass
        before, begun = time.process_time(), time.monotonic()
        while time.monotonic() < begun + 2:
            stream.next(1)
        assert time.process_time() - before < 0.02 * 2


def test_closing_tells_the_server_the_last_acknowledgement_and_frees_the_slot(
    database: str, items: psycopg.Connection, taken: Callable
) -> None:
    start = _slot(database, "closing")
    with Replication("shop", database) as replication:
        for n in range(5):
            items.execute("INSERT INTO items VALUES (%s, 'a')", [n])
            with _stream(database, "closing", start) as stream:
                upto = taken(stream, replication.current_lsn()).sent
                stream.acknowledge(upto)
            state = replication.slot("closing")
            assert (state.confirmed_flush_lsn, state.active) == (upto, False)


def test_closing_in_the_middle_of_a_large_transaction_ends_in_time(
    database: str, items: psycopg.Connection, taken: Callable, tmp_path: Path
) -> None:
    """The server would end the stream only after the transaction; it is not waited for, and nothing is lost."""
    start = _slot(database, "middle")
    items.execute("INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(1, 150000) i")
    upto = _now(database)
    for folder in (None, tmp_path):
        stream = _stream(database, "middle", start, folder)
        stream.goodbye = 0.1
        with stream:
            assert stream.next(180) is not None
            begun = time.monotonic()
        assert time.monotonic() - begun < 5
    assert not list(tmp_path.glob("streamed-*"))
    with _stream(database, "middle", start, tmp_path) as stream:
        rows, run = 0, stream.next(180)
        while run is not None:
            rows += int((run.kind == ord("I")).sum())
            run = stream.next(180) if run.sent < upto else None
    assert rows == 150_000


def test_what_was_not_acknowledged_comes_again(database: str, items: psycopg.Connection, taken: Callable) -> None:
    start = _slot(database, "again")
    items.execute("INSERT INTO items VALUES (1, 'a')")
    middle = _now(database)
    items.execute("INSERT INTO items VALUES (2, 'b')")
    with _stream(database, "again", start) as stream:
        assert len(_changes(taken(stream, _now(database)))) == 2
        stream.acknowledge(middle)
    with _stream(database, "again", start) as stream:
        assert _changes(taken(stream, _now(database))) == [("I", "public.items", ("2", "b"))]
    with _stream(database, "again", _now(database)) as stream:
        assert _changes(taken(stream, _now(database))) == []


def test_a_prepared_transaction_comes_when_it_is_committed(
    database: str, items: psycopg.Connection, taken: Callable, tmp_path: Path
) -> None:
    """Large ones too, which the server streams before."""
    start = _slot(database, "prepared")
    url = f"{database}?options=-c%20logical_decoding_work_mem%3D64kB"
    for n, rows in enumerate((1, 3000)):
        numbers = f"generate_series({n * 10_000 + 1}, {n * 10_000 + rows})"
        for name in ("kept", "dropped"):
            items.execute("BEGIN")
            items.execute(f"INSERT INTO items SELECT i, '{name}' FROM {numbers} i".encode())  # noqa: S608
            items.execute(f"PREPARE TRANSACTION '{name}'".encode())
            if name == "dropped":
                items.execute("ROLLBACK PREPARED 'dropped'")
            else:
                with _stream(url, "prepared", start, tmp_path) as stream:
                    assert _changes(taken(stream, _now(database))) == []
                items.execute("COMMIT PREPARED 'kept'")
                with _stream(url, "prepared", start, tmp_path) as stream:
                    reader = taken(stream, _now(database))
                    stream.acknowledge(reader.sent)
                assert [len(t.changes) for t in reader.transactions] == [rows]
                assert {values[1] for _, _, values in _changes(reader)} == {"kept"}
                items.execute("TRUNCATE items")
                start = _now(database)


def test_runs_are_bounded_and_so_is_what_waits_for_a_slow_consumer(
    server: Server, database: str, items: psycopg.Connection, taken: Callable, until: Callable
) -> None:
    """The server hears from us all the while, though its timeout is shorter than the consumer's pause."""
    start = _slot(database, "slow")
    items.execute("INSERT INTO items SELECT i, repeat('x', 200) FROM generate_series(1, 200000) i")
    upto = _now(database)
    stream = _stream(f"{database}?options=-c%20wal_sender_timeout%3D3s", "slow", start)
    stream.status_every = 0.1
    rows = sizes = 0
    heard = (
        "SELECT max(reply_time) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid "
        "WHERE s.slot_name = 'slow'"
    )
    with stream:
        first = stream.next(180)
        was = until(lambda: items.execute(heard).fetchone()[0])
        until(lambda: (items.execute(heard).fetchone()[0] - was).total_seconds() > 5)
        assert len(stream._runs._ready) <= 3
        run = first
        while run is not None:
            assert len(run) <= RUN_MESSAGES and len(run.buffer) <= RUN_BYTES + 1_000
            rows, sizes = rows + int((run.kind == ord("I")).sum()), max(sizes, len(run.buffer))
            run = stream.next(180) if run.sent < upto else None
    assert rows == 200_000
    assert sizes > RUN_BYTES // 16, "what came meanwhile is given together"  # all of it, where the server is not slow


def test_messages_of_any_size_come_through_tls(taken: Callable) -> None:
    """libpq takes less than a TLS record at once, and the socket does not show that the rest is there already."""
    folders = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "postgres").exists()]
    if not folders or shutil.which("openssl") is None:
        pytest.skip("no PostgreSQL with TLS is installed here (that of pip is built without)")
    server = postgres.start(settings={"fsync": "off"}, binaries=folders[0])
    try:
        names = [server.data / "server.crt", server.data / "server.key"]
        command = ["openssl", "req", "-new", "-x509", "-days", "1", "-nodes", "-subj", "/CN=localhost"]
        subprocess.run([*command, "-out", names[0], "-keyout", names[1]], check=True, capture_output=True)
        for name in names:
            name.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(name, pwd.getpwnam("nobody").pw_uid, -1)
        server.stop()
        again = postgres.start(server.data, {"fsync": "off", "ssl": "on"}, binaries=folders[0])
        try:
            _sizes_through(f"{again.url()}?sslmode=require", taken)
        finally:
            again.stop()
    finally:
        postgres.remove(server)


def _sizes_through(url: str, taken: Callable) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.pgconn.ssl_in_use
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
        connection.execute("ALTER TABLE items ALTER name SET STORAGE EXTERNAL")
        start = _slot(url, "tls")
        sizes = [10, 8_100, 8_192, 16_300, 16_384, 40_000, 100_000, 3_000_000]
        for n, size in enumerate(sizes):
            connection.execute("INSERT INTO items VALUES (%s, repeat('x', %s))", [n, size])
        with _stream(url, "tls", start) as stream:
            begun = time.monotonic()
            reader = taken(stream, _now(url))
            assert [len(values[1]) for _, _, values in _changes(reader)] == sizes
            assert time.monotonic() - begun < 8, "nothing waited for the next status update"


def test_a_killed_walsender_is_told_and_the_next_stream_goes_on(
    database: str, items: psycopg.Connection, taken: Callable
) -> None:
    start = _slot(database, "killed")
    with _stream(database, "killed", start) as stream:
        items.execute("INSERT INTO items VALUES (1, 'a')")
        assert len(_changes(taken(stream, _now(database)))) == 1
        items.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'killed'")
        with pytest.raises(OriginError, match="terminating connection due to administrator command"):
            for _ in range(100):
                stream.next(10)
    items.execute("INSERT INTO items VALUES (2, 'b')")
    with _stream(database, "killed", start) as stream:
        assert [values[0] for _, _, values in _changes(taken(stream, _now(database)))] == ["1", "2"]


def test_a_restart_of_the_server_is_told_and_the_next_stream_goes_on(
    own_server: Server, taken: Callable, until: Callable
) -> None:
    """The server waits in its shutdown until we have acknowledged what it sent; so it must not wait for ever."""
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
        start = _slot(own_server.url(), "restarted")
        connection.execute("INSERT INTO items VALUES (1, 'a')")
    stopping = threading.Thread(target=own_server.stop)
    with _stream(own_server.url(), "restarted", start) as stream:
        taken(stream, _now(own_server.url()))
        stopping.start()
        with pytest.raises(OriginError, match=r"shut|closed|terminat"):
            while True:
                run = stream.next(180)
                assert run is not None, "the server does not end"
                stream.acknowledge(start)
                stream.acknowledge(run.sent)
    stopping.join()
    with pytest.raises(ConnectionFailed, match="refused"), _stream(own_server.url(), "restarted", start):
        pass
    again = postgres.start(own_server.data, {"fsync": "off"})
    try:
        with psycopg.connect(again.url(), autocommit=True) as connection:
            connection.execute("INSERT INTO items VALUES (2, 'b')")
        with _stream(again.url(), "restarted", start) as stream:
            assert [values[0] for _, _, values in _changes(taken(stream, _now(again.url())))][-1] == "2"
    finally:
        again.stop()


def test_a_reset_connection_is_told_and_the_next_stream_goes_on(
    database: str, items: psycopg.Connection, taken: Callable, proxied: Callable
) -> None:
    start = _slot(database, "reset")
    url, proxy = proxied(database)
    with _stream(url, "reset", start) as stream:
        items.execute("INSERT INTO items VALUES (1, 'a')")
        taken(stream, _now(database))
        proxy.reset()
        with pytest.raises(OriginError, match=r"reset|closed"):
            for _ in range(100):
                stream.next(10)
    with _stream(url, "reset", start) as stream:
        assert len(_changes(taken(stream, _now(database)))) == 1


def test_a_connection_that_the_network_forgot_is_noticed(
    database: str, items: psycopg.Connection, taken: Callable, proxied: Callable
) -> None:
    start = _slot(database, "forgotten")
    url, proxy = proxied(database)
    stream = _stream(url, "forgotten", start)
    stream.status_every, stream.silence = 0.1, 2.0
    with stream:
        taken(stream, _now(database))
        proxy.freeze()
        with pytest.raises(ConnectionFailed, match="has sent nothing for"):
            for _ in range(100):
                stream.next(10)


def test_a_quiet_server_that_answers_is_not_taken_for_dead(
    database: str, items: psycopg.Connection, taken: Callable, until: Callable
) -> None:
    start = _slot(database, "quiet")
    stream = _stream(database, "quiet", start)
    stream.status_every, stream.silence = 0.05, 1.0  # less would be a busy machine's
    with stream:
        upto = taken(stream, _now(database)).sent
        for _ in range(15):
            run = stream.next(0.1)
            assert run is None or run.sent >= upto
        items.execute("INSERT INTO items VALUES (1, 'a')")
        assert len(_changes(taken(stream, _now(database)))) == 1


def test_a_second_reader_fails_and_names_the_first(database: str, items: psycopg.Connection, taken: Callable) -> None:
    start = _slot(database, "shared")
    with _stream(database, "shared", start) as first:
        second = _stream(database, "shared", start)
        second.in_use = replace(SLOT, seconds=0.1)
        pid = items.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'shared'").fetchone()[0]
        with pytest.raises(OriginError, match=f"in use by dbt-bridge at .*{pid}"), second:
            pass
        items.execute("INSERT INTO items VALUES (1, 'a')")
        assert len(_changes(taken(first, _now(database)))) == 1


def test_the_refusal_of_a_slot_in_use_carries_its_sqlstate(database: str, items: psycopg.Connection) -> None:
    start = _slot(database, "shared")
    with (
        _stream(database, "shared", start),
        Replication("shop", database) as replication,
        Walsender(replication.connections) as walsender,
        pytest.raises(OriginError) as refused,
    ):
        walsender.command("START_REPLICATION SLOT shared LOGICAL 0/0 (proto_version '1', publication_names 'shared')")
    assert refused.value.sqlstate == OBJECT_IN_USE


def test_a_slot_that_lost_its_log_is_refused_by_name(own_server_again: Server) -> None:
    url = own_server_again.url()
    with psycopg.connect(url, autocommit=True) as connection, Replication("shop", url) as replication:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
        start = _slot(url, "lost")
        for _ in range(20):
            connection.execute("SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'x', repeat('x', 1000))")
            connection.execute("CHECKPOINT")
        state = replication.slot("lost")
        assert state.is_lost and state.wal_status == "lost"
        with pytest.raises(OriginError, match="'lost' lost log") as raised, _stream(url, "lost", start):
            pass
        assert "dbt-bridge slots drop lost" in raised.value.mend


@pytest.fixture
def own_server_again() -> Iterator[Server]:
    running = postgres.start(settings={"fsync": "off", "max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"})
    try:
        yield running
    finally:
        postgres.remove(running)


def test_absent_slots_and_publications_are_named(database: str, items: psycopg.Connection) -> None:
    with pytest.raises(OriginError, match="no replication slot 'absent'"), _stream(database, "absent", 0):
        pass
    with Replication("shop", database) as replication, replication.create_slot("unpublished") as slot:
        start = slot.consistent_point
    items.execute("INSERT INTO items VALUES (1, 'a')")
    with _stream(database, "unpublished", start) as stream:
        if items.info.server_version >= 180000:
            return  # since 18 a publication that is not there yet is passed over
        with pytest.raises(OriginError, match="read from before the publication was made"):
            while stream.next(180):
                pass
