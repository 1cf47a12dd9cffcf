"""Tables of DuckDB, Delta, Parquet and dlt that were there before a delivery are not altered either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlt
import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from dbt_bridge.connectors.dlt.destination import DltDestination
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.connectors.lake.parquet import ParquetDestination
from dbt_bridge.contracts.destination import Destination, Load, Loaded
from dbt_bridge.contracts.outgoing import Outgoing, RemembersAppends
from dbt_bridge.errors import BridgeError, TypeRefused
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.nouns.table import Table, TableName

NAME = TableName("app", "contact")


@dataclass(frozen=True)
class Place:
    """A destination whose `app.contact` an application made: id int32, code string, and one row (99, 'abc')."""

    destination: Destination
    read: Callable[[], pa.Table]
    merges: bool = True


@pytest.fixture(params=["duckdb", "delta", "parquet", "dlt"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    theirs = pa.table({"id": pa.array([99], pa.int32()), "code": ["abc"]})
    if request.param in ("duckdb", "dlt"):
        file = tmp_path / "d.duckdb"
        with duckdb.connect(str(file)) as connection:
            connection.execute("CREATE SCHEMA app; CREATE TABLE app.contact AS FROM theirs")
        if request.param == "dlt":

            def read() -> pa.Table:
                with duckdb.connect(str(file), read_only=True) as connection:
                    return connection.sql("FROM app.contact ORDER BY id").to_arrow_table()

            yield Place(DltDestination("dlt", dlt.destinations.duckdb(str(file))), read)
            return
        with DuckDBWarehouse.open(file) as opened:
            yield Place(opened, lambda: opened.read(NAME).read_all().sort_by("id"))
    elif request.param == "delta":
        write_deltalake(tmp_path / "app" / "contact", theirs)
        lake = DeltaDestination("lake", Lake(str(tmp_path)))
        yield Place(lake, lambda: DeltaTable(tmp_path / "app" / "contact").to_pyarrow_table().sort_by("id"))
    else:
        (tmp_path / "app" / "contact").mkdir(parents=True)
        pq.write_table(theirs, tmp_path / "app" / "contact" / "part-0.parquet")
        files = ParquetDestination("files", Lake(str(tmp_path)), fsspec.filesystem("file"))
        yield Place(files, lambda: pq.read_table(tmp_path / "app" / "contact").sort_by("id"), merges=False)


def send(place: Place, rows: pa.Table, disposition: Any, *, evolve: bool = False, dry_run: bool = False) -> Loaded:
    key = ("id",) if disposition == "merge" else ()
    outgoing = Outgoing("shop", "exposure.shop.contacts", "marts.m", evolve)
    load = Load(Table.of_schema(NAME, rows.schema, key), disposition, new_load_id(), delivery=outgoing)
    return (place.destination.preview if dry_run else place.destination.load)(load, rows.to_reader())


def dispositions(place: Place) -> list[str]:
    return ["append", "replace", "merge"] if place.merges else ["append", "replace"]


UNFIT = {
    "a column that is not there": {"id": pa.array([1], pa.int32()), "extra": ["x"]},
    "another kind": {"id": pa.array([1], pa.int32()), "code": pa.array([5], pa.int32())},
    "too large": {"id": pa.array([5_000_000_000], pa.int64()), "code": ["x"]},
}


COLUMN = {"a column that is not there": "extra", "another kind": "code", "too large": "id"}


@pytest.mark.parametrize("why", UNFIT)
def test_what_does_not_fit_is_refused_and_nothing_changes(place: Place, why: str) -> None:
    before = place.read()
    for disposition in dispositions(place):
        for dry_run in (True, False):
            with pytest.raises(TypeRefused) as refused:
                send(place, pa.table(UNFIT[why]), disposition, dry_run=dry_run)
            message = str(refused.value)
            assert f"column {COLUMN[why]!r}" in message
            assert "dbt-bridge sync" not in message and "drop" not in message, message
        assert place.read().equals(before), disposition


def test_what_fits_arrives_in_the_columns_as_they_are(place: Place) -> None:
    before = place.read().schema
    for disposition in dispositions(place):
        send(place, pa.table({"id": pa.array([7], pa.int64())}), disposition)
        assert place.read().schema.equals(before), disposition
        assert (7, None) in zip(place.read()["id"].to_pylist(), place.read()["code"].to_pylist(), strict=True)


def test_evolve_adds_columns_and_says_so(place: Place) -> None:
    rows = pa.table({"id": pa.array([1], pa.int32()), "code": ["x"], "extra": ["y"]})

    looked = send(place, rows, "append", evolve=True, dry_run=True)
    before = place.read().column_names
    done = send(place, rows, "append", evolve=True)

    assert before == ["id", "code"]
    assert len(looked.changes) == 1 and looked.changes[0].startswith("added the column extra")
    assert done.changes == looked.changes
    if place.merges:  # pyarrow reads a folder by the columns of its first file
        assert "extra" in place.read().column_names


def test_no_mend_of_an_evolving_delivery_replaces_or_drops_anything(place: Place) -> None:
    rows = pa.table({"id": pa.array([1], pa.int32()), "code": pa.array([5], pa.int32())})

    with pytest.raises(TypeRefused) as refused:
        send(place, rows, "append", evolve=True)

    mend = refused.value.mend.lower()
    assert "'code'" in str(refused.value)
    assert mend and "drop" not in mend and "replace" not in mend and "full-refresh" not in mend, mend


def test_a_table_that_a_delivery_created_is_its_own(place: Place) -> None:
    if isinstance(place.destination, DltDestination):
        pytest.skip("dlt keeps no mark at a table: what stands there is never altered unasked")
    other = TableName("app", "made_here")
    outgoing = Outgoing("shop", "exposure.shop.contacts", "marts.m")

    def put(rows: pa.Table, project: str = "shop") -> Loaded:
        load = Load(Table.of_schema(other, rows.schema), "append", new_load_id(), delivery=outgoing)
        if project != "shop":
            load = Load(load.table, "append", load.load_id, delivery=Outgoing(project, "exposure.blog.x", "m"))
        return place.destination.load(load, rows.to_reader())

    created = put(pa.table({"id": [1]}))
    added = put(pa.table({"id": [2], "extra": ["x"]}))

    assert created.changes == ("created the table",)
    assert len(added.changes) == 1 and "extra" in added.changes[0]
    if place.merges:
        with pytest.raises(BridgeError, match="not the bridge's own"):
            put(pa.table({"id": [3], "more": ["x"]}), project="blog")


def test_an_append_is_remembered_in_the_transaction_of_its_rows(place: Place) -> None:
    if isinstance(place.destination, DltDestination):
        pytest.skip("dlt has no transaction that a delivery could be remembered in")
    destination = place.destination
    assert isinstance(destination, RemembersAppends)
    rows = pa.table({"id": pa.array([1], pa.int32())})
    first, second = (Outgoing("shop", "exposure.shop.contacts", "marts.m", token=digit * 32) for digit in "12")
    other = Outgoing("shop", "exposure.shop.leads", "marts.m", token="3" * 32)

    for delivery in (first, second, other):
        assert not destination.has_arrived(NAME, delivery)
        load = Load(Table.of_schema(NAME, rows.schema), "append", new_load_id(), delivery=delivery)
        destination.load(load, rows.to_reader())
        assert destination.has_arrived(NAME, delivery)

    assert destination.has_arrived(NAME, second)
    assert not destination.has_arrived(NAME, first)  # it was followed by another one
    assert not destination.has_arrived(TableName("app", "other"), second)


NESTED = {
    "{'b': '101'::BIT}": "{'b': 101}",
    "{'b': '10:00:00+02'::TIMETZ}": "{'b': '10:00:00+02'}",
    "map(['k'], ['101'::BIT])": "{k=101}",
    "[{'b': ['101'::BIT]}]": "[{'b': [101]}]",
    "{'b': 5::UHUGEINT, 'BIT': 1}": "{'b': 5, 'BIT': 1}",
    "{'b': '12345678901234567890123456789012345678901'::BIGNUM}": "{'b': 12345678901234567890123456789012345678901}",
    "['a, BIT)', 'c']::ENUM('a, BIT)', 'c')[]": "['a, BIT)', c]",
}


def test_values_inside_of_nested_ones_leave_the_warehouse_as_they_are(tmp_path: Path) -> None:
    """DuckDB's Arrow export drops an offset, wraps a large number around, and gives BIT its inner bytes."""
    file = tmp_path / "w.duckdb"
    with duckdb.connect(str(file)) as connection:
        for number, value in enumerate(NESTED):
            connection.execute(f"CREATE TABLE m{number} AS SELECT {value} AS v")
        connection.execute(
            "CREATE TABLE beyond AS SELECT {'b': 340282366920938463463374607431768211455::UHUGEINT} AS v"
        )
    with DuckDBWarehouse.open(file) as warehouse:
        for number, wanted in enumerate(NESTED.values()):
            table = warehouse.find_table(TableName("main", f"m{number}"))
            assert table is not None
            there = TableName("main", f"there{number}")
            rows = warehouse.read(table.name)
            warehouse.load(Load(Table.of_schema(there, rows.schema), "replace", new_load_id()), rows)
            (text,) = warehouse.read(there, as_text=("v",)).read_all()["v"].to_pylist()
            assert text.replace("'101'", "101").replace("'1234", "1234").replace("901'", "901") == wanted
        with pytest.raises(BridgeError):
            warehouse.read(TableName("main", "beyond")).read_all()
