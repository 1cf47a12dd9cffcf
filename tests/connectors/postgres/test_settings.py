"""Settings of a database or role change nothing of what lands: each connection sets what it relies on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.projects import SyncTables, cdc_source, table

from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
from dbt_bridge.connectors.postgres.wire.session import StartUp, driver_conninfo, with_encoding
from dbt_bridge.contracts.destination import Load
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

HOSTILE = {
    "datestyle": "German, DMY", "timezone": "America/St_Johns", "intervalstyle": "sql_standard",
    "extra_float_digits": "-10", "bytea_output": "escape", "standard_conforming_strings": "off", "array_nulls": "off",
    "xmloption": "document", "xmlbinary": "hex", "quote_all_identifiers": "on", "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
    "default_transaction_read_only": "on", "search_path": "shadows, pg_catalog", "row_security": "off",
    "transform_null_equals": "on", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "1s",
    "lock_timeout": "1s", "idle_session_timeout": "1s", "transaction_timeout": "3s", "synchronous_commit": "off",
    "backslash_quote": "off",
}  # fmt: skip


def be_hostile(url: str) -> None:
    """All that a database may set, in every version, with functions and operators that shadow the catalog's."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("""
            CREATE SCHEMA shadows;
            CREATE FUNCTION shadows.date_recv(internal) RETURNS date LANGUAGE internal AS 'date_recv';
            CREATE FUNCTION shadows.int4recv(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
            CREATE FUNCTION shadows.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'shadow'$$;
            CREATE TABLE shadows.pg_class (oid int);
        """)
        known = {name for (name,) in admin.execute("SELECT lower(name) FROM pg_settings").fetchall()}
        database = sql.Identifier(admin.info.dbname)
        for name, value in HOSTILE.items():
            if name in known:
                statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
                values = sql.SQL(", ").join(
                    sql.Literal(v) for v in (value.split(", ") if name == "search_path" else [value])
                )
                admin.execute(statement.format(database, sql.Identifier(name), values))


ROWS = """
CREATE TABLE {schema}.t (
    id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, i interval, f float8, b bytea, r tstzrange,
    a timestamptz[], q text, m money, fa float4[], s text[], "ü" text
);
INSERT INTO {schema}.t VALUES
    (1, '2026-02-01', '2026-02-01 01:02:03.456789', '2026-02-01 01:02:03+00', '1 mon -2 days 03:04',
     0.1::float8 + 0.2::float8, '\\x00ff5c', '[2026-01-01,2026-02-01)', '{{2026-01-01 12:00+00}}', E'a\\\\b''c',
     1.5, '{{0.1,1e-20}}', '{{NULL,"NULL"}}', 'ж'),
    (2, '0044-03-15 BC', 'infinity', '-infinity', '-1 year 5 days', 'NaN', '\\x27275c', '[,infinity]',
     '{{NULL,infinity}}', '', NULL, '{{NULL}}', '{{}}', NULL)
"""


@pytest.fixture
def hostile(origin: psycopg.Connection, database: str) -> psycopg.Connection:
    """A connection whose own settings are plain."""
    origin.execute("SET TimeZone = 'UTC'")
    for schema in ("plain", "public"):
        if schema == "plain":
            origin.execute("CREATE SCHEMA plain")
        origin.execute(ROWS.format(schema=schema).encode())
    origin.execute("CREATE TABLE inc (id int PRIMARY KEY, at timestamptz NOT NULL, v text)")
    origin.execute(r"INSERT INTO inc VALUES (1, '2026-02-01 10:00+00', E'x\\y')")
    return origin


CHANGE = r"UPDATE t SET f = 1.0/3, ts = '2026-02-01 01:02:03.456790', q = E'back\\slash ''', b = '\x5c' WHERE id = 1"
MORE = "INSERT INTO inc VALUES (2, '2026-02-01 10:00:00.000001+00', ''), (3, '2026-02-01 13:00+02', 'z')"


def landed(file: Path) -> list[list[tuple[Any, ...]]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return [
            connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM landing.{name} ORDER BY 1").fetchall()  # noqa: S608
            for name in ("t", "inc")
        ]


def test_what_lands_from_a_hostile_database_is_what_lands_from_a_plain_one(
    hostile: psycopg.Connection, database: str, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    source = cdc_source("t", table("inc", "incremental", node="source.shop.landing.", cursor="at"))
    rows = []
    for is_hostile in (False, True):
        if is_hostile:
            hostile.execute("TRUNCATE t, inc; INSERT INTO t TABLE plain.t")
            hostile.execute(r"INSERT INTO inc VALUES (1, '2026-02-01 10:00+00', E'x\\y')")
            be_hostile(database)
        assert {r.error for r in sync_sources(source, full_refresh=True).values()} == {None}
        hostile.execute(CHANGE.encode())
        hostile.execute(MORE.encode())
        receipts = sync_sources(source)
        assert {name: (r.hop, r.status) for name, r in receipts.items()} == {
            "t": ("cdc", "success"),
            "inc": ("incremental", "success"),
        }
        rows.append(landed(warehouse_file))
    assert rows[0] == rows[1]
    assert len(rows[1][0]) == 2 and len(rows[1][1]) == 3


def test_a_hostile_warehouse_holds_what_a_plain_one_holds(
    hostile: psycopg.Connection, there: tuple[Project, Callable[[str], list[tuple[Any, ...]]]]
) -> None:
    project, ask = there
    known = {name: value for name, value in project.warehouse.credentials.items() if name != "type"}
    be_hostile(make_conninfo(**known))
    source = cdc_source("t", table("inc", "incremental", node="source.shop.landing.", cursor="at"))
    chosen = replace(project, sources=(source,))
    for _ in range(2):
        assert {r.error for r in sync(chosen, SyncOptions(), Silent())} == {None}
        hostile.execute(CHANGE.encode())
    sync(chosen, SyncOptions(), Silent())
    ask("SET TimeZone = 'UTC'")  # this connection is older than the database's settings
    columns = 'id, d, ts, tz, i, f, b, r::text, a, q, fa, s, "ü"'
    expected = hostile.execute(f"SELECT ({columns})::text FROM t ORDER BY id".encode()).fetchall()  # noqa: S608
    assert ask(f"SELECT ({columns})::text FROM landing.t ORDER BY id") == expected  # noqa: S608


def test_a_connection_that_the_server_ended_between_two_snapshots_is_opened_anew(
    hostile: psycopg.Connection, database: str
) -> None:
    connections = Connections("shop_pg", database)
    ((pid,),) = connections.query("SELECT pg_backend_pid()")
    connections.end_snapshot()
    hostile.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    assert connections.query("SELECT 1") == [(1,)]
    connections.close()


def test_every_connection_has_bounds_that_the_user_may_set() -> None:
    bounded = conninfo_to_dict(with_encoding("postgresql://u@h/d?connect_timeout=90"))
    assert (bounded["connect_timeout"], bounded["keepalives_idle"], bounded["user"]) == ("90", "30", "u")


def test_a_query_that_a_person_wrote_finds_its_tables_by_their_own_path(
    hostile: psycopg.Connection, database: str
) -> None:
    be_hostile(database)
    hostile.execute("CREATE VIEW shadows.mine AS SELECT DATE '2026-02-01' AS d, 7 AS n")
    queries = PostgresQueries("shop_pg", database)
    columns, rows = queries.result("SELECT d, n FROM mine")
    queries.close()
    assert [str(column.type) for column in columns] == ["date32[day]", "int32"]
    assert rows.to_pylist() == [{"d": date(2026, 2, 1), "n": 7}]


def test_what_the_driver_asks_first_runs_nothing_of_the_databases_owner(
    origin: psycopg.Connection, database: str
) -> None:
    """It asks for the version and the types before any setting can be made."""
    origin.execute("""
        CREATE SCHEMA shadows;
        CREATE FUNCTION shadows.version() RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'ours was run'; END$$;
        CREATE FUNCTION shadows.differ(regproc, int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE 'so was it'; END$$;
        CREATE OPERATOR shadows.<> (FUNCTION = shadows.differ, LEFTARG = regproc, RIGHTARG = int);
        CREATE FUNCTION shadows.two() RETURNS int LANGUAGE sql AS 'SELECT 2';
        CREATE FUNCTION public.own() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN two(); END';
        CREATE TABLE public.t (id int PRIMARY KEY);
        INSERT INTO public.t VALUES (1);
        CREATE VIEW public.v AS SELECT own() AS n;
    """)
    name = sql.Identifier(origin.info.dbname)
    origin.execute(sql.SQL("ALTER DATABASE {} SET search_path = shadows, pg_catalog, public").format(name))
    table_t, view = TableName("public", "t"), TableName("public", "v")
    with PostgresOrigin("shop_pg", database) as reading:
        columns = reading.describe(table_t).table.columns
        assert reading.rows(table_t, columns).read_all().to_pylist() == [{"id": 1}]
    with PostgresWarehouse("crm", database) as warehouse:
        rows = pa.table({"id": pa.array([5], pa.int64())})
        warehouse.load(Load(Table.of_schema(TableName("public", "u"), rows.schema), "replace", "l"), rows.to_reader())
        assert origin.execute("SELECT id FROM public.u").fetchall() == [(5,)]
        assert warehouse.read(view).read_all().to_pylist() == [{"n": 2}], "views find their own names, as ever"


@pytest.mark.parametrize(
    ("own_path", "is_lent", "needed"),
    [
        ('"$user", public', False, True),
        ('"$user", public', True, False),
        ("pg_catalog, public", True, False),
        ('public, "pg_catalog"', True, True),
    ],
)
def test_a_pooler_is_given_options_only_where_nothing_else_helps(own_path: str, is_lent: bool, needed: bool) -> None:
    start = StartUp(False, own_path, "pg_catalog", is_lent, "-c role=x")
    options = conninfo_to_dict(driver_conninfo("postgresql://u@h/d", start)).get("options")
    assert options == ("-c role=x -c quote_all_identifiers=off -c search_path=pg_catalog" if needed else None)
