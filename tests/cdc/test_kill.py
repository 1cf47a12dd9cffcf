"""kill -9 at every step of a cdc sync, while the origin is written to: nothing is lost, nothing comes twice.

At each moment, also right after a kill, the landing tables are the origin at one LSN: every transaction moves an amount
from one table to the other, so that what landed sums up to nothing. In the end all values are compared.

DBT_BRIDGE_SEED plays one seed again; DBT_BRIDGE_RUNS asks for that many kills instead of the 50 of CI.
"""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import duckdb
import psycopg
import pytest
from deltalake import DeltaTable
from psycopg.conninfo import conninfo_to_dict
from tests.chance import seeds
from tests.killed import killed_sync
from tests.killed.killed_sync import COPYING, FOLLOWING, Orders

from dbt_bridge.demo.postgres import Server

FIRST = ("left_side", "right_side")
_TABLES = """
CREATE TABLE left_side (id int PRIMARY KEY, amount numeric(12,2) NOT NULL, note text);
CREATE TABLE right_side (id int PRIMARY KEY, amount numeric(12,2) NOT NULL, note text);
CREATE TABLE journal (line text, at timestamptz);
ALTER TABLE journal REPLICA IDENTITY FULL;
CREATE TABLE names (id bigint PRIMARY KEY, name text);
INSERT INTO left_side SELECT g, g, repeat('x', 3000) FROM generate_series(1, 200) g;
INSERT INTO right_side SELECT g, -g, NULL FROM generate_series(1, 200) g;
INSERT INTO names SELECT g, 'n' || g FROM generate_series(1, 200) g;
"""


class Writer:
    """Writes all the time, in a thread of its own, until it is stopped."""

    def __init__(self, url: str, seed: int) -> None:
        self._rng = random.Random(seed)
        self._connection = psycopg.connect(url)
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._number = 1000
        self.transactions = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, transactions: int) -> None:
        """Until it has committed so many more."""
        with self._changed:
            goal = self.transactions + transactions
            assert self._changed.wait_for(lambda: self.transactions >= goal or self._error, 180), "the writer hangs"
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.01):
                for statement in self._transaction():
                    self._connection.execute(statement.encode())
                if self._rng.random() < 0.1:
                    self._connection.rollback()
                    continue
                self._connection.commit()
                with self._changed:
                    self.transactions += 1
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
            with self._changed:
                self._changed.notify_all()

    def _transaction(self) -> list[str]:
        """Moves an amount from left to right, and more."""
        rng = self._rng
        self._number += 1
        one, other, new, old = rng.randint(1, 200), rng.randint(1, 200), self._number, rng.randint(1000, self._number)
        moved = _moved(f"UPDATE left_side SET amount = amount - {new} WHERE id = {one} RETURNING {new} AS amount")
        kinds = {
            "move": [moved],
            "pair": [f"INSERT INTO left_side VALUES ({new}, {one}, 'new')",
                     f"INSERT INTO right_side VALUES ({new}, -{one})"],
            "gone": [_moved(f"DELETE FROM left_side WHERE id = {rng.choice([old, one])} RETURNING amount")],
            "key": [f"UPDATE right_side SET id = {new} WHERE id = {rng.choice([old, other])}", moved],
            "names": [
                f"DELETE FROM names WHERE id = {one}", f"INSERT INTO names VALUES ({one}, 'again')",
                f"UPDATE names SET name = name || {new} WHERE id % 50 = {other % 50}", moved,
            ],
            "journal": [
                "INSERT INTO journal SELECT 'same', NULL FROM generate_series(1, 2)",
                f"INSERT INTO journal VALUES ('l{new}', now())", moved,
                f"DELETE FROM journal WHERE line = 'l{other}'", "SAVEPOINT s",
                "DELETE FROM journal WHERE ctid = (SELECT min(ctid) FROM journal)",
                rng.choice(["ROLLBACK TO s", "RELEASE s"]),
                "UPDATE journal SET at = now() WHERE ctid = (SELECT min(ctid) FROM journal WHERE line = 'same')",
            ],
            "large": [
                f"INSERT INTO journal SELECT repeat('{new}', 100) || g, now() FROM generate_series(1, 300) g",
                f"DELETE FROM journal WHERE line LIKE repeat('{new}', 100) || '%'", moved,
            ],
        }  # fmt: skip
        return kinds["large" if rng.random() < 0.03 else rng.choice([k for k in kinds if k != "large"])]


