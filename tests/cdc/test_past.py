"""An origin that was set back, or a standby that took over, is another one, as soon as the warehouse has seen more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.cdc.ends import End
from tests.conftest import INSTALLED
from tests.projects import SyncTables, cdc_source, landing_source, table
from tests.support.servers import copy_disk, set_back, start_standby

from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify

SETTINGS = {"fsync": "off", "shared_buffers": "32MB", "max_wal_size": "1GB"}
STANDBY = {**SETTINGS, "hot_standby_feedback": "on", "sync_replication_slots": "on"}
SOURCE = cdc_source("a", "b")
MEND = "dbt-bridge sync --full-refresh --select source:landing.a source:landing.b"
TABLES = """
    CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT i, 'first' FROM generate_series(1, 100) i;
    INSERT INTO b SELECT i, 'first' FROM generate_series(1, 100) i;
"""
GROWTH = (
    "CREATE TABLE IF NOT EXISTS other (t text); INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 500)"
)


class Land:
    """The origin of the moment, and what landed of it."""

    def __init__(self, sync: SyncTables, file: Path, patch: pytest.MonkeyPatch) -> None:
        self._sync = sync
        self._file = file
        self._patch = patch
        self.server: Server | None = None

    def move(self, server: Server) -> None:
        """The origin's address leads to another server from here on."""
        self.server = server
        self._patch.setenv("SOURCES__SHOP_PG__CREDENTIALS", server.url())

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        assert self.server is not None
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def sync(self, **options: Any) -> dict[str, Receipt]:
        return self._sync(SOURCE, **options)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self._file)) as connection:
            return connection.execute(statement).fetchall()

    def rows(self) -> list[list[tuple[Any, ...]]]:
        return [self.ask(f"SELECT * FROM landing.{table} ORDER BY id") for table in "ab"]  # noqa: S608

    def grow_beyond_checkpoint(self) -> None:
        """The log is longer than what the warehouse has seen, by changes that nobody follows."""
        seen = max(self.ask("SELECT value FROM _dbt_bridge.checkpoints"))[0]
        while self.sql(f"SELECT pg_current_wal_lsn() <= '{seen}'::pg_lsn")[0][0]:
            self.sql(GROWTH)

    def goes_on(self, **options: Any) -> None:
        """A sync succeeds, and everything is as at the origin."""
        receipts = self.sync(**options)
        assert {receipt.status for receipt in receipts.values()} == {"success"}, [r.error for r in receipts.values()]
        assert self.rows() == [self.sql(f"SELECT * FROM {table} ORDER BY id") for table in "ab"]  # noqa: S608

    def is_refused(self, said: str) -> None:
        """A sync fails for both tables, and touches neither."""
        before = self.rows(), self.ask("SELECT * EXCLUDE (saved_at) FROM _dbt_bridge.checkpoints ORDER BY node")
        receipts = self.sync()
        assert {receipt.status for receipt in receipts.values()} == {"failed"}
        for receipt in receipts.values():
            assert said in (receipt.error or "")
            assert str(receipt.error).endswith(MEND)
        assert before == (
            self.rows(),
            self.ask("SELECT * EXCLUDE (saved_at) FROM _dbt_bridge.checkpoints ORDER BY node"),
        )


@pytest.fixture
def land(sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch) -> Land:
    return Land(sync_sources, warehouse_file, monkeypatch)


