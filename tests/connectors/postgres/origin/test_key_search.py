"""Rows by their keys: composite, NULL and hostile ones, found by the index."""

from __future__ import annotations

import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.origin import key_search
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName

HOSTILE = ["it's", 'say "no"', "back\\slash", "{a,b}", "NULL", "", "E'\\'", "%s", "a\nb", "naïve 東京"]


def test_hostile_keys_and_names_find_their_rows(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute('CREATE TABLE "t"".x" ("k\'%" text, "B c" int, PRIMARY KEY ("k\'%", "B c"))')
    for number, text in enumerate(HOSTILE):
        origin.execute('INSERT INTO "t"".x" VALUES (%s, %s), (%s, -1)', [text, number, text])
    name = TableName("public", 't".x')
    columns = reading.describe(name).table.columns
    keys = pa.table({"k'%": HOSTILE, "B c": pa.array(range(len(HOSTILE)), pa.int32())})
    found = reading.rows_of(name, columns, keys).read_all()
    assert sorted(found["k'%"].to_pylist()) == sorted(HOSTILE)
    assert -1 not in found["B c"].to_pylist()
    assert reading.count(name) == 2 * len(HOSTILE)


def test_null_equals_null_in_every_part_of_a_key(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (a int, b text, c int)")
    origin.execute("INSERT INTO t VALUES (1, 'x', 1), (NULL, 'x', 2), (1, NULL, 3), (NULL, NULL, 4), (NULL, NULL, 5)")
    name = TableName("public", "t")
    columns = reading.describe(name).table.columns
    keys = pa.table({"a": pa.array([None, None, 7], pa.int32()), "b": ["x", None, "x"]})
    assert sorted(reading.rows_of(name, columns, keys).read_all()["c"].to_pylist()) == [2, 4, 5]
    assert len(reading.rows_of(name, columns, keys.slice(0, 0)).read_all()) == 0


def test_a_key_is_found_once_however_often_it_is_asked(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (id double precision PRIMARY KEY)")
    origin.execute("INSERT INTO t SELECT generate_series(0, 25000)")
    name = TableName("public", "t")
    columns = reading.describe(name).table.columns
    asked = [-0.0, *map(float, range(25_001)), 0.0, 1.0]
    found = reading.rows_of(name, columns, pa.table({"id": pa.array(asked, pa.float64())})).read_all()
    assert sorted(found["id"].to_pylist()) == list(range(25_001))


@pytest.mark.parametrize("collation", ["", 'COLLATE "C"', "COLLATE no_case"])
def test_a_text_key_is_found_exactly_in_any_collation(
    origin: psycopg.Connection, reading: PostgresOrigin, collation: str
) -> None:
    if "no_case" in collation:
        try:
            origin.execute(
                "CREATE COLLATION no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            )
        except psycopg.Error:
            pytest.skip("this server is built without ICU")
    origin.execute(f"CREATE TABLE t (k text {collation}, n int)".encode())
    origin.execute("INSERT INTO t VALUES ('a', 1), ('A', 2), ('á', 3)")
    name = TableName("public", "t")
    columns = reading.describe(name).table.columns
    assert reading.rows_of(name, columns, pa.table({"k": ["a", "b"]})).read_all()["n"].to_pylist() == [1]


def test_many_keys_use_the_index(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (a int, b text, v text, PRIMARY KEY (a, b))")
    origin.execute("INSERT INTO t SELECT n, 'k' || n, repeat('x', 50) FROM generate_series(1, 300000) n")
    origin.execute("ANALYZE t")
    name = TableName("public", "t")
    keys = pa.table({"a": pa.array(range(1, 300_000, 37), pa.int32())})
    keys = keys.append_column("b", pa.array([f"k{n}" for n in keys["a"].to_pylist()]))
    relation = reading._find_relation(name)
    (condition,) = key_search.build_conditions(relation, keys)
    plan = "\n".join(row[0] for row in origin.execute(f"EXPLAIN SELECT v FROM t WHERE {condition}".encode()))  # noqa: S608
    assert "Index" in plan and "Seq Scan on t" not in plan, plan
    assert len(reading.rows_of(name, relation.table.columns, keys).read_all()) == len(keys)


def test_keys_of_columns_that_travel_as_another_type(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (n int, s text, m numeric, day text, u text)")
    origin.execute(
        "INSERT INTO t VALUES (1, '05', 1.50, '2024-02-29', 'FFFFFFFF-1234-5678-9ABC-DEF012345678'),"
        " (2, '6', 1.5, '2024-03-01', NULL)"
    )
    name = TableName("public", "t")
    wanted = {"n": pa.string(), "s": pa.int64(), "m": pa.string(), "day": pa.date32(), "u": pa.uuid()}
    table = reading.describe(name).table.with_types(wanted)
    rows = reading.rows(name, table.columns).read_all()
    for column in wanted:
        found = reading.rows_of(name, table.columns, rows.slice(0, 1).select([column])).read_all()
        assert found["n"].to_pylist() == ["1"], column


def test_a_column_that_is_not_there_is_refused(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (id int)")
    name = TableName("public", "t")
    columns = reading.describe(name).table.columns
    with pytest.raises(OriginError, match="no column 'idd'"):
        reading.rows_of(name, columns, pa.table({"idd": [1]}))