def _moved(left: str) -> str:
    """What left the one table, as rows with an amount, goes to the first row of the other."""
    return (
        f"WITH gone AS ({left}) UPDATE right_side SET amount = amount + (SELECT amount FROM gone)"
        " WHERE id = (SELECT min(id) FROM right_side) AND EXISTS (SELECT 1 FROM gone)"
    )


Rows = list[tuple[Any, ...]]


class Landing(Protocol):
    """A destination that is looked at from outside.

    Attributes:
        is_atomic: all tables change at once.
        later: the tables that are declared when the first ones are followed already.
    """

    orders: Orders
    is_atomic: bool
    later: tuple[str, ...]

    def rows(self, table: str) -> Rows | None:
        """None when it has not landed."""

    def positions(self) -> list[str]: ...

    def leftovers(self) -> list[str]: ...


class DuckDB:
    """The warehouse of `tmp_path`, with all that is in it."""

    is_atomic = True
    later = ("journal", "names")

    def __init__(self, folder: Path) -> None:
        self._file = folder / "warehouse.duckdb"
        self.orders = Orders(str(folder), (), "duckdb", {"type": "duckdb", "path": str(self._file)})

    def rows(self, table: str) -> Rows | None:
        return self._ask(f"SELECT * FROM landing.{table}") if ("landing", table) in self._tables() else None

    def positions(self) -> list[str]:
        return [value for (value,) in self._ask("SELECT value FROM _dbt_bridge.checkpoints")]

    def leftovers(self) -> list[str]:
        return [name for _, name in self._tables() if name.startswith("_dbt_bridge_stage")]

    def _tables(self) -> Rows:
        return self._ask("SELECT schema_name, table_name FROM duckdb_tables()")

    def _ask(self, query: str) -> Rows:
        with duckdb.connect(str(self._file)) as connection:
            return connection.execute(query).fetchall()


class Delta(DuckDB):
    """Tables in a folder; their checkpoints are in the warehouse. Each has transactions of its own."""

    is_atomic = False
    later = ("names",)  # refuses tables without a key

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._lake = folder / "lake"
        environment = {"DESTINATION__LAKE__DESTINATION_TYPE": "filesystem",
                       "DESTINATION__LAKE__BUCKET_URL": str(self._lake)}  # fmt: skip
        self.orders = replace(self.orders, destination="lake", environment=environment)

    def rows(self, table: str) -> Rows | None:
        place = str(self._lake / "landing" / table)
        if not DeltaTable.is_deltatable(place):
            return None
        rows = DeltaTable(place).to_pyarrow_table()  # noqa: F841
        return duckdb.sql("SELECT * FROM rows").fetchall()


