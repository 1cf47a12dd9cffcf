"""Every built-in type family lands value by value: Postgres itself compares what DuckDB holds with what it sent.

Each case is a table with one column. After landing, the text that DuckDB prints for a value goes back to Postgres,
which casts it to the origin's type and compares it with the original's own output: no decoder of ours judges itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from psycopg import sql

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.contracts.destination import Load
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Table, TableName

UTC = pa.timestamp("us", "UTC")
BIG = "9" * 38

# origin type -> (the Arrow type it travels in, values as Postgres's text input)
CASES: dict[str, tuple[pa.DataType, list[str]]] = {
    "smallint": (pa.int16(), ["-32768", "0", "32767"]),
    "integer": (pa.int32(), ["-2147483648", "0", "2147483647"]),
    "bigint": (pa.int64(), ["-9223372036854775808", "0", "9223372036854775807"]),
    "oid": (pa.int64(), ["0", "4294967295"]),
    "real": (pa.float32(), ["0.1", "-0", "3.4028235e38", "1e-45", "NaN", "Infinity", "-Infinity"]),
    "double precision": (pa.float64(), ["0.1", "1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-Infinity"]),
    "boolean": (pa.bool_(), ["true", "false"]),
    "numeric(12,2)": (pa.decimal128(12, 2), ["-9999999999.99", "0", "0.01"]),
    "numeric(38,0)": (pa.decimal128(38, 0), [BIG, "-" + BIG]),
    "numeric(38,38)": (pa.decimal128(38, 38), ["0." + BIG, "-0." + BIG]),
    "numeric(2,-3)": (pa.decimal128(5, 0), ["99000", "-1000", "0"]),
    "numeric(3,5)": (pa.decimal128(5, 5), ["0.00999", "-0.00001"]),
    "numeric": (pa.string(), ["9" * 1000, "0." + "0" * 500 + "1", "1.10", "NaN", "Infinity", "-Infinity"]),
    "numeric(39,2)": (pa.string(), ["9" * 37 + ".99", "NaN"]),
    "numeric(1000,500)": (pa.string(), ["9" * 500 + "." + "9" * 500]),
    "text": (pa.string(), ["", "naïve 東京 🐘", "a\nb\t\"c\" 'd' \\ {e} %s", "x" * 100_000]),
    "character varying(10)": (pa.string(), ["", "ten chars!"]),
    "character(5)": (pa.string(), ["ab", ""]),
    "name": (pa.string(), ["a_name"]),
    '"char"': (pa.string(), ["a", r"\377"]),
    "public.citext": (pa.string(), ["MiXeD", ""]),
    "bytea": (pa.binary(), [r"\x", r"\x00ff10de", r"\x" + "ab" * 5000]),
    "uuid": (pa.uuid(), ["00000000-0000-0000-0000-000000000000", "ffffffff-1234-5678-9abc-def012345678"]),
    "json": (pa.json_(), ['{"b": 1,   "a": [1, null, "x"], "b": 2}', "null", '"text"', "1.10"]),
    "jsonb": (pa.json_(), ['{"b": 1, "a": [1, null, "é"]}', "null", "12345678901234567890.123456789"]),
    "date": (pa.date32(), ["4713-01-01 BC", "0001-01-01", "2024-02-29", "5874897-12-31", "infinity", "-infinity"]),
    "time": (pa.time64("us"), ["00:00:00", "23:59:59.999999", "24:00:00"]),
    "time with time zone": (pa.string(), ["00:00:00+15:59", "23:59:59.999999-08", "24:00:00+00"]),
    "timestamp": (
        pa.timestamp("us"),
        ["4713-01-01 00:00:00 BC", "0001-01-01", "2024-02-29 23:59:59.999999", "infinity", "-infinity"],
    ),
    "timestamp with time zone": (
        UTC,
        ["4713-01-02 00:00:00+00 BC", "1900-01-01 00:00:00+05:53:28", "2024-06-30 12:00:00.000001-07", "infinity"],
    ),
    "interval": (
        pa.month_day_nano_interval(),
        ["1 year 2 mons 3 days 04:05:06.789", "-1 mons +2 days -00:00:01", "0", "178000000 years", "2562046:00:00"],
    ),
    "interval[]": (pa.list_(pa.month_day_nano_interval()), ["{1 mon 2 days 00:00:03,NULL}"]),
    "time[]": (pa.list_(pa.time64("us")), ["{23:59:59.999999,NULL}"]),
    "integer[]": (pa.list_(pa.int32()), ["{}", "{1,NULL,-3}"]),
    "bigint[]": (pa.list_(pa.int64()), ["{9223372036854775807}"]),
    "oid[]": (pa.list_(pa.int64()), ["{4294967295,NULL}"]),
    "double precision[]": (pa.list_(pa.float64()), ["{0.1,NaN,-Infinity}"]),
    "boolean[]": (pa.list_(pa.bool_()), ["{t,f,NULL}"]),
    "text[]": (pa.list_(pa.string()), ["{}", '{"",NULL,"NULL","a,b","{c}","\\"d\\""}']),
    "character(3)[]": (pa.list_(pa.string()), ["{a,bcd}"]),
    "uuid[]": (pa.list_(pa.uuid()), ["{ffffffff-1234-5678-9abc-def012345678,NULL}"]),
    "date[]": (pa.list_(pa.date32()), ["{2024-02-29,NULL,infinity,-infinity}", "{4713-01-01 BC}"]),
    "timestamp[]": (pa.list_(pa.timestamp("us")), ['{"2024-02-29 01:02:03.000004",infinity,NULL}']),
    "timestamptz[]": (pa.list_(UTC), ['{"2024-02-29 01:02:03.000004+00",-infinity}']),
    "numeric(7,3)[]": (pa.list_(pa.decimal128(7, 3)), ["{1.5,NULL,-9999.999}"]),
    "numeric[]": (pa.list_(pa.string()), ["{1e100,NaN,NULL,1.10}"]),
    "jsonb[]": (pa.list_(pa.string()), ['{"{\\"a\\": 1}",NULL}']),
    "inet[]": (pa.list_(pa.string()), ["{10.0.0.1,10.0.0.0/8,NULL}"]),
    "public.mood[]": (pa.list_(pa.string()), ["{happy,NULL,so-so}"]),
    "public.price[]": (pa.list_(pa.decimal128(10, 2)), ["{1.25,NULL}"]),
    "public.mood": (pa.string(), ["happy", "so-so"]),
    "public.price": (pa.decimal128(10, 2), ["1.25", "0"]),
    "public.tags": (pa.list_(pa.int32()), ["{1,2}"]),
    "public.place": (pa.string(), ['("a ""quoted"" street",7,)', "(,,)"]),
    "int4range": (pa.string(), ["[1,10)", "empty", "(,5)"]),
    "tstzrange": (pa.string(), ['["2024-01-01 00:00:00+00",infinity]']),
    "nummultirange": (pa.string(), ["{[1.5,2.5),[3,4)}", "{}"]),
    "inet": (pa.string(), ["10.0.0.1", "10.0.0.0/8", "::1"]),
    "cidr": (pa.string(), ["10.0.0.0/8", "2001:db8::/32"]),
    "macaddr": (pa.string(), ["08:00:2b:01:02:03"]),
    "macaddr8": (pa.string(), ["08:00:2b:01:02:03:04:05"]),
    "xml": (pa.string(), []),  # the embedded server is built without libxml, so only NULL can be stored
    "money": (pa.string(), ["$1,234.56", "-$0.01"]),
    "bit(5)": (pa.string(), ["10101"]),
    "bit varying": (pa.string(), ["1", ""]),
    "tsvector": (pa.string(), ["'a':1A 'b':2"]),
    "tsquery": (pa.string(), ["'a' & !'b'"]),
    "point": (pa.string(), ["(1.5,-2)"]),
    "line": (pa.string(), ["{1,2,3}"]),
    "box": (pa.string(), ["(1,1),(0,0)"]),
    "path": (pa.string(), ["[(0,0),(1,1)]"]),
    "polygon": (pa.string(), ["((0,0),(1,1),(1,0))"]),
    "circle": (pa.string(), ["<(0,0),1>"]),
    "pg_lsn": (pa.string(), ["16/B374D848"]),
    "jsonpath": (pa.string(), ['$."a"[*]']),
    "regclass": (pa.string(), ["pg_class"]),
    "public.ltree": (pa.string(), ["Top.Science"]),
    "public.hstore": (pa.string(), ['"a"=>"1", "b"=>NULL']),
}

SETUP = """
CREATE EXTENSION citext;
CREATE EXTENSION ltree;
CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('happy', 'so-so');
CREATE DOMAIN price_base AS numeric(10,2);
CREATE DOMAIN price AS price_base CHECK (VALUE >= 0);
CREATE DOMAIN tags AS int[];
CREATE TYPE place AS (street text, number int, since date);
"""


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE golden")
    address = server.url("golden")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(SETUP)
        for number, (name, (_, values)) in enumerate(CASES.items()):
            table = sql.Identifier(f"case_{number}")
            connection.execute(
                sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, v {})").format(table, sql.SQL(name))  # type: ignore[arg-type]
            )
            for i, value in enumerate([*values, None]):
                connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(table), [i, value])
    yield address
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE golden WITH (FORCE)")


@pytest.fixture(scope="module")
def reading(url: str) -> Iterator[PostgresOrigin]:
    with PostgresOrigin("golden", url) as origin:
        yield origin


@pytest.fixture(scope="module")
def landed(reading: PostgresOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """All cases, landed in one DuckDB file."""
    path = tmp_path_factory.mktemp("golden") / "golden.duckdb"
    with DuckDBWarehouse.open(path) as warehouse:
        for name in reading.tables(None):
            table = reading.describe(name).table
            columns = tuple(warehouse.map_column(column) for column in table.columns)
            landing = Table(TableName("landing", name.name), columns, table.key)
            warehouse.load(Load(landing, "replace", "golden"), reading.rows(name, columns))
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@pytest.mark.parametrize("name", CASES)
def test_a_type_travels_in_its_natural_arrow_type(reading: PostgresOrigin, name: str) -> None:
    described = reading.describe(TableName("public", case(name))).table
    assert described.columns[1].type == CASES[name][0]


@pytest.mark.parametrize("name", CASES)
def test_duckdb_holds_what_postgres_sent(url: str, landed: duckdb.DuckDBPyConnection, name: str) -> None:
    relation = landed.table(f"landing.{case(name)}").order("id")
    assert_same_values(url, name, values_as_text(relation))


def case(name: str) -> str:
    return f"case_{list(CASES).index(name)}"


def values_as_text(relation: duckdb.DuckDBPyRelation) -> list[Any]:
    """What DuckDB prints for each value; a list for a list. Binary in hexadecimal."""
    type_ = str(relation.types[1])
    text = "CAST(v AS VARCHAR)"
    if type_.endswith("[]"):
        text = "list_transform(v, x -> CAST(x AS VARCHAR))"
    elif type_ == "BLOB":
        text = "'\\x' || lower(hex(v))"
    return [row[0] for row in relation.project(text).fetchall()]


def assert_same_values(url: str, name: str, found: list[Any]) -> None:
    """Postgres casts each found text to the type and compares it with the original by its own output."""
    table, cast = sql.Identifier(case(name)), sql.SQL(name)  # type: ignore[arg-type]
    with psycopg.connect(url, options="-c TimeZone=UTC -c bytea_output=hex") as connection:
        rows = []
        for i, value in enumerate(found):
            given = sql.SQL("text[]" if isinstance(value, list) else "text")
            query = sql.SQL("SELECT (%s::{})::{}::text, v::text FROM {} WHERE id = %s").format(given, cast, table)
            rows.append(connection.execute(query, [value, i]).fetchone())
    assert len(found) == len(CASES[name][1]) + 1, "every row landed"
    assert [row and row[0] for row in rows] == [row and row[1] for row in rows]
    assert found[-1] is None, "NULL stays NULL"


# Delta has the years 1 to 9999, and no infinity.
REFUSED_BY_DELTA = {"date", "timestamp", "timestamp with time zone", "date[]", "timestamp[]", "timestamptz[]"}


@pytest.mark.parametrize("name", CASES)
def test_delta_holds_what_postgres_sent_or_refuses_it(
    url: str, reading: PostgresOrigin, tmp_path: Path, name: str
) -> None:
    delta = DeltaDestination("lake", Lake(str(tmp_path)))
    table_name = TableName("public", case(name))
    columns = tuple(delta.map_column(column) for column in reading.describe(table_name).table.columns)
    if name in REFUSED_BY_DELTA:
        with pytest.raises(TypeRefused, match=r"(?s)column 'v' holds .*types: \{v: text\}"):
            delta.load(Load(Table(table_name, columns), "replace", "golden"), reading.rows(table_name, columns))
        assert delta.find_table(table_name) is None, "nothing was written"
        columns = (columns[0], columns[1].as_text())
    delta.load(Load(Table(table_name, columns), "replace", "golden"), reading.rows(table_name, columns))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        arrived = DeltaTable(str(tmp_path / "public" / case(name))).to_pyarrow_table()
        connection.register("arrived", arrived)
        assert_same_values(url, name, values_as_text(connection.table("arrived").order("id")))


@pytest.mark.parametrize("name", CASES)
def test_a_postgres_warehouse_holds_what_postgres_sent(url: str, reading: PostgresOrigin, name: str) -> None:
    original = TableName("public", case(name))
    landing = TableName("landing", case(name))
    with PostgresWarehouse("warehouse", url) as warehouse:
        columns = tuple(warehouse.map_column(column) for column in reading.describe(original).table.columns)
        warehouse.load(Load(Table(landing, columns), "replace", "golden"), reading.rows(original, columns))
    # A type of the origin's own making lands as text: what it was made of is read back from it.
    compare = sql.SQL(
        "SELECT o.id, l.v::text::{}::text, o.v::text FROM public.{} o LEFT JOIN landing.{} l USING (id)"
        " WHERE l.id IS NULL OR l.v::text::{}::text IS DISTINCT FROM o.v::text"
    )
    type_, table_name = sql.SQL(name), sql.Identifier(case(name))  # type: ignore[arg-type]
    with psycopg.connect(url) as connection:
        different = connection.execute(compare.format(type_, table_name, table_name, type_)).fetchall()
    assert different == []


def test_text_types_land_as_postgres_prints_them(url: str, landed: duckdb.DuckDBPyConnection) -> None:
    """For a type without a better home the landed text is Postgres's output itself, letter by letter."""
    wrong = {}
    with psycopg.connect(url, options="-c TimeZone=UTC") as connection:
        for name, (type_, _) in CASES.items():
            if not pa.types.is_string(type_):
                continue
            found = landed.table(f"landing.{case(name)}").order("id").project("v").fetchall()
            # COPY writes each type's output function.
            with (
                connection.cursor() as cur,
                cur.copy(
                    sql.SQL("COPY (SELECT v FROM {} ORDER BY id) TO STDOUT").format(sql.Identifier(case(name)))
                ) as copy,
            ):
                copy.set_types(["text"])
                printed = list(copy.rows())
            if found != printed:
                wrong[name] = (found, printed)
    assert not wrong


