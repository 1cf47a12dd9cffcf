"""A real MariaDB for the tests, where one is installed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from dbt_bridge.demo.postgres import find_free_port

_numbers = itertools.count(1)
_LIMITS = (
    "--innodb-buffer-pool-size=32M",
    "--max-connections=40",
    "--skip-log-bin",
    "--innodb-flush-log-at-trx-commit=0",
)


@dataclass(frozen=True, slots=True)
class MariaDb:
    """A running server, with the user `root` and the password `canary-password`."""

    port: int
    password: str = "canary-password"

    def url(self, database: str = "", user: str = "root", password: str | None = None) -> str:
        return f"mysql+pymysql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str | None = None) -> pymysql.Connection:
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", password=self.password, database=database, autocommit=True
        )


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDb]:
    """MariaDB on a free port of 127.0.0.1, in a temporary folder, stopped by its own process id."""
    server, install = (
        shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin"),
        shutil.which("mariadb-install-db"),
    )
    if server is None or install is None:
        pytest.skip("no MariaDB server is installed (Debian and Ubuntu: apt-get install mariadb-server)")
    folder = Path(tempfile.mkdtemp(prefix="dbt-bridge-mariadb-"))
    data, log = folder / "data", folder / "server.log"
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    initialise = [install, "--no-defaults", *as_root, f"--datadir={data}", "--auth-root-authentication-method=normal"]
    subprocess.run([*initialise, "--skip-test-db"], check=True, capture_output=True, timeout=120)
    found = MariaDb(find_free_port())
    password = folder / "password.sql"
    password.write_text(
        f"ALTER USER root@localhost IDENTIFIED BY '{found.password}';"
        f"\nCREATE USER root@'127.0.0.1' IDENTIFIED BY '{found.password}';"
        "\nGRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            [server, "--no-defaults", *as_root, f"--datadir={data}", f"--socket={folder / 's'}", *_LIMITS,
             f"--port={found.port}", "--bind-address=127.0.0.1", f"--init-file={password}"],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        _wait_until_ready(found, process, log)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(180)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(found: MariaDb, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while True:
        try:
            found.connect().close()
            return
        except pymysql.err.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("MariaDB did not start: " + log.read_text(errors="replace")[-800:]) from None
            time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class MariaDatabase:
    """An empty database: its URL, and a connection to fill it."""

    server: MariaDb
    name: str
    connection: pymysql.Connection

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def execute(self, statement: str, values: object = None) -> tuple[tuple[object, ...], ...]:
        with self.connection.cursor() as cur:
            cur.execute(statement, values)
            return cur.fetchall()


@pytest.fixture
def mariadb(mariadb_server: MariaDb) -> Iterator[MariaDatabase]:
    name = f"test_{next(_numbers)}"
    connection = mariadb_server.connect()
    with connection.cursor() as cur:
        cur.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        cur.execute(f"USE `{name}`")
    yield MariaDatabase(mariadb_server, name, connection)
    with connection.cursor() as cur:
        cur.execute(f"DROP DATABASE `{name}`")
    connection.close()
