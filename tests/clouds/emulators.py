"""Cloud warehouses as emulators: fakesnow for Snowflake, bqemulator for BigQuery, each a server in a venv of its own.

    DBT_BRIDGE_TEST_FAKESNOW, DBT_BRIDGE_TEST_BQEMULATOR     the `python` of these venvs; see CONTRIBUTING.md

The product speaks to them with its stock clients. Only their address is another: by the dbt profile's own `host`,
`port` and `protocol` for Snowflake, and by Google's BIGQUERY_EMULATOR_HOST.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.nouns.project import WarehouseProfile
from dbt_bridge.nouns.table import TableName
from dbt_bridge.project.destinations import open_warehouse

_numbers = itertools.count(1)
_CLIENTS = {"snowflake": "snowflake.connector", "bigquery": "google.cloud.bigquery"}
_PYTHONS = {"snowflake": "DBT_BRIDGE_TEST_FAKESNOW", "bigquery": "DBT_BRIDGE_TEST_BQEMULATOR"}
_SERVERS = {"snowflake": "fakesnow_server.py", "bigquery": "bqemulator_server.py"}


@dataclass(frozen=True)
class Emulator:
    adapter: str
    ports: tuple[int, int]


@dataclass(frozen=True)
class Cloud:
    """A warehouse of a dbt profile, empty."""

    profile: WarehouseProfile

    @property
    def adapter(self) -> str:
        return self.profile.adapter

    def warehouse(self) -> DltWarehouse:
        opened = open_warehouse(self.profile)
        assert isinstance(opened, DltWarehouse)
        return opened

    def ask(self, statement: str, *names: str) -> list[tuple[Any, ...]]:
        """Run a statement, with tables (`schema.name`) in place of its `{}`, spelled as the warehouse does."""
        asked = TableName("shop_landing", "asked")
        with self.warehouse().session.sql_client(asked) as client:
            spelled = []
            for schema, _, name in (one.partition(".") for one in names):
                with client.with_alternative_dataset_name(schema):
                    spelled.append(client.make_qualified_table_name(name))
            return [tuple(row) for row in client.execute_sql(statement.format(*spelled)) or ()]


@contextmanager
def emulator(adapter: str, folder: Path) -> Iterator[Emulator]:
    """Started once, and stopped by its own process."""
    python = os.environ.get(_PYTHONS[adapter])
    if not python:
        pytest.skip(f"no emulator of {adapter}: {_PYTHONS[adapter]} names none (CONTRIBUTING.md says how)")
    if not _is_installed(_CLIENTS[adapter]):
        pytest.skip(f"no client of {adapter}: {_CLIENTS[adapter]} is not installed (CONTRIBUTING.md says how)")
    ports = _free(), _free()
    command = [python, str(Path(__file__).with_name(_SERVERS[adapter])), *map(str, ports)]
    log = folder / f"{adapter}.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=folder) as server:
        try:
            _wait(server, ports[0], log)
            yield Emulator(adapter, ports)
        finally:
            server.kill()


def cloud(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    name = f"db{next(_numbers)}"
    if running.adapter == "snowflake":
        account = {"account": "fakesnow", "user": "fake", "password": "snow", "warehouse": "wh", "role": "r"}
        address = {"host": "localhost", "port": running.ports[0], "protocol": "http"}
        return Cloud(WarehouseProfile("snowflake", name, "main", 2, {**account, **address, "database": name}))
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{running.ports[0]}")
    given = {"method": "service-account-json", "project": name, "keyfile_json": _key(running.ports[1])}
    return Cloud(WarehouseProfile("bigquery", name, "main", 2, given))


def _key(port: int) -> dict[str, str]:
    made = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    key = subprocess.run(made, check=True, capture_output=True, text=True).stdout
    uri = f"http://127.0.0.1:{port}/token"
    return {"type": "service_account", "private_key": key, "client_email": "a@b.iam", "token_uri": uri}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"the emulator does not listen: {log.read_text()[-2000:]}")