REFUSED = {
    "numeric(12,2)": ["NaN"],
    "interval": ["infinity", "2562048:00:00"],
    "timestamp": ["294276-12-31", "294247-01-10 04:00:54.775807"],
    "integer[]": ["{{1,2},{3,4}}", "[0:1]={1,2}"],
    "numeric(5,1)[]": ["{NaN}", "{{1}}"],
    "text[]": ["[2:2]={a}"],
    "interval[]": ["{infinity}", "{{0}}"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in REFUSED.items() for v in values])
def test_a_value_without_a_lossless_form_is_refused_and_lands_as_text(
    origin: psycopg.Connection, database: str, name: str, value: str
) -> None:
    origin.execute(sql.SQL('CREATE TABLE t ("the ""column" {})').format(sql.SQL(name)))  # type: ignore[arg-type]
    origin.execute("INSERT INTO t VALUES (NULL), (%s)", [value])
    with PostgresOrigin("pg", database) as reading:
        table = reading.describe(TableName("public", "t")).table
        with pytest.raises(TypeRefused) as refusal:
            reading.rows(table.name, table.columns).read_all()
        assert 'public.t.the "column' in str(refusal.value)
        assert "types: {" in str(refusal.value)
        texts = reading.rows(table.name, [c.as_text() for c in table.columns]).read_all()
    expected = origin.execute(sql.SQL("SELECT {}::text FROM t").format(sql.Identifier('the "column'))).fetchall()
    assert texts.column(0).to_pylist() == [row[0] for row in expected]


@pytest.mark.parametrize("name", CASES)
def test_each_value_finds_its_own_rows(reading: PostgresOrigin, name: str) -> None:
    table = reading.describe(TableName("public", case(name))).table
    rows = reading.rows(table.name, table.columns).read_all()
    for row in range(len(rows)):
        found = reading.rows_of(table.name, table.columns, rows.slice(row, 1).select(["v"])).read_all()
        assert found["id"].to_pylist() == [rows["id"][row].as_py()]
        assert found.schema == rows.schema
    everything = reading.rows_of(table.name, table.columns[:1], rows.select(["v", "id"])).read_all()
    assert sorted(everything["id"].to_pylist()) == list(range(len(rows)))
