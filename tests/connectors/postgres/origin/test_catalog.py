"""Tables as the catalog has them, and errors that name the next command."""

from __future__ import annotations

import psycopg
import pytest

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_table_name

T = TableName("public", "t")


def test_ordinary_partitioned_and_foreign_tables_are_listed_and_partitions_are_not(
    origin: psycopg.Connection, database: str
) -> None:
    origin.execute("CREATE TABLE ordinary (i int)")
    origin.execute("CREATE TABLE parts (i int) PARTITION BY LIST (i)")
    origin.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)")
    origin.execute("CREATE TABLE child () INHERITS (ordinary)")
    origin.execute("CREATE VIEW a_view AS SELECT 1 AS i")
    origin.execute("CREATE EXTENSION file_fdw")
    origin.execute("CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
    origin.execute("CREATE FOREIGN TABLE elsewhere (i int) SERVER files OPTIONS (program 'printf \"1\\n2\\n\"')")
    with PostgresOrigin("pg", database) as reading:
        names = reading.tables(None)
        assert [t.name for t in names] == ["child", "elsewhere", "ordinary", "parts"]
        found = reading.rows(TableName("public", "elsewhere"), reading.describe(names[1]).table.columns).read_all()
    assert found.column("i").to_pylist() == [1, 2]


def test_partitioned_and_inherited_parents_bring_the_rows_of_their_children(
    origin: psycopg.Connection, reading: PostgresOrigin
) -> None:
    origin.execute("CREATE TABLE t (i int) PARTITION BY LIST (i)")
    origin.execute("CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1)")
    origin.execute("CREATE TABLE t_2 PARTITION OF t DEFAULT")
    origin.execute("INSERT INTO t VALUES (1), (2), (3)")
    origin.execute("CREATE TABLE parent (i int)")
    origin.execute("CREATE TABLE child (j int) INHERITS (parent)")
    origin.execute("INSERT INTO parent VALUES (1)")
    origin.execute("INSERT INTO child VALUES (2, 3)")
    origin.execute("ANALYZE")
    described = reading.describe(T)
    assert (described.rows, described.bytes) == (3, 16384)
    for name, expected in (("t", [1, 2, 3]), ("parent", [1, 2]), ("child", [2])):
        table = reading.describe(TableName("public", name)).table
        rows = reading.rows(table.name, table.columns, workers=2).read_all()
        assert sorted(rows.column("i").to_pylist()) == expected


def test_key_generated_identity_and_nullable_columns(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute(
        "CREATE TABLE t (b int, a int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (b * 2) STORED,"
        " thrice int GENERATED ALWAYS AS (b * 3) VIRTUAL, gone int, PRIMARY KEY (b, a) INCLUDE (twice))"
    )
    origin.execute("ALTER TABLE t DROP COLUMN gone")
    origin.execute("INSERT INTO t (b) VALUES (5)")
    table = reading.describe(T).table
    assert table.key == ("b", "a")
    assert [(c.name, c.nullable) for c in table.columns] == [
        ("b", False), ("a", False), ("twice", True), ("thrice", True)
    ]  # fmt: skip
    assert reading.rows(T, table.columns).read_all().to_pylist() == [{"b": 5, "a": 1, "twice": 10, "thrice": 15}]


def test_a_unique_index_is_no_key(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE t (i int NOT NULL UNIQUE)")
    assert reading.describe(T).table.key == ()


def test_an_estimate_is_none_before_the_first_analyze(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE TABLE t (i int)")
    with PostgresOrigin("pg", database) as reading:
        assert reading.describe(T).rows is None
    origin.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    origin.execute("ANALYZE t")
    with PostgresOrigin("pg", database) as reading:
        assert reading.describe(T).rows == 1000


HOSTILE = [
    'quo"te', "semi;colon--", "ünïcödé 東京", "x" * 63, "per%cent %s %(a)s", "bra{ce}s {}", "sp ace", "select",
    "apo'str", "back\\slash", "$1", "new\nline",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_schema_table_and_column(
    origin: psycopg.Connection, reading: PostgresOrigin, name: str
) -> None:
    column, table = quote_identifier(name), quote_table_name(TableName(name, name))
    origin.execute(f"CREATE SCHEMA {quote_identifier(name)}".encode())
    origin.execute(f"CREATE TABLE {table} ({column} int[], i int PRIMARY KEY)".encode())
    origin.execute(f"INSERT INTO {table} VALUES ('{{1,2}}', 7)".encode())  # noqa: S608
    table = TableName(name, name)
    assert reading.tables(name) == [table]
    columns = reading.describe(table).table.columns
    assert reading.rows(table, columns).read_all().to_pylist() == [{name: [1, 2], "i": 7}]
    assert reading.newest(table, "i") == "7"


def test_400_columns_and_none_at_all_and_no_rows(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    many = ", ".join(f"c{i} numeric(10,2) DEFAULT {i}" for i in range(400))
    origin.execute(f"CREATE TABLE t ({many})".encode())
    origin.execute("INSERT INTO t DEFAULT VALUES")
    origin.execute("CREATE TABLE nothing ()")
    origin.execute("INSERT INTO nothing DEFAULT VALUES")
    origin.execute("CREATE TABLE empty (a uuid, b jsonb, c numeric(5,2)[])")
    wide = reading.describe(T).table
    assert [int(v[0].as_py()) for v in reading.rows(T, wide.columns).read_all().columns] == list(range(400))
    nothing = TableName("public", "nothing")
    assert reading.describe(nothing).table.columns == ()
    assert reading.rows(nothing, ()).read_all().num_columns == 0
    empty = reading.describe(TableName("public", "empty")).table
    rows = reading.rows(empty.name, empty.columns).read_all()
    assert rows.schema == empty.arrow_schema
    assert rows.num_rows == 0


def test_missing_names_suggest_the_nearest(origin: psycopg.Connection, reading: PostgresOrigin) -> None:
    origin.execute("CREATE TABLE customers (i int)")
    with pytest.raises(OriginError, match=r"(?s)no table public\.custmers.*did you mean 'customers'"):
        reading.describe(TableName("public", "custmers"))
    with pytest.raises(OriginError, match=r"(?s)no table legacy\.customers.*did you mean 'public\.customers'"):
        reading.describe(TableName("legacy", "customers"))
    with pytest.raises(OriginError, match=r"(?s)no schema 'publc'.*did you mean 'public'"):
        reading.tables("publc")
    name = TableName("public", "customers")
    column = reading.describe(name).table.columns[0]
    origin.execute("CREATE TABLE other (total int)")
    with pytest.raises(OriginError, match=r"(?s)no column 'ii'.*did you mean 'i'"):
        reading.rows(name, [type(column)("ii", column.type)])


def test_missing_privileges_name_the_grant(origin: psycopg.Connection, database: str) -> None:
    origin.execute("CREATE SCHEMA closed")
    origin.execute("CREATE TABLE closed.t (i int)")
    origin.execute("CREATE TABLE t (i int)")
    origin.execute("CREATE TABLE guarded (i int)")
    origin.execute("DROP ROLE IF EXISTS limited")
    origin.execute("CREATE ROLE limited LOGIN")
    origin.execute("GRANT SELECT ON guarded TO limited")
    origin.execute("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
    guarded = TableName("public", "guarded")
    with PostgresOrigin("pg", database.replace("postgres@", "limited@")) as reading:
        with pytest.raises(OriginError, match=r'GRANT SELECT ON "public"\."t" TO limited;'):
            reading.describe(T)
        with pytest.raises(OriginError, match='GRANT USAGE ON SCHEMA "closed" TO limited;'):
            reading.describe(TableName("closed", "t"))
        with pytest.raises(OriginError, match="row-level security policy hides rows"):
            reading.rows(guarded, reading.describe(guarded).table.columns).read_all()
        with pytest.raises(OriginError, match="row-level security policy hides rows"):
            reading.require_readable(guarded, ["i"])
    origin.execute("DROP OWNED BY limited")
    origin.execute("DROP ROLE limited")


def test_privileges_on_the_columns_that_land_suffice(origin: psycopg.Connection, database: str) -> None:
    """The mend never hands over what is to stay hidden."""
    origin.execute("CREATE TABLE t (i int PRIMARY KEY, v text, secret text)")
    origin.execute("INSERT INTO t VALUES (1, 'a', 'canary')")
    origin.execute("DROP ROLE IF EXISTS by_column")
    origin.execute("CREATE ROLE by_column LOGIN")
    origin.execute("GRANT SELECT (i, v) ON t TO by_column")
    with PostgresOrigin("pg", database.replace("postgres@", "by_column@")) as reading:
        columns = reading.describe(T).table.columns
        shown = columns[:2]
        assert reading.rows(T, shown).read_all().to_pylist() == [{"i": 1, "v": "a"}]
        assert b"canary" not in b"".join(reading.copy_raw(T, ["i", "v"], {})[0])
        assert reading.count(T) == 1 and reading.newest(T, "i") == "1"
        reading.require_readable(T, ["i", "v"])
        told = r"""no privilege to read public.t, column 'secret'.*exclude: \[secret\].*GRANT SELECT \("secret"\) ON"""
        for reads in (reading.rows, lambda name, all_: reading.copy_raw(name, [c.name for c in all_], {})):
            with pytest.raises(OriginError, match=f"(?s){told}"):
                reads(T, columns)
    origin.execute("REVOKE SELECT (v) ON t FROM by_column")
    with (
        PostgresOrigin("pg", database.replace("postgres@", "by_column@")) as reading,
        pytest.raises(OriginError, match=r"""GRANT SELECT \("v"\) ON "public"."t" TO by_column;"""),
    ):
        reading.rows(T, shown)
    origin.execute("DROP OWNED BY by_column")
    origin.execute("DROP ROLE by_column")
