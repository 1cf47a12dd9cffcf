"""Real parts for the tests: one PostgreSQL server per test run, one empty database per test that asks."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server from pip, stopped by its own process id."""
    running = postgres.start(settings={"fsync": "off", "max_connections": "200"})
    try:
        yield running
    finally:
        postgres.remove(running)


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The URL of an empty database."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield server.url(name)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def origin(database: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to an empty database; its URL is `origin.info.dsn` or the `database` fixture."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def real_database(server: Server, database: str) -> Callable[[str], dict[str, int]]:
    """Load a dump of `../shared/data` into the empty database; answers the rows per table that it should have."""

    def load(name: str) -> dict[str, int]:
        folder = Path(__file__).parents[2] / "shared" / "data"
        if not (folder / f"{name}.sql").exists():
            pytest.skip(f"the real databases are not beside the repository: {folder}")
        psql = [server.binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        subprocess.run([*psql, "-f", folder / f"{name}.sql", database], check=True, capture_output=True, timeout=120)
        lines = (folder / f"{name}.counts.tsv").read_text().splitlines()
        return {table.removeprefix("public."): int(count) for table, count in (line.split("\t") for line in lines)}

    return load


@pytest.fixture
def dbt_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty dbt project on DuckDB (`warehouse.duckdb` in it), named `shop`; tests add the files."""
    monkeypatch.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "false")
    root = tmp_path / "shop"
    (root / "models").mkdir(parents=True)
    (root / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\nprofile: shop\n")
    output = {"type": "duckdb", "path": str(root / "warehouse.duckdb"), "threads": 2}
    (root / "profiles.yml").write_text(json.dumps({"shop": {"target": "dev", "outputs": {"dev": output}}}))
    return root
