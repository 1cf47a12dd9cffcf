"""Every origin passes the same tests."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from tests.connectors.conftest import MariaDatabase, mariadb, mariadb_server  # noqa: F401 (fixtures)

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.testing.origin import OriginTests


class PostgresBench:
    schema = "public"
    has_keys = True

    def __init__(self, url: str) -> None:
        self._url = url

    def create(self, name: str, rows: pa.Table) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            statement = f"CREATE TABLE {name} (id bigint PRIMARY KEY, name text, score double precision)"
            connection.execute(statement.encode())
            for row in rows.to_pylist():
                connection.execute(f"INSERT INTO {name} VALUES (%s, %s, %s)".encode(), list(row.values()))  # noqa: S608

    def open(self) -> Origin:
        return PostgresOrigin("shop", self._url)


class OtherPostgresBench(PostgresBench):
    """A database of which nothing is known but what SQLAlchemy says."""

    def open(self) -> Origin:
        return SqlOrigin("shop", self._url.replace("postgresql://", "postgresql+psycopg://"))


class SqliteBench:
    schema = "main"
    has_keys = True

    def __init__(self, file: Path) -> None:
        self._file = file

    def create(self, name: str, rows: pa.Table) -> None:
        with sqlite3.connect(self._file) as connection:
            connection.execute(f"CREATE TABLE {name} (id integer PRIMARY KEY, name text, score real)")
            statement = f"INSERT INTO {name} VALUES (?, ?, ?)"  # noqa: S608
            connection.executemany(statement, [list(row.values()) for row in rows.to_pylist()])

    def open(self) -> Origin:
        return SqlOrigin("shop", f"sqlite:///{self._file}")


class MariaDbBench:
    has_keys = True

    def __init__(self, database: MariaDatabase) -> None:
        self.schema = database.name
        self._database = database

    def create(self, name: str, rows: pa.Table) -> None:
        self._database.execute(f"CREATE TABLE {name} (id bigint PRIMARY KEY, name varchar(40), score double)")
        for row in rows.to_pylist():
            self._database.execute(f"INSERT INTO {name} VALUES (%s, %s, %s)", list(row.values()))  # noqa: S608

    def open(self) -> Origin:
        return SqlOrigin("shop", self._database.url)


class TestPostgres(OriginTests):
    @pytest.fixture
    def bench(self, database: str) -> PostgresBench:
        return PostgresBench(database)


class TestSqlAlchemy(OriginTests):
    @pytest.fixture
    def bench(self, database: str) -> PostgresBench:
        return OtherPostgresBench(database)


class TestSqlite(OriginTests):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> SqliteBench:
        return SqliteBench(tmp_path / "shop.sqlite")


class TestMariaDb(OriginTests):
    @pytest.fixture
    def bench(self, mariadb: MariaDatabase) -> MariaDbBench:  # noqa: F811
        return MariaDbBench(mariadb)
