"""Origins and destinations as sides of a comparison: columns by name, masks, keys."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.arrow.mask import mask_batches
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.contracts.canon import Digested, choose_canon
from dbt_bridge.contracts.destination import Load, Replica
from dbt_bridge.contracts.side import Digests
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.prove.sides import make_landing_side, make_origin_side
from dbt_bridge.verify.canonical.row_digest import compute_digests


def hashed(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def people(origin: psycopg.Connection) -> TableName:
    origin.execute("CREATE TABLE people (id int, email text, born date, PRIMARY KEY (id, email))")
    origin.execute("INSERT INTO people VALUES (1, 'a@x', '2000-01-02'), (1, 'b@x', 'infinity'), (2, 'c@x', NULL)")
    return TableName("public", "people")


MASK = {"email": "sha256", "born": "sha256"}


def test_an_origin_gives_the_columns_that_are_asked_for_with_their_masks(people: TableName, database: str) -> None:
    with PostgresOrigin("shop", database) as origin:
        table = origin.describe(people).table
        side = make_origin_side(origin, table, table.columns, MASK, 1, "shop: people")
        assert side.name == "shop: people" and side.table.key == ("id", "email")
        assert side.table.arrow_schema.field("born").type == pa.string()
        assert side.table.column("born") == Column("born", pa.string(), "")
        assert side.count() == 3
        rows = side.rows(["born", "id"]).read_all()
        assert rows.column_names == ["born", "id"]
        expected = [(hashed("2000-01-02"), 1), (hashed("infinity"), 1), (None, 2)]
        assert sorted(zip(*rows.to_pydict().values(), strict=True), key=repr) == sorted(expected, key=repr)
        with pytest.raises(UsageError, match="no column 'nope'"):
            side.rows(["nope"])


@pytest.mark.parametrize("columns", [["id"], ["email", "born"]])
def test_rows_are_found_by_plain_and_by_masked_keys(people: TableName, database: str, columns: list[str]) -> None:
    with PostgresOrigin("shop", database) as origin:
        table = origin.describe(people).table
        side = make_origin_side(origin, table, table.columns, MASK, 1, "shop: people")
        plain = side.rows(columns, pa.table({"id": pa.array([2, 7], pa.int32())})).read_all()
        assert plain.num_rows == 1 and plain.column_names == columns
        keys = pa.table({"email": [hashed("b@x"), "b@x", None], "id": pa.array([1, 1, 1], pa.int32())})
        found = side.rows(columns, keys).read_all()
        assert found.num_rows == 1 and found.column_names == columns
        nulls = pa.table({"born": pa.array([None], pa.string())})
        assert side.rows(["id"], nulls).read_all()["id"].to_pylist() == [2]


def test_a_masked_landing_table_is_its_origins_other_side(people: TableName, database: str, tmp_path: Path) -> None:
    with PostgresOrigin("shop", database) as origin, DuckDBWarehouse.open(tmp_path / "w.duckdb") as warehouse:
        table = origin.describe(people).table
        columns = tuple(c.as_text() if c.name in MASK else c for c in table.columns)
        landing = Table(TableName("landing", "people"), columns, table.key)
        warehouse.load(Load(landing, "replace", "1"), mask_batches(origin.rows(people, columns), MASK))
        theirs = make_origin_side(origin, table, table.columns, MASK, 1, "shop: people")
        names = ["id", "email", "born"]
        with warehouse.open_state() as state:
            ours = make_landing_side(state, Replica("source.p.shop.people", landing), "duckdb: people")
            assert ours.count() == theirs.count()
            assert by_id(ours.rows(names)) == by_id(theirs.rows(names))
            keys = ours.rows(["email"]).read_all().slice(0, 2)
            assert by_id(ours.rows(["id", "born"], keys)) == by_id(theirs.rows(["id", "born"], keys))


def by_id(rows: pa.RecordBatchReader) -> list[Any]:
    return sorted(zip(*rows.read_all().to_pydict().values(), strict=True), key=repr)


def test_a_sql_origin_is_a_side(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "o.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT)")
        connection.execute("INSERT INTO t VALUES (1, 'a'), (2, NULL)")
    connection.close()
    with SqlOrigin("lite", f"sqlite:///{tmp_path}/o.db") as origin:
        table = origin.describe(TableName("", "t")).table
        side = make_origin_side(origin, table, table.columns, {"s": "sha256"}, 1, "lite: t")
        assert side.count() == 2
        assert side.rows(["s"], pa.table({"id": [1]})).read_all()["s"].to_pylist() == [hashed("a")]
        assert side.rows(["id"], pa.table({"s": [hashed("a")]})).read_all()["id"].to_pylist() == [1]


def test_a_servers_digests_are_of_what_lands_of_a_masked_column(people: TableName, database: str) -> None:
    with PostgresOrigin("shop", database) as origin:
        table = origin.describe(people).table
        side = make_origin_side(origin, table, table.columns, MASK, 1, "shop: people")
        assert isinstance(side, Digests)
        every = [Digested(column, choose_canon(column, column)) for column in side.table.columns]
        rows = side.rows([d.column.name for d in every]).read_all()
        arrays = [rows[d.column.name].combine_chunks() for d in every]
        sent = side.digests(every[:2], every[2:]).read_all()
        assert sorted(sent["_row"].to_pylist()) == sorted(compute_digests(arrays[2:], [every[2].canon]).tolist())
        assert sorted(sent["email"].to_pylist(), key=str) == sorted(rows["email"].to_pylist(), key=str)
        assert not {"a@x", "b@x", "c@x"} & set(sent["email"].to_pylist()), "a masked key leaves as its hash, if at all"
