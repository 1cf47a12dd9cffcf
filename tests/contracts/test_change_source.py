"""Every change source does what capture stands on: Postgres's slots, and a journal with positions of ten bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.contracts.journal import Journal, JournalSource

from dbt_bridge.connectors.postgres.changes.source import PostgresChangeSource
from dbt_bridge.contracts.change_source import ChangeSource
from dbt_bridge.contracts.settings import ChangeSourceSettings, OriginSettings
from dbt_bridge.testing.change_source import Bench, ChangeSourceTests, Write

_numbers = itertools.count(1)
COLUMNS = {"id": "int64", "note": "string"}


def settings(root: Path, slot: str) -> ChangeSourceSettings:
    return ChangeSourceSettings(OriginSettings("shop", "unused://", "unused", root), "shop", slot)


class PostgresBench:
    def __init__(self, connection: psycopg.Connection, url: str, root: Path) -> None:
        self._connection = connection
        self._url = url
        self._settings = settings(root, f"dbt_bridge_bench_{next(_numbers)}")

    def open(self) -> ChangeSource:
        return PostgresChangeSource("shop", self._url, self._settings)

    def create(self, table: str) -> None:
        self._connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, note text)".encode())

    def commit(self, *writes: Write) -> None:
        with self._connection.transaction():
            for write in writes:
                self._write(write)

    def _write(self, write: Write) -> None:
        statement = {
            "insert": f"INSERT INTO {write.table} (id, note) VALUES (%(id)s, %(note)s)",  # noqa: S608
            "update": f"UPDATE {write.table} SET note = %(note)s WHERE id = %(id)s",  # noqa: S608
            "delete": f"DELETE FROM {write.table} WHERE id = %(id)s",  # noqa: S608
            "truncate": f"TRUNCATE {write.table}",
        }[write.kind]
        given = None if write.kind == "truncate" else {"id": write.id, "note": write.note}
        self._connection.execute(statement.encode(), given)

    def add_column(self, table: str, column: str) -> None:
        self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} text".encode())

    def remove(self) -> None:
        with self.open() as source:
            source.drop_log()


class JournalBench:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = Journal(folder)
        self._columns: dict[str, dict[str, str]] = {}

    def open(self) -> ChangeSource:
        return JournalSource("shop", self._folder, settings(self._folder, "bench"))

    def create(self, table: str) -> None:
        self._columns[table] = dict(COLUMNS)
        self._journal.commit({"table": table, "kind": "create", "columns": COLUMNS, "key": ["id"]})

    def commit(self, *writes: Write) -> None:
        self._journal.commit(*(self._change(write) for write in writes))

    def _change(self, write: Write) -> dict[str, Any]:
        row = {**dict.fromkeys(self._columns[write.table]), "id": write.id, "note": write.note}
        return {"table": write.table, "kind": write.kind, "row": row}

    def add_column(self, table: str, column: str) -> None:
        self._columns[table][column] = "string"
        self._journal.commit({"table": table, "kind": "alter", "columns": dict(self._columns[table])})


class TestPostgres(ChangeSourceTests):
    @pytest.fixture
    def bench(self, origin: psycopg.Connection, database: str, tmp_path: Path) -> Iterator[Bench]:
        bench = PostgresBench(origin, database, tmp_path)
        yield bench
        bench.remove()


class TestJournal(ChangeSourceTests):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        yield JournalBench(tmp_path)

    def test_its_positions_fit_in_no_64_bits(self, bench: Bench) -> None:
        bench.create("orders")
        with bench.open() as source:
            place, _, ordinal = str(source.find_end()).partition("@")
            assert int(place, 16) > 1 << 64 and int(ordinal) == source.find_end().ordinal
