"""Random transactions and DDL at a real origin; whenever it is quiet, every followed table is as the origin has it.

Each failure says its seed: DBT_BRIDGE_SEED plays it again. DBT_BRIDGE_RUNS=500 takes 20 seeds each, where CI
takes 2.
"""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.cdc.workload import EVERYTHING, TABLES, Workload
from tests.chance import seeds
from tests.projects import landing_source, table

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.changes import feed, receiver
from dbt_bridge.connectors.postgres.changes import source as change_source
from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.project import LandingTable, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

_RUNS = max(2, int(os.environ.get("DBT_BRIDGE_RUNS", "50")) // 25)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Streams every transaction of more than 64 kB before its commit, and remembers when transactions committed."""
    settings = {
        "fsync": "off", "max_prepared_transactions": "10", "logical_decoding_work_mem": "64kB",
        "track_commit_timestamp": "on", "debug_logical_replication_streaming": "buffered",
    }  # fmt: skip
    running = postgres.start(settings=settings)
    try:
        yield running
    finally:
        postgres.remove(running)


@dataclass
class Bridge:
    """The source under test, followed into `landing`, and the same tables copied into `fresh` to compare with."""

    project: Project
    file: Path
    tables: dict[str, LandingTable]

    def sync(self, until: str | None = None) -> list[Receipt]:
        return self._run("landing", list(self.tables.values()), SyncOptions(until_lsn=until))

    def copy_afresh(self) -> None:
        tables = [
            replace(t, node=t.node.replace(".shop.shop.", ".shop.fresh."), replication="initial_copy",
                    write_disposition=None, history=False, deletes="hard")
            for t in self.tables.values()
        ]  # fmt: skip
        receipts = self._run("fresh", tables, SyncOptions())
        assert [r.error for r in receipts if r.status != "success"] == []

    def _run(self, schema: str, tables: list[LandingTable], options: SyncOptions) -> list[Receipt]:
        source = landing_source(*tables, schema=schema, slot="dbt_bridge_test")
        return sync(replace(self.project, sources=(source,)), options, Silent())

    def check(self) -> None:
        """Followed tables hold exactly what the copies hold, in the same columns."""
        with duckdb.connect(str(self.file), read_only=True) as connection:
            for name in self.tables:
                if name != "log":
                    _same(connection, name)
            positions = connection.execute("SELECT DISTINCT value FROM _dbt_bridge.checkpoints WHERE slot <> ''")
            assert len(positions.fetchall()) == 1
            left = connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE '\\_%' ESCAPE '\\'")
            assert [name for (name,) in left.fetchall() if "stag" in name] == []


def _same(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    def columns(schema: str) -> list[tuple[str, str]]:
        found = connection.execute(f"DESCRIBE {schema}.{name}").fetchall()
        return sorted((column, type_) for column, type_, *_ in found if column != "_deleted_at")

    stays = {column: type_ for column, type_ in columns("landing") if column in dict(columns("fresh"))}
    assert stays == dict(columns("fresh")), name  # columns that the origin dropped stay here
    names = [column for column, _ in columns("fresh")]
    rows = ", ".join(f'"{column}"::VARCHAR' for column in names)
    alive = (
        ""
        if ("_deleted_at" not in str(connection.execute(f"DESCRIBE landing.{name}").fetchall()))
        else (" WHERE _deleted_at IS NULL")
    )
    landed, copied = f"SELECT {rows} FROM landing.{name}{alive}", f"SELECT {rows} FROM fresh.{name}"
    wrong = connection.execute(f"({landed} EXCEPT ALL {copied})").fetchall()
    missing = connection.execute(f"({copied} EXCEPT ALL {landed})").fetchall()
    shown = [[tuple(v if v is None or len(v) < 30 else v[:30] + "..." for v in row) for row in rows[:3]]
             for rows in (wrong, missing)]  # fmt: skip
    assert (len(wrong), len(missing)) == (0, 0), f"{name} ({names}): too much {shown[0]}, missing {shown[1]}"


@pytest.fixture
def bridge(project: Project, warehouse_file: Path) -> Bridge:
    tables = {name: table(name) for name in TABLES}
    tables["log"] = replace(tables["log"], write_disposition="append")
    tables["gentle"] = replace(tables["gentle"], deletes="soft", history=True)
    tables["chosen"] = replace(tables["chosen"], deletes="soft")
    return Bridge(project, warehouse_file, tables)


def _shaken(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the next sync receives: chunk sizes down to a row, runs of a few messages, text or binary."""
    rows, huge, messages = rng.choice([1, 7, 250_000]), rng.choice([2, 32_768]), rng.choice([3, 65_536])
    text = rng.random() < 0.5
    monkeypatch.setattr(DuckDBWarehouse, "chunk_rows", rows)
    monkeypatch.setattr(feed, "_HUGE", huge)
    monkeypatch.setattr(receiver, "RUN_MESSAGES", messages)
    monkeypatch.setattr(change_source, "_travels_binary", _TRAVELS if not text else lambda now, tracked: False)
    return f"-- sync: chunk_rows={rows} huge={huge} messages={messages} text={text}"


def _now(url: str) -> str:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert found is not None
        return str(found[0])


_TRAVELS = change_source._travels_binary


@pytest.mark.parametrize("seed", seeds(_RUNS))
def test_whatever_happens_at_the_origin_is_at_the_destination(
    seed: int, bridge: Bridge, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(EVERYTHING.encode())
    work = Workload(database, seed)
    try:
        for number in range(8):
            for _ in range(rng.randint(3, 25)):
                work.step(ddl=0.1 if number % 4 < 2 else 0)
            is_quiet = number % 2 == 1
            if is_quiet or work.may_copy:
                work.settle()
            until = None
            if is_quiet:
                bridge.copy_afresh()
            if is_quiet and not work.may_copy:  # and then the origin goes on
                until = _now(database)
                work.truncates = False
                for _ in range(5):
                    work.step()
                work.truncates = True
            work.said.append(_shaken(rng, monkeypatch))
            assert [r.error for r in bridge.sync(until) if r.status != "success"] == []
            work.may_copy = False
            if is_quiet:
                bridge.check()
    except BaseException:
        told = Path(tmp_path / "statements.sql")
        told.write_text("\n".join(work.said))
        print(f"seed {seed}; its statements are in {told}")
        raise
    finally:
        work.close()


class Committed:
    """What each committed transaction left of a table: the model of its history.

    Attributes:
        versions: [row, since, until] of each key, in order.
    """

    def __init__(self, url: str, table: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._table = table
        self.versions: dict[int, list[list[Any]]] = {}

    def look(self, xid: int) -> None:
        """After a transaction that may have committed."""
        when = "SELECT pg_xact_commit_timestamp(%s::text::xid)"
        at = self._connection.execute(when, [xid]).fetchall()[0][0] if xid else None
        if at is None:
            return
        rows = {row[0]: row for row in self._connection.execute(f"SELECT id, name, n FROM {self._table}".encode())}
        for key in {*rows, *self.versions}:
            versions = self.versions.setdefault(key, [])
            last = versions[-1] if versions and versions[-1][2] is None else None
            if last is not None and last[0] == rows.get(key):
                continue
            if last is not None:
                last[2] = at
            if key in rows:
                versions.append([rows[key], at, None])

    def close(self) -> None:
        self._connection.close()


def _merged(versions: list[tuple[Any, ...]]) -> list[list[Any]]:
    """An update that changes nothing begins a version too, which the model cannot see."""
    merged: list[list[Any]] = []
    for *row, since, until in versions:
        if merged and merged[-1][0] == tuple(row) and merged[-1][2] == since:
            merged[-1][2] = until
        else:
            merged.append([tuple(row), since, until])
    return merged


@pytest.mark.parametrize("seed", seeds(_RUNS))
def test_a_history_holds_every_committed_version_and_soft_deletes_every_key(
    seed: int, bridge: Bridge, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(EVERYTHING.encode())
    bridge.tables = {name: bridge.tables[name] for name in ("gentle", "whole")}
    bridge.tables["whole"] = replace(bridge.tables["whole"], deletes="soft", history=True)
    work = Workload(database, seed, tuple(bridge.tables), moves=seed % 2 == 1)
    models = {name: Committed(database, name) for name in bridge.tables}
    work.on_commit = lambda xid: [model.look(xid) for model in models.values()]  # type: ignore[func-returns-value]
    bridge.sync()
    for _ in range(4):
        for _ in range(rng.randint(5, 25)):
            work.step()
        work.said.append(_shaken(rng, monkeypatch))
        assert [r.error for r in bridge.sync() if r.status != "success"] == []
        for name, model in models.items():
            _same_history(bridge, name, model)
            if seed % 2 == 0:
                _same_deleted(bridge, name, model)
    work.close()
    for model in models.values():
        model.close()


def _same_history(bridge: Bridge, name: str, model: Committed) -> None:
    with duckdb.connect(str(bridge.file), read_only=True) as connection:
        history = f"SELECT id, name, n, valid_from, valid_to FROM landing.{name}_history ORDER BY id, valid_from"
        landed = _merged(connection.execute(history).fetchall())
        wanted = [version for key in sorted(model.versions) for version in model.versions[key]]
        assert landed == wanted, name


def _same_deleted(bridge: Bridge, name: str, model: Committed) -> None:
    """Every key that was deleted is marked, and no other one, where rows do not leave their keys for others.

    A row that came and went in one transaction is marked with its time, and no committed state ever had it.
    """
    ended = {key: versions[-1][2] for key, versions in model.versions.items() if versions}
    with duckdb.connect(str(bridge.file), read_only=True) as connection:
        marks = dict(connection.execute(f"SELECT id, _deleted_at FROM landing.{name}").fetchall())
    assert {key for key, at in marks.items() if at is None} == {key for key, at in ended.items() if at is None}, name
    gone = {key: at for key, at in ended.items() if at is not None}
    assert gone.keys() <= marks.keys(), name
    assert {key: at for key, at in gone.items() if marks[key] < at} == {}, name
