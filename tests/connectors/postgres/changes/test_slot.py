"""Slots: made with a snapshot, told apart, waited for within bounds, dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import ConnectionFailed, OriginError, UsageError


@pytest.fixture
def replication(database: str):
    with Replication("shop", database) as opened:
        yield opened


def test_each_version_tells_who_it_is_and_how_its_slots_stand(each_database: str, each_server: Server) -> None:
    with Replication("shop", each_database) as replication:
        identity = replication.identity()
        with psycopg.connect(each_database, autocommit=True) as connection:
            system = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()[0]
            version = connection.info.server_version
        assert identity.system_identifier == system
        assert (identity.timeline, identity.server_version, identity.is_standby) == (1, version, False)
        assert each_database.endswith(f"/{identity.database}")
        before = replication.current_lsn()
        with replication.create_slot("each") as slot:
            state = replication.slot("each")
        assert slot.consistent_point >= before
        assert (state.plugin, state.database, state.kind) == ("pgoutput", identity.database, "logical")
        assert (state.active, state.is_lost, state.temporary) == (False, False, False)
        assert state.confirmed_flush_lsn == slot.consistent_point >= state.restart_lsn
        assert state.failover == (version >= 170000)
        with psycopg.connect(each_database, autocommit=True) as connection:
            connection.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 100000))")
        assert replication.slot("each").retained_bytes > 100_000
        assert [s.name for s in replication.slots() if s.database == identity.database] == ["each"]
        assert replication.drop_slot("each") is True
        assert replication.drop_slot("each") is False
        assert replication.slot("each") is None


def test_a_temporary_slot_and_its_snapshot_end_with_the_context(replication: Replication, database: str) -> None:
    with replication.create_slot("brief", temporary=True) as slot:
        assert replication.slot("brief").temporary
        with psycopg.connect(database) as other:
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            other.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'".encode())
    assert replication.slot("brief") is None
    with psycopg.connect(database) as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(psycopg.Error):
            other.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'".encode())


def test_a_snapshot_outlives_the_timeouts_of_its_role(origin: psycopg.Connection, database: str) -> None:
    """An exported snapshot is a transaction that idles while tables are copied."""
    origin.execute("CREATE ROLE hasty LOGIN REPLICATION")
    try:
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"):
            origin.execute(f"ALTER ROLE hasty SET {setting} = '50ms'".encode())
        url = database.replace("postgres@", "hasty@")
        with Replication("shop", url) as replication, replication.create_slot("hasty", temporary=True) as slot:
            origin.execute("SELECT pg_sleep(0.5)")
            with psycopg.connect(database) as other:
                other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                other.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'".encode())
    finally:
        origin.execute("DROP ROLE hasty")


def test_a_new_slot_waits_for_open_transactions_and_names_them(
    replication: Replication, origin: psycopg.Connection, database: str, until: Callable[[Callable[[], bool]], None]
) -> None:
    origin.execute("CREATE TABLE t (a int)")
    with psycopg.connect(database) as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        pid = writer.info.backend_pid
        told: list[str] = []
        with (
            pytest.raises(OriginError, match=rf"waited \d+ s for transactions of server processes {pid}") as raised,
            replication.create_slot("late", timeout=0.8, on_wait=told.append),
        ):
            pass
        assert f"pg_terminate_backend({pid})" in raised.value.mend
        until(lambda: replication.slot("late") is None)  # the server's process drops it as it ends

        def commit(said: str) -> None:
            told.append(said)
            writer.commit()

        with replication.create_slot("late", timeout=60, on_wait=commit) as slot:
            assert slot.snapshot
    assert set(told) == {f"the new slot waits for transactions of server processes {pid}"}


def test_a_new_slot_names_the_prepared_transactions_that_it_waits_for(
    replication: Replication, origin: psycopg.Connection
) -> None:
    origin.execute("CREATE TABLE t (a int)")
    origin.execute("BEGIN")
    origin.execute("INSERT INTO t VALUES (1)")
    origin.execute("PREPARE TRANSACTION 'forgotten'")
    try:
        with (
            pytest.raises(OriginError, match="prepared transactions forgotten") as raised,
            replication.create_slot("late", timeout=0.8),
        ):
            pass
        assert raised.value.mend == "ROLLBACK PREPARED 'forgotten'"
    finally:
        origin.execute("ROLLBACK PREPARED 'forgotten'")


def test_names_that_postgres_refuses_are_refused_before_it_is_asked() -> None:
    for name in ("", "Shop", "my-slot", "x" * 64, 'a"b', "é"):
        with (
            pytest.raises(UsageError, match="no name for a replication slot"),
            Replication("nowhere", "postgresql://127.0.0.1:1/x").create_slot(name),
        ):
            pass


def test_a_slot_that_is_not_ours_is_told_apart(
    server: Server, replication: Replication, origin: psycopg.Connection
) -> None:
    with Replication("other", server.url()) as elsewhere, elsewhere.create_slot("elsewhere", temporary=True):
        for look in (lambda: replication.require_usable("elsewhere"), replication.create_slot("elsewhere").__enter__):
            with pytest.raises(OriginError, match="of database 'postgres', not"):
                look()
    origin.execute("SELECT pg_create_logical_replication_slot('others', 'test_decoding')")
    with pytest.raises(OriginError, match="plugin is test_decoding, not pgoutput"):
        replication.require_usable("others")
    origin.execute("SELECT pg_create_physical_replication_slot('standby')")
    try:
        with pytest.raises(OriginError, match="a physical one"), replication.create_slot("standby"):
            pass
    finally:
        origin.execute("SELECT pg_drop_replication_slot('standby')")
    with replication.create_slot("ours"):
        pass
    with pytest.raises(OriginError, match="'ours' exists already") as raised, replication.create_slot("ours"):
        pass
    assert "dbt-bridge slots drop ours" in raised.value.mend
    assert replication.require_usable("ours").name == "ours"
    with pytest.raises(OriginError, match="no replication slot 'absent'"):
        replication.require_usable("absent")


def test_when_all_slots_are_in_use_the_idle_ones_are_named() -> None:
    server = postgres.start(settings={"fsync": "off", "max_replication_slots": "2"})
    try:
        with (
            Replication("shop", server.url()) as replication,
            replication.create_slot("idle"),
            replication.create_slot("busy", temporary=True),
            pytest.raises(OriginError, match=r"no slot is free .*; inactive: idle\n"),
        ):
            replication.create_slot("third").__enter__()
    finally:
        postgres.remove(server)


def test_a_slot_in_use_is_not_dropped_and_its_reader_is_named(replication: Replication) -> None:
    with replication.create_slot("used", temporary=True):
        pid = replication.slot("used").active_pid
        with pytest.raises(OriginError, match=f"in use by dbt-bridge .*process {pid}"):
            replication.drop_slot("used")


def test_a_control_connection_that_broke_is_made_anew(
    replication: Replication, origin: psycopg.Connection, until: Callable
) -> None:
    before = replication.current_lsn()
    ((pid,),) = replication.query("SELECT pg_backend_pid()")
    origin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    with pytest.raises(OriginError, match=r"terminating connection|closed"):
        replication.current_lsn()
    assert replication.current_lsn() > before


def test_a_server_that_is_not_there_is_told() -> None:
    with Replication("shop", "postgresql://127.0.0.1:1/x") as replication:
        for ask in (replication.current_lsn, replication.identity, replication.slots):
            with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1/x"):
                ask()


def test_commits_at_the_same_time_are_all_below_the_lsn_that_is_asked_for_after(database: str) -> None:
    """The LSN of a commit that a client saw acknowledged is below every LSN that is asked for from then on."""
    with Replication("shop", database) as replication, psycopg.connect(database, autocommit=True) as writer:
        writer.execute("CREATE TABLE t (a int)")
        stop = threading.Event()

        def write() -> None:
            with psycopg.connect(database, autocommit=True) as other:
                while not stop.is_set():
                    other.execute("INSERT INTO t VALUES (1)")

        noise = threading.Thread(target=write)
        noise.start()
        try:
            for _ in range(100):
                writer.execute("INSERT INTO t VALUES (2)")
                ((inserted,),) = writer.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchall()
                assert replication.current_lsn() >= inserted
        finally:
            stop.set()
            noise.join()


def test_other_versions_are_tested_where_they_are_installed(older_server: tuple[str, Path]) -> None:
    """Says which are not; every test with `each_server` or `each_database` runs on those that are, and can decode."""
    version, folder = older_server
    assert (folder / "pg_recvlogical").exists(), f"PostgreSQL {version} has no pg_recvlogical"
