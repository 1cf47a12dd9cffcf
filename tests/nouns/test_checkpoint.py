"""What a checkpoint says of its table, also where an earlier version wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import dlt
import duckdb
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import Ledger, Load
from dbt_bridge.nouns.checkpoint import CHECKPOINT_FIELDS, Checkpoint, TableMemory, TableState
from dbt_bridge.nouns.table import Table, TableName

NAME = TableName("_dbt_bridge", "checkpoints")
SHAPE = '{"shape":{"oid":1,"schema":"public","name":"orders"},"landing":"ab12","hidden":["mask mail"]}'
# What version 0.1 wrote before it had the column `state`: the message said everything.
EARLIER = [
    {"node": "a", "set_aside": ""},
    {"node": "b", "set_aside": "must be copied anew: it is no cdc table of this dbt source any more"},
    {"node": "c", "set_aside": "public.orders: a value does not fit"},
]
STATES = [("a", TableState.STANDS), ("b", TableState.COPY_ANEW), ("c", TableState.SET_ASIDE)]


def earlier_rows() -> pa.Table:
    names = CHECKPOINT_FIELDS[:7]
    blank = {**dict.fromkeys(names, ""), "origin": "shop_pg", "value": "0/1F", "slot": "7301/shop", "shape": SHAPE}
    return pa.Table.from_pylist(
        [{**blank, **row} for row in EARLIER], schema=pa.schema([(name, pa.string()) for name in names])
    )


def _duckdb(path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    rows = earlier_rows()  # noqa: F841
    with duckdb.connect(str(path / "warehouse.duckdb")) as connection:
        connection.execute("CREATE SCHEMA _dbt_bridge")
        connection.execute("CREATE TABLE _dbt_bridge.checkpoints AS SELECT *, now() AS saved_at FROM rows")
    with DuckDBWarehouse.open(path / "warehouse.duckdb") as warehouse:
        yield warehouse


def _postgres(path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    origin: psycopg.Connection = request.getfixturevalue("origin")
    columns = ", ".join(f"{name} text{' PRIMARY KEY' if name == 'node' else ''}" for name in CHECKPOINT_FIELDS[:7])
    origin.execute("CREATE SCHEMA _dbt_bridge")
    origin.execute(f"CREATE TABLE _dbt_bridge.checkpoints ({columns}, saved_at timestamptz)".encode())
    for row in earlier_rows().to_pylist():
        origin.execute("INSERT INTO _dbt_bridge.checkpoints VALUES (%s, %s, %s, %s, %s, %s, %s)", [*row.values()])
    with PostgresWarehouse("pg", request.getfixturevalue("database")) as warehouse:
        yield warehouse


def _dlt(path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    url = request.getfixturevalue("database").replace("postgres@", "postgres:none@")
    warehouse = DltWarehouse("redshift", dlt.destinations.postgres(url))
    rows = earlier_rows()
    warehouse.load(Load(Table.of_schema(NAME, rows.schema, ("node",)), "merge", "load-0"), rows.to_reader())
    yield warehouse


@pytest.mark.parametrize("ledger", [_duckdb, _postgres, _dlt], ids=["duckdb", "postgres", "dlt"])
def test_rows_of_an_earlier_version_say_the_same_and_are_replaced(
    ledger: Callable[..., Iterator[Ledger]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    opening = ledger(tmp_path, request)
    warehouse = next(opening)
    found = {point.node: point for point in warehouse.checkpoints()}
    assert [(node, point.state) for node, point in sorted(found.items())] == STATES
    assert found["c"].set_aside == "public.orders: a value does not fit"
    assert found["a"].memory == TableMemory('{"oid":1,"schema":"public","name":"orders"}', "ab12", ("mask mail",))

    copied, mended = found["a"].copy_anew("a copy broke off"), found["c"].put_aside("must be looked at")
    warehouse.save([copied, mended], [])
    again = {point.node: point for point in warehouse.checkpoints()}
    assert again == {"a": copied, "b": found["b"], "c": mended}
    assert (again["a"].state, again["a"].set_aside) == (
        TableState.COPY_ANEW, "must be copied anew: a copy broke off",
    )  # fmt: skip
    assert next(opening, None) is None


def test_a_state_never_contradicts_its_message() -> None:
    """An earlier version that writes over a row leaves the column `state` as it was, where it updates in place."""
    row = Checkpoint("a", "shop_pg", "", "0/1F").as_row()
    assert Checkpoint.of_row({**row, "set_aside": "refused"}).state is TableState.SET_ASIDE
    assert Checkpoint.of_row({**row, "state": "copy_anew"}).state is TableState.STANDS
    assert Checkpoint.of_row({**row, "set_aside": "refused", "state": "unheard of"}).state is TableState.SET_ASIDE


@pytest.mark.parametrize(
    ("set_aside", "state"),
    [
        ("refused", TableState.STANDS),
        ("must be copied anew: a copy broke off", TableState.STANDS),
        ("", TableState.COPY_ANEW),
        ("", TableState.SET_ASIDE),
    ],
)
def test_a_new_checkpoint_that_contradicts_itself_is_refused(set_aside: str, state: TableState) -> None:
    with pytest.raises(ValueError, match=f"the checkpoint of a is {state}"):
        Checkpoint("a", "shop_pg", "", "0/1F", set_aside=set_aside, state=state)


@pytest.mark.parametrize("shape", ['{"oid":1}', '{"oid": 1}', "{no json", "0000@57", ""])
def test_a_shape_is_given_back_as_the_source_wrote_it(shape: str) -> None:
    memory = TableMemory(shape, "ab12", ("mask mail", "exclude x*"))
    assert TableMemory.of_text(memory.as_text()) == memory


def test_a_shape_that_is_json_can_be_read_in_the_table() -> None:
    assert TableMemory.of_text(SHAPE).as_text() == SHAPE
