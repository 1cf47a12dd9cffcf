"""Real parts for the tests: one PostgreSQL server per test run, one empty database per test that asks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from tests.chance import IS_FIXED
from tests.proxy import Proxy, put_before
from tests.warm import commands

from dbt_bridge.demo import postgres
from dbt_bridge.demo.postgres import Server

pytest_plugins = ["tests.projects", "tests.cdc.ends"]

settings.register_profile("tests", derandomize=IS_FIXED, deadline=None)
settings.load_profile("tests")

_numbers = itertools.count(1)
_SETTINGS = {"fsync": "off", "max_connections": "200", "max_prepared_transactions": "10"}


# Files of tests are handed to the workers in this order, then by name: a long one that begins last would leave the
# other cores idle.
_LONG = (
    "cdc/test_kill.py", "cdc/test_workload.py", "test_docs.py", "demo/test_demo.py", "cdc/test_landing_lock.py",
    "prove/test_verify_destinations.py", "prove/test_verify.py", "prove/test_repair.py", "prove/test_repair_kill.py",
    "scaffold/test_lakehouse.py", "prove/test_verify_interrupted.py",
    "cdc/test_faults.py", "cdc/test_keys.py", "cdc/test_rotating_keys.py",
    "cdc/test_capture.py", "verify/test_oracle.py", "contracts/test_application.py",
    "connectors/dlt/test_apply.py", "connectors/duckdb/test_warehouse.py", "contracts/test_state.py",
    "dbt/test_transfer.py",
    "connectors/postgres/changes/test_stream.py", "cdc/test_destinations.py", "prove/test_reconcile.py",
    "prove/test_verify_delivery.py", "prove/test_repair_destinations.py", "cli/test_stream.py",
    "sync/test_incremental.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    first = {tests / name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: tests wait for servers and other processes a part of their time."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4) + 1


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server from pip, stopped by its own process id."""
    running = postgres.start(settings=_SETTINGS)
    try:
        yield running
    finally:
        postgres.remove(running)


def _installed() -> dict[str, Path | None]:
    """Each version of PostgreSQL that this machine has, and its binaries: None for the one from pip.

    The others are looked for in Debian's folders, and in those that DBT_BRIDGE_TEST_POSTGRES names:
    `/path/bin:/other/bin`.
    """
    folders = [Path("/usr/lib/postgresql", version, "bin") for version in SUPPORTED]
    folders += [Path(folder) for folder in os.environ.get("DBT_BRIDGE_TEST_POSTGRES", "").split(":") if folder]
    found = {_major(folder): folder for folder in folders if (folder / "postgres").exists()}
    return {"18": None, **{version: found[version] for version in SUPPORTED if version in found}}


def _major(folder: Path) -> str:
    told = subprocess.run([folder / "postgres", "-V"], check=True, capture_output=True, text=True).stdout
    return told.split()[2].split(".")[0]  # postgres (PostgreSQL) 15.18 (Debian ...)


SUPPORTED = ("17", "16", "15", "14", "13")
INSTALLED = _installed()


@pytest.fixture(scope="session", params=INSTALLED)
def each_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server after another: the one from pip, and each other version that this machine has."""
    binaries = INSTALLED[request.param]
    if binaries is None:
        yield request.getfixturevalue("server")
        return
    running = postgres.start(settings=_SETTINGS, binaries=binaries)
    try:
        yield running
    finally:
        postgres.remove(running)


@pytest.fixture(params=SUPPORTED)
def older_server(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Another supported version and its binaries; skips, once for each, where it is not installed."""
    folder = INSTALLED.get(request.param)
    if folder is None:
        pytest.skip(f"PostgreSQL {request.param} is not installed here, and DBT_BRIDGE_TEST_POSTGRES names none")
    return str(request.param), folder


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """The URL of an empty database."""
    yield from _database(server)


@pytest.fixture
def each_database(each_server: Server) -> Iterator[str]:
    """The URL of an empty database, on one server version after another."""
    yield from _database(each_server)


def _database(server: Server) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield server.url(name)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        _drop_slots(connection, name)
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


def _drop_slots(connection: psycopg.Connection, database: str) -> None:
    """A database with slots cannot be dropped, and a slot that is read cannot either."""
    slots = "FROM pg_replication_slots WHERE database = %s"
    for _ in range(200):
        connection.execute(f"SELECT pg_terminate_backend(active_pid) {slots} AND active", [database])
        idle = connection.execute(f"SELECT slot_name {slots} AND NOT active", [database]).fetchall()
        for (slot,) in idle:
            with contextlib.suppress(psycopg.Error):  # a temporary one that went by itself
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        if not connection.execute(f"SELECT 1 {slots}", [database]).fetchall():
            return
        time.sleep(0.05)


@pytest.fixture
def origin(database: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to an empty database; its URL is `origin.info.dsn` or the `database` fixture."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def until() -> Callable[..., object]:
    """`until(condition)` answers what it answers as soon as that is true, or fails after three minutes."""

    def wait(condition: Callable[[], object], seconds: float = 180) -> object:
        end = time.monotonic() + seconds
        while not (answer := condition()):
            assert time.monotonic() < end, "it never became true"
            time.sleep(0.02)
        return answer

    return wait


@pytest.fixture
def proxied() -> Iterator[Callable[..., tuple[str, Proxy]]]:
    """`proxied(url)` is the same server behind a proxy: its URL (with more of libpq's parameters), and the proxy."""
    with contextlib.ExitStack() as stack:

        def behind(url: str, **parameters: str) -> tuple[str, Proxy]:
            through, proxy = put_before(url, **parameters)
            stack.callback(proxy.close)
            return through, proxy

        yield behind


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


@pytest.fixture(scope="session")
def warm_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH whose `dbt-bridge`, `dbt` and `python` start at once (tests/warm)."""
    with commands.started(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.fixture(autouse=True)
def _runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DBT_BRIDGE_TEST_RUNNER=command, `make test-command`, dbt is a process of its own wherever it is asked."""
    if os.environ.get("DBT_BRIDGE_TEST_RUNNER") == "command":
        monkeypatch.setenv("DBT_BRIDGE_DBT", str(request.getfixturevalue("warm_commands") / "dbt"))


@pytest.fixture(params=["module", "command"])
def each_dbt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """dbt in this process, then as a process of its own; answers which one."""
    if request.param == "command":
        monkeypatch.setenv("DBT_BRIDGE_DBT", str(request.getfixturevalue("warm_commands") / "dbt"))
    return str(request.param)


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
