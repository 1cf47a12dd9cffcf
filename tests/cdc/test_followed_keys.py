"""A key that cannot tell rows apart at the destination is refused before its table is followed; the mend works."""

from __future__ import annotations

import psycopg
import pytest
from tests.cdc.ends import End
from tests.projects import table


@pytest.mark.parametrize(
    ("type_", "other", "asked"),
    [
        ("text", "01", "bigint"),
        ("numeric", "1.0000000000000000000001", "double"),
        ("character varying(40)", "1 ", "integer"),
    ],
)
def test_a_type_in_which_two_keys_may_be_one_is_refused(
    origin: psycopg.Connection, end: End, type_: str, other: str, asked: str
) -> None:
    origin.execute(f"CREATE TABLE t (k {type_} PRIMARY KEY, v text)".encode())
    origin.execute("INSERT INTO t VALUES ('1', 'one')")
    (receipt,) = end.sync(table("t", types={"k": asked}), check=False)
    assert receipt.status == "failed" and f"its key column 'k' is {type_}" in (receipt.error or "")
    slots = "SELECT count(*) FROM pg_publication_tables WHERE tablename = 't'"
    assert origin.execute(slots.encode()).fetchone() == (0,), "it is not followed"
    end.sync(table("t", types={"k": "text"}))
    origin.execute("UPDATE t SET v = 'two'")
    origin.execute("INSERT INTO t VALUES (%s, 'other')", [other])
    end.sync(table("t", types={"k": "text"}))
    assert end.rows("t", "k, v") == sorted([("1", "two"), (other, "other")])


@pytest.mark.parametrize(
    ("name", "type_", "value"),
    [("duckdb", "interval[]", "{1 mon}"), ("postgres", "json", "[1]"), ("lake", "float[]", "{1}")],
)
def test_a_type_that_the_destination_does_not_compare_is_refused(
    origin: psycopg.Connection, end: End, name: str, type_: str, value: str
) -> None:
    if end.kind != name:
        pytest.skip("of another destination")
    origin.execute(f"CREATE TABLE t (k {type_}, v text)".encode())
    origin.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    origin.execute(f"INSERT INTO t VALUES ('{value}', 'one')".encode())  # noqa: S608
    (receipt,) = end.sync(table("t", primary_key=("k",)), check=False)
    assert "the key column 'k'" in (receipt.error or "") and "types: {k: text}" in (receipt.error or "")
    end.sync(table("t", primary_key=("k",), types={"k": "text"}))
    origin.execute("UPDATE t SET v = 'two'")
    end.sync(table("t", primary_key=("k",), types={"k": "text"}))
    assert [row[0] for row in end.rows("t", "v")] == ["two"]
