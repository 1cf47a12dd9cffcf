"""Postgres to Postgres without decoding: what is at the origin is at the destination, value for value."""

from __future__ import annotations

import threading

import psycopg
import pytest

from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.contracts.destination import Load
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import Table, TableName

THINGS = TableName("public", "things")
LANDED = TableName("landing", "things")

FILL = """
CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE things (
  id bigint PRIMARY KEY, n numeric(12,2), free numeric, t text, c char(5), v varchar(7), b bytea, u uuid, j jsonb,
  d date, ts timestamptz, iv interval, ip inet, ids int[], words text[], r int4range, bits bit(3), m mood, p pair,
  pos positive, cash money, tt timetz, fl real, ok boolean, odd "char", "select; --" text
);
INSERT INTO things VALUES
  (1, 1.50, 12345678901234567890.123456789012345678901234567890, 'ü', 'ab', 'seven', '\\x00ff', gen_random_uuid(),
   '{"a": [1, 2.50]}', '2024-02-29', '2024-02-29 12:00+02', '1 year 2 mons 3 days', '10.0.0.1/24', '[0:1]={1,2}',
   '{{a,b},{c,NULL}}', '[1,5)', B'101', 'sad', ROW(1, 'x'), 7, 12.5, '12:00+05:30', 0.1, true, 'x', 'y'),
  (2, 'NaN', 'Infinity', '', '', '', '', NULL, 'null', 'infinity', '-infinity', '-200000 years', '::1', '{}', '{}',
   'empty', B'000', NULL, NULL, NULL, NULL, NULL, 'NaN', NULL, NULL, NULL),
  (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '4714-11-24 BC', '294276-12-31 23:59:59.999999+00', NULL, NULL,
   NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""


def copied(database: str, disposition: str, *, workers: int = 1) -> int | None:
    with PostgresOrigin("pg", database) as origin, PostgresWarehouse("pg", database) as warehouse:
        described = origin.describe(THINGS).table
        columns = tuple(warehouse.map_column(c) for c in described.columns)
        load = Load(Table(LANDED, columns, described.key), disposition, "l")  # type: ignore[arg-type]
        casts = warehouse.find_raw_casts(load)
        assert casts is not None
        streams = origin.copy_raw(THINGS, [c.name for c in columns], casts, workers=workers)
        staged = warehouse.stage_raw(load, streams)
        return warehouse.publish([staged])[0].rows_inserted


@pytest.mark.parametrize("disposition", ["replace", "append", "merge"])
def test_every_value_arrives_as_it_is(database: str, origin: psycopg.Connection, disposition: str) -> None:
    origin.execute(FILL.encode())
    assert copied(database, disposition) == 3
    names = [column.name for column in origin.execute("SELECT * FROM things").description or ()]
    texts = ", ".join('"{}"::text'.format(name.replace('"', '""')) for name in names)
    there = origin.execute(f"SELECT {texts} FROM landing.things ORDER BY id".encode()).fetchall()  # noqa: S608
    assert there == origin.execute(f"SELECT {texts} FROM things ORDER BY id".encode()).fetchall()  # noqa: S608
    types = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute\n"
        "WHERE attnum > 0 AND NOT attisdropped AND attrelid = %s::regclass"
    )
    origins = dict(origin.execute(types, ["public.things"]).fetchall())
    landed = dict(origin.execute(types, ["landing.things"]).fetchall())
    text = {"m", "p", "cash"}
    assert {name for name, type_ in landed.items() if type_ != origins[name]} == {*text, "pos", "odd"}
    assert landed["pos"] == "integer"
    assert all(landed[name] == "text" for name in text)


def test_several_streams_have_every_row_once(database: str, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE things AS SELECT g AS id, repeat('x', 2000) AS t FROM generate_series(1, 70000) g")
    origin.execute("VACUUM ANALYZE things")
    assert copied(database, "replace", workers=2) == 70_000
    assert origin.execute("SELECT count(DISTINCT id) FROM landing.things").fetchone() == (70_000,)


def test_a_stream_that_breaks_leaves_nothing(database: str, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE things AS SELECT g AS id FROM generate_series(1, 10) g")
    with PostgresOrigin("pg", database) as opened, PostgresWarehouse("pg", database) as warehouse:
        load = Load(Table(LANDED, opened.describe(THINGS).table.columns), "replace", "l")

        def breaking():  # type: ignore[no-untyped-def]
            yield next(iter(opened.copy_raw(THINGS, ["id"], {})[0]))[:30]
            raise RuntimeError("broke off")

        with pytest.raises(RuntimeError, match="broke off"):
            warehouse.stage_raw(load, [breaking()])
        assert warehouse.find_table(LANDED) is None
    query = "SELECT count(*) FROM pg_class WHERE starts_with(relname, '_dbt_bridge_stage_')"
    assert origin.execute(query).fetchone() == (0,)


def test_closing_the_origin_breaks_off_a_copy_that_nobody_waits_for(database: str, origin: psycopg.Connection) -> None:
    origin.execute("CREATE VIEW slow AS SELECT i, pg_sleep(0.01)::text AS s FROM generate_series(1, 100000) AS i")
    reading = PostgresOrigin("pg", database)
    (stream,) = reading.copy_raw(TableName("public", "slow"), ["i", "s"], {})
    closer = threading.Timer(0.5, reading.close)
    closer.start()
    with pytest.raises(OriginError, match=r"public\.slow: reading was broken off"):
        next(stream)
    closer.join()