class Postgres:
    """A database of the server that the origin is on."""

    is_atomic = True
    later = ("journal", "names")

    def __init__(self, folder: Path, url: str) -> None:
        self._url = url
        profile = {"type": "postgres", **conninfo_to_dict(url)}
        self.orders = Orders(str(folder), (), "postgres", profile)

    def rows(self, table: str) -> Rows | None:
        if self._ask(f"SELECT to_regclass('landing.{table}')") == [(None,)]:
            return None
        return self._ask(f"SELECT * FROM landing.{table}")

    def positions(self) -> list[str]:
        return [value for (value,) in self._ask("SELECT value FROM _dbt_bridge.checkpoints")]

    def leftovers(self) -> list[str]:
        found = self._ask("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE '%dbt_bridge_stage%'")
        return [name for (name,) in found]

    def _ask(self, query: str) -> Rows:
        with psycopg.connect(self._url) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    """The process that forks those that die."""
    process = subprocess.Popen(
        [sys.executable, killed_sync.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(180)


@dataclass
class Story:
    """One landing's life under kills."""

    zygote: subprocess.Popen[str]
    landing: Landing
    writer: Writer
    rng: random.Random
    kills: int = 0

    def sync(self, tables: tuple[str, ...], step: str = "", call: int = 1) -> None:
        """One sync that dies at this step, or none; whatever landed is of one LSN."""
        orders = {**asdict(self.landing.orders), "tables": tables, "step": step, "call": call}
        assert self.zygote.stdin is not None and self.zygote.stdout is not None
        self.zygote.stdin.write(json.dumps(orders) + "\n")
        self.zygote.stdin.flush()
        code = int(self.zygote.stdout.readline())
        assert code == (-signal.SIGKILL if step else 0), f"{step or 'alive'} (call {call}): exit code {code}"
        self.kills += bool(step)
        if self.landing.is_atomic or not step:
            self.check_moment()

    def check_moment(self) -> None:
        """The invariant of every transaction holds at the destination."""
        sums = [rows if rows is None else sum((row[1] for row in rows), Decimal()) for rows in
                (self.landing.rows(table) for table in FIRST)]  # fmt: skip
        if None not in sums:
            assert sum(s for s in sums if s is not None) == 0, "the tables are not of one moment"


def _life(story: Story, most: int) -> None:
    """Kills at each step, in a random order: of the first copy, of changes, of a copy beside changes."""
    rng = story.rng
    for step in rng.sample(list(COPYING), 3):
        story.sync(FIRST, step, _call(rng, step))
    story.sync(FIRST)
    following = [(FIRST, step) for step in FOLLOWING]
    rng.shuffle(following)
    every = (*FIRST, *story.landing.later)
    beside = [(every, step) for step in rng.sample(list(COPYING), 3)]
    after = [(every, step) for step in rng.sample(list(FOLLOWING), 4)]
    for tables, step in [*following, *beside, *after][: most - 3]:
        story.writer.wait(25)
        story.sync(tables, step, _call(rng, step, len(story.landing.later) if step in COPYING else 2))


_ONCE = ("before the slot is made", "the slot is made", "everything is staged", "the stream ends")  # per sync


def _call(rng: random.Random, step: str, most: int = 2) -> int:
    """At which call; a copy has only as many as there are tables to copy."""
    return 1 if step in _ONCE else min(rng.randint(1, 2), most)


def _compare(story: Story, url: str) -> None:
    story.writer.stop()
    tables = (*FIRST, *story.landing.later)
    story.sync(tables)
    with psycopg.connect(url) as connection:
        for table in tables:
            there = connection.execute(f"SELECT * FROM {table}".encode()).fetchall()
            here = story.landing.rows(table)
            assert here is not None and sorted(here, key=repr) == sorted(there, key=repr), table
        slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
        assert connection.execute(slots).fetchall() == [("dbt_bridge_kill",)]
    positions = story.landing.positions()
    assert len(positions) == len(tables) and len(set(positions)) == 1
    assert story.landing.leftovers() == []


_PER_LIFE = 17
_LIVES = max(1, round(int(os.environ.get("DBT_BRIDGE_RUNS", "51")) / _PER_LIFE))


@pytest.mark.parametrize("seed", seeds(_LIVES))
def test_killed_anywhere_nothing_is_lost_or_doubled(
    seed: int, database: str, server: Server, tmp_path: Path, zygote: subprocess.Popen[str]
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(_TABLES.encode())
        name = connection.info.dbname
        # Transactions of the writer that are larger are sent before their commit, and wait in files.
        connection.execute(f"ALTER DATABASE {name} SET logical_decoding_work_mem = '64kB'".encode())
    landing: Landing
    if seed % 3 == 2:
        landing = Postgres(tmp_path, _another_database(server, f"{name}_warehouse"))
    else:
        landing = DuckDB(tmp_path) if seed % 3 == 0 else Delta(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**landing.orders.environment, "SOURCES__SHOP_PG__CREDENTIALS": database}
    landing.orders = replace(landing.orders, environment=environment, temporary=str(temporary))
    story = Story(zygote, landing, Writer(database, seed), random.Random(seed))
    _life(story, _PER_LIFE)
    _compare(story, database)
    assert story.kills == _PER_LIFE
    assert list(temporary.rglob("streamed-*")) == []


def _another_database(server: Server, name: str) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)