@pytest.fixture(params=INSTALLED)
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that may be stopped, of each version that this machine has."""
    server = postgres.start(settings=SETTINGS, binaries=INSTALLED[request.param])
    try:
        yield server
    finally:
        postgres.remove(server)


def test_a_disk_that_was_set_back_is_another_past(
    land: Land, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    land.move(own_server)
    land.sql(TABLES)
    land.goes_on()
    land.sql("UPDATE a SET v = 'second' WHERE id = 1")
    land.goes_on()

    # A sync that is killed before it confirms, and an origin that crashes, leave the slot behind the checkpoint.
    with monkeypatch.context() as patch:
        patch.setattr(ReplicationStream, "acknowledge", lambda *_: None)
        land.goes_on()  # without a commit since where the slot stands
        land.goes_on()
        land.sql("UPDATE a SET v = 'third' WHERE id = 1; UPDATE b SET v = 'third' WHERE id = 2")
        land.sql("BEGIN; SAVEPOINT x; DELETE FROM a WHERE id > 5; ROLLBACK TO x; DELETE FROM b WHERE id > 90; COMMIT")
        land.goes_on()
        land.goes_on()
    land.goes_on()

    # A checkpoint of an earlier version is adopted where the slot stands at it. It knows its past from the next commit
    # on: before version 17 a server that is stopped may forget how far its slot was confirmed.
    land.ask("UPDATE _dbt_bridge.checkpoints SET past = ''")
    land.goes_on()
    land.sql("UPDATE a SET v = 'fourth' WHERE id = 1")
    land.goes_on()

    own_server.stop()
    disk = copy_disk(own_server)
    land.move(postgres.start(own_server.data, SETTINGS, binaries=own_server.binaries))
    land.sql("UPDATE a SET v = 'undone' WHERE id < 50; DELETE FROM b WHERE id < 50")
    land.goes_on()
    assert land.server is not None
    land.move(set_back(land.server, disk, SETTINGS))
    try:
        land.sql("INSERT INTO a VALUES (1000, 'instead'); UPDATE b SET v = 'instead' WHERE id > 50")
        land.is_refused("whose log ends at")
        land.grow_beyond_checkpoint()
        land.is_refused("another past")
        land.ask("UPDATE _dbt_bridge.checkpoints SET past = ''")
        land.is_refused("an earlier version of dbt-bridge")
        land.goes_on(full_refresh=True)
        land.sql("UPDATE a SET v = 'on' WHERE id < 10")
        land.goes_on()
    finally:
        land.server.stop()


class Pair:
    """A primary, and a standby that has its slot too (PostgreSQL 17 and later)."""

    def __init__(self, land: Land, standby: Server) -> None:
        self._land = land
        self.standby = standby

    def has_everything(self) -> bool:
        """The standby has the slot as it stands at the primary, and keeps it."""
        stands = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_type = 'logical' AND NOT temporary"
        with psycopg.connect(self.standby.url(), autocommit=True) as connection:
            there = connection.execute(stands).fetchall()
        if not there:  # it is kept once the primary's has moved
            self._land.sql("SELECT pg_log_standby_snapshot()")
            self._land.goes_on()
        return there == self._land.sql(stands)

    def copy_standby(self) -> Path:
        self.standby.stop()
        disk = copy_disk(self.standby)
        self.standby = postgres.start(self.standby.data, STANDBY, binaries=self.standby.binaries)
        return disk


@pytest.fixture
def pair(land: Land) -> Iterator[Pair]:
    primary = postgres.start(settings=SETTINGS)
    try:
        land.move(primary)
        land.sql("SELECT pg_create_physical_replication_slot('standby', true)")
        with start_standby(primary, STANDBY, slot="standby", database="postgres") as standby:
            pair = Pair(land, standby)
            try:
                yield pair
            finally:
                pair.standby.stop()
    finally:
        postgres.remove(primary)


def test_a_standby_goes_on_where_it_had_everything(land: Land, pair: Pair, until: Callable[..., object]) -> None:
    """Two standbys are promoted, to the same number of timeline: one that had received everything, one that had not."""
    primary = land.server
    assert primary is not None
    land.sql(TABLES)
    until(pair.has_everything)
    disk = pair.copy_standby()
    land.sql("UPDATE a SET v = 'second' WHERE id < 5")
    land.goes_on()
    until(pair.has_everything)
    primary.stop()

    land.move(pair.standby)
    land.sql("SELECT pg_promote()")
    land.sql("DELETE FROM b WHERE id < 5; UPDATE a SET v = 'third' WHERE id = 7")
    land.goes_on()
    land.sql("UPDATE a SET v = 'fourth' WHERE id = 9")
    land.goes_on()

    pair.standby = set_back(pair.standby, disk, STANDBY)
    land.move(pair.standby)
    land.sql("SELECT pg_promote()")
    land.sql("UPDATE b SET v = 'instead' WHERE id > 50")
    land.grow_beyond_checkpoint()
    land.is_refused("timeline 2 forked at")
    land.goes_on(full_refresh=True)
    land.sql("UPDATE a SET v = 'fifth' WHERE id = 10")
    land.goes_on()


def test_a_copy_anew_of_a_server_that_was_set_back_is_followed_at_every_destination(
    end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log begins below what the destination has seen: what guards by positions begins anew, too."""
    tables = (table("a", history=True), table("b", write_disposition="append"))
    server = postgres.start(settings=SETTINGS)

    def move(to: Server) -> psycopg.Connection:
        monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", to.url())
        return psycopg.connect(to.url(), autocommit=True)

    try:
        with move(server) as connection:
            connection.execute(TABLES.encode())
            end.sync(*tables)
        server.stop()
        disk = copy_disk(server)
        server = postgres.start(server.data, SETTINGS)
        with move(server) as connection:
            connection.execute(GROWTH.encode())
            connection.execute("UPDATE a SET v = 'undone' WHERE id < 50; DELETE FROM b WHERE id < 50")
            end.sync(*tables)
        server = set_back(server, disk, SETTINGS)
        with move(server) as connection:
            connection.execute("UPDATE a SET v = 'instead' WHERE id > 90; DELETE FROM b WHERE id > 90")
            end.sync(*tables, full_refresh=True)
            connection.execute("UPDATE a SET v = 'on' WHERE id < 5; INSERT INTO b VALUES (500, 'on')")
            connection.execute("DELETE FROM b WHERE id = 60")
            end.sync(*tables)
            assert end.rows("a", "id, v") == connection.execute("SELECT * FROM a ORDER BY id").fetchall()
            open_now = end.rows("a_history", "id, v, valid_to")
            assert [row[:2] for row in open_now if row[2] is None] == end.rows("a", "id, v")
            source = landing_source(*tables, destination=end.destination, slot="dbt_bridge_ends")
            project = replace(end.project, sources=(source,))
            parities = verify(project, VerifyOptions(level="rows"), Silent())
        assert {parity.status for parity in parities} == {"equal"}, [parity.error for parity in parities]
    finally:
        postgres.remove(server)
