"""Every type of the golden list comes back from where it landed as it came, and finds its own rows as a key."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import dlt
import fsspec
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.connectors.lake.parquet import ParquetDestination
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.wire.texts import to_texts
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Column, Table, TableName

_golden = Path(__file__).parents[1] / "connectors" / "postgres" / "origin" / "test_golden_types.py"
_spec = importlib.util.spec_from_file_location("golden_types", _golden)
assert _spec is not None and _spec.loader is not None
golden: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

Opened = Callable[[Path, Server], Any]
OPENED: dict[str, Opened] = {
    "duckdb": lambda path, _: DuckDBWarehouse.open(path / "w.duckdb"),
    "postgres": lambda _, server: PostgresWarehouse("postgres", server.url("state_types")),
    "delta": lambda path, _: DeltaDestination("lake", Lake(str(path))),
    "parquet": lambda path, _: ParquetDestination("files", Lake(str(path)), fsspec.filesystem("file")),
    "dlt": lambda path, _: DltWarehouse("dlt", dlt.destinations.duckdb(str(path / "d.duckdb"))),
}
WIDE = TableName("public", "wide")
FAR = [name for name, (_, texts_) in golden.CASES.items() if any("infinity" in t or "BC" in t for t in texts_)]


@pytest.fixture(scope="module")
def origin(server: Server) -> Iterator[PostgresOrigin]:
    """One table with a column for each type, and a row for each value; the last one is all NULL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE state_types")
    with psycopg.connect(server.url("state_types"), autocommit=True) as connection:
        connection.execute(golden.SETUP)
        columns = ", ".join(f"c{number} {name}" for number, name in enumerate(golden.CASES))
        connection.execute(f"CREATE TABLE wide (id int, {columns})".encode())
        given = [texts_ for _, texts_ in golden.CASES.values()]
        marks = ", ".join(["%s"] * (1 + len(given)))
        for row in range(max(map(len, given)) + 1):
            cells = [row, *(texts_[row] if row < len(texts_) else None for texts_ in given)]
            connection.execute(f"INSERT INTO wide VALUES ({marks})".encode(), cells)  # noqa: S608
    with PostgresOrigin("golden", server.url("state_types")) as reading:
        yield reading


@pytest.fixture(params=OPENED)
def destination(request: pytest.FixtureRequest, server: Server, origin: PostgresOrigin, tmp_path: Path) -> Any:
    with ExitStack() as stack:
        opened = OPENED[request.param](tmp_path, server)
        stack.callback(opened.close)
        yield opened


def test_what_landed_comes_back_and_finds_its_rows(origin: PostgresOrigin, destination: Any) -> None:
    left_out = FAR if destination.name in ("lake", "files", "dlt") else []  # they keep the years 1 to 9999
    names = ["id", *(f"c{number}" for number, name in enumerate(golden.CASES) if name not in left_out)]
    known = {column.name: destination.map_column(column) for column in origin.describe(WIDE).table.columns}
    replica = Replica("source.p.s.t", Table(TableName("landing", "wide"), tuple(known[name] for name in names)))
    sent = origin.rows(WIDE, replica.table.columns).read_all().sort_by("id")
    destination.load(Load(replica.table, "replace", "1"), sent.to_reader())
    with destination.open_state() as state:
        assert state.count(replica) == len(sent)
        found = state.rows(replica).read_all().sort_by("id")
        assert found.schema == replica.table.arrow_schema
        for name in names:
            assert values(found, name) == values(sent, name), known[name]
        narrow = Replica("source.p.s.t", Table(replica.table.name, ()))
        for name in names[:: 12 if destination.name == "dlt" else 1]:  # each answer takes dlt a third of a second
            table = Table(replica.table.name, tuple(dict.fromkeys([known["id"], known[name]])))
            keys = sent.slice(0, 1).select([name])
            wanted = [i for i, value in enumerate(values(sent, name)) if value == values(keys, name)[0]]
            by_key = state.rows(replace(narrow, table=table), keys).read_all()
            assert sorted(by_key["id"].to_pylist()) == wanted, known[name]
        assert state.rows(replica, sent.slice(2, 2)).read_all()["id"].to_pylist() in ([2, 3], [3, 2])


def values(rows: pa.Table, column: str) -> list[str | None]:
    return list(to_texts(rows[column].combine_chunks()).to_pylist())


def test_a_table_that_somebody_changed_gives_back_the_same_values_or_refuses(tmp_path: Path) -> None:
    columns = (Column("id", pa.int32()), Column("u", pa.uuid()), Column("n", pa.decimal128(12, 2)))
    replica = Replica("source.p.s.t", Table(TableName("landing", "t"), columns))
    rows = pa.table({"id": [1], "u": [b"0" * 16], "n": [None]}).cast(
        pa.schema({"id": pa.int32(), "u": pa.binary(16), "n": pa.decimal128(12, 2)})
    )
    rows = rows.set_column(1, "u", rows["u"].cast(pa.uuid()))
    with DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse:
        warehouse.load(Load(replica.table, "replace", "1"), rows.to_reader())
        with warehouse._connection.cursor() as cur:
            cur.execute("ALTER TABLE landing.t ALTER u TYPE VARCHAR; ALTER TABLE landing.t ALTER id TYPE BIGINT")
        with warehouse.open_state() as state:
            assert state.rows(replica).read_all() == rows
        with warehouse._connection.cursor() as cur:
            cur.execute("UPDATE landing.t SET id = 3000000000")
        with warehouse.open_state() as state, pytest.raises(TypeRefused, match=r"landing\.t, column 'id'"):
            state.rows(replica).read_all()
