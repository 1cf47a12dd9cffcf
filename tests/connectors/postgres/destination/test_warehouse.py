"""Rows land in Postgres: every disposition, what hangs on a table survives, nothing half-written stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbt_bridge.connectors.postgres.destination.warehouse import STAGING_PREFIX, PostgresWarehouse
from dbt_bridge.contracts.destination import Load, Loaded, Window
from dbt_bridge.errors import ConnectionFailed, DestinationError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.table import (
    GHOST_MARK,
    Column,
    Table,
    TableName,
)

ORDERS = TableName("landing", "orders")


@pytest.fixture
def warehouse(database: str) -> Iterator[PostgresWarehouse]:
    with PostgresWarehouse("pg", database) as opened:
        yield opened


def rows_of(connection: psycopg.Connection, what: str = "landing.orders") -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT * FROM {what} ORDER BY 1".encode()).fetchall()  # noqa: S608


def arrive(
    warehouse: PostgresWarehouse,
    rows: pa.Table,
    disposition: Any = "replace",
    key: tuple[str, ...] = (),
    **also: Any,
) -> Loaded:
    name = also.pop("name", ORDERS)
    load = Load(Table.of_schema(name, rows.schema, key), disposition, "load-1", **also)
    return warehouse.load(load, rows.to_reader())


def people(*rows: tuple[int | None, str | None]) -> pa.Table:
    return pa.table(
        {"id": pa.array([r[0] for r in rows], pa.int64()), "name": pa.array([r[1] for r in rows], pa.string())}
    )


def staging_tables(connection: psycopg.Connection) -> list[str]:
    query = "SELECT relname FROM pg_class WHERE relname LIKE %s"
    return [row[0] for row in connection.execute(query, [STAGING_PREFIX.replace("_", r"\_") + "%"])]


def test_replace_leaves_exactly_the_new_rows(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    assert arrive(warehouse, people((1, "a"), (2, "b"))).rows_inserted == 2
    loaded = arrive(warehouse, people((3, "c")))
    assert (loaded.rows_inserted, loaded.rows_updated, loaded.rows_deleted) == (1, 0, 2)
    assert rows_of(origin) == [(3, "c")]
    assert staging_tables(origin) == []


def test_an_empty_replace_leaves_an_empty_table_with_its_columns(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    arrive(warehouse, people((1, "a")))
    arrive(warehouse, people())
    assert rows_of(origin) == []
    existing = warehouse.find_table(ORDERS)
    assert existing is not None
    assert [(c.name, c.origin_type) for c in existing.columns] == [("id", "bigint"), ("name", "text")]


def test_append_adds_and_a_window_replaces_its_end(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    arrive(warehouse, people((1, "a"), (2, "b"), (3, "c")), "append")
    loaded = arrive(warehouse, people((2, "B"), (3, "C"), (4, "D")), "append", window=Window("id", "2"))
    assert (loaded.rows_inserted, loaded.rows_deleted) == (3, 2)
    assert rows_of(origin) == [(1, "a"), (2, "B"), (3, "C"), (4, "D")]


def test_a_window_is_exact_and_refuses_a_cursor_that_is_text(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    prices = pa.table({"n": pa.array([Decimal("1.00"), Decimal("1.01")])})
    arrive(warehouse, prices)
    arrive(warehouse, prices.slice(1), "append", window=Window("n", "1.004"))
    assert rows_of(origin) == [(Decimal("1.00"),), (Decimal("1.01"),)]
    arrive(warehouse, pa.table({"n": ["9"]}), name=TableName("landing", "texts"))
    with pytest.raises(TypeRefused, match="'n' lands as text"):
        arrive(
            warehouse,
            pa.table({"n": ["10"]}),
            "append",
            window=Window("n", "10"),
            name=TableName("landing", "texts"),
        )


def test_merge_counts_truly_and_the_last_row_of_a_key_wins(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    arrive(warehouse, people((1, "a"), (2, "b")))
    loaded = arrive(warehouse, people((2, "x"), (3, "y"), (2, None), (3, "z")), "merge", ("id",))
    assert (loaded.rows_loaded, loaded.rows_inserted, loaded.rows_updated) == (4, 1, 1)
    assert rows_of(origin) == [(1, "a"), (2, None), (3, "z")]


def test_dependent_views_and_grants_survive_a_replace(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    arrive(warehouse, people((1, "a")))
    origin.execute("CREATE VIEW landing.stg_orders AS SELECT id, upper(name) AS name FROM landing.orders")
    origin.execute("GRANT SELECT ON landing.orders TO PUBLIC")
    loaded = arrive(warehouse, people((7, "z")))
    assert (loaded.rows_inserted, loaded.rows_deleted) == (1, 1)
    assert rows_of(origin, "landing.stg_orders") == [(7, "Z")]
    assert origin.execute("SELECT relacl::text LIKE '%%=r/%%' FROM pg_class WHERE relname = 'orders'").fetchone() == (
        True,
    )


def test_a_referenced_table_is_emptied_without_truncate(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    origin.execute("CREATE SCHEMA landing")
    origin.execute("CREATE TABLE landing.orders (id bigint PRIMARY KEY, name text)")
    origin.execute("CREATE TABLE landing.lines (order_id bigint REFERENCES landing.orders DEFERRABLE)")
    arrive(warehouse, people((1, "a")))
    arrive(warehouse, people((2, "b")))
    assert rows_of(origin) == [(2, "b")]


def test_new_columns_are_added_and_vanished_ones_stay(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    arrive(warehouse, people((1, "a")))
    arrive(warehouse, pa.table({"id": [2], "age": pa.array([30], pa.int32())}), "append")
    assert rows_of(origin) == [(1, "a", None), (2, None, 30)]


def test_a_wider_type_widens_the_column(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    arrive(warehouse, pa.table({"id": pa.array([1], pa.int32())}))
    arrive(warehouse, pa.table({"id": pa.array([2**40], pa.int64())}), "append")
    assert rows_of(origin) == [(1,), (2**40,)]


def test_another_kind_of_type_is_refused_and_nothing_changes(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    arrive(warehouse, people((1, "a")))
    with pytest.raises(TypeRefused, match=r"'id' of landing\.orders is bigint and the new rows bring text"):
        arrive(warehouse, pa.table({"id": ["x"]}), "append")
    assert rows_of(origin) == [(1, "a")]
    assert staging_tables(origin) == []


@pytest.mark.parametrize(
    ("rows", "key", "message"),
    [
        (people((1, "a")), (), "needs a key"),
        (people((1, "a")), ("nope",), "'nope' is not among"),
        (people((None, "a")), ("id",), "holds NULL"),
    ],
)
def test_a_merge_without_a_usable_key_is_refused(
    warehouse: PostgresWarehouse, origin: psycopg.Connection, rows: pa.Table, key: tuple[str, ...], message: str
) -> None:
    arrive(warehouse, people((1, "old")))
    with pytest.raises(KeyRefused, match=message):
        arrive(warehouse, rows, "merge", key)
    assert rows_of(origin) == [(1, "old")]


def test_a_merge_into_doubled_keys_is_refused(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    arrive(warehouse, people((1, "a"), (1, "b")))
    with pytest.raises(KeyRefused, match="several rows with the same key"):
        arrive(warehouse, people((1, "c")), "merge", ("id",))
    assert rows_of(origin) == [(1, "a"), (1, "b")]


def test_a_ghost_view_gives_way_and_any_other_view_does_not(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    origin.execute("CREATE SCHEMA landing")
    origin.execute(f"CREATE VIEW landing.orders AS SELECT '{GHOST_MARK}'::text AS mark".encode())
    assert warehouse.find_table(ORDERS) is None
    arrive(warehouse, people((1, "a")))
    assert rows_of(origin) == [(1, "a")]
    origin.execute("CREATE VIEW landing.mine AS SELECT 1 AS one")
    with pytest.raises(DestinationError, match="is a view that dbt-bridge did not make"):
        arrive(warehouse, people((1, "a")), name=TableName("landing", "mine"))


def test_several_tables_checkpoints_and_receipts_are_one_transaction(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    first = Load(Table.of_schema(ORDERS, people().schema), "replace", "l")
    second = Load(Table.of_schema(TableName("landing", "lines"), people().schema), "replace", "l")
    staged = [
        warehouse.stage(first, people((1, "a")).to_reader()),
        warehouse.stage(second, people((2, "b")).to_reader()),
    ]
    point = Checkpoint("source.p.shop.orders", "shop", "id", "1")

    def broken(_: object) -> list[Any]:
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        warehouse.publish(staged, [point], broken)
    assert warehouse.find_table(ORDERS) is None
    assert warehouse.checkpoint(point.node) is None
    warehouse.publish(staged, [point], lambda _: [])
    assert rows_of(origin) == [(1, "a")]
    assert rows_of(origin, "landing.lines") == [(2, "b")]
    assert warehouse.checkpoint(point.node) == point
    warehouse.forget(point.node)
    assert warehouse.checkpoint(point.node) is None


def test_a_preview_counts_and_leaves_nothing(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    arrive(warehouse, people((1, "a"), (2, "b")))
    rows = people((2, "x"), (3, "y"))
    load = Load(Table.of_schema(ORDERS, rows.schema, ("id",)), "merge", "l")
    counted = warehouse.preview(load, rows.to_reader())
    assert (counted.rows_inserted, counted.rows_updated, counted.rows_deleted) == (1, 1, 0)
    assert rows_of(origin) == [(1, "a"), (2, "b")]
    assert staging_tables(origin) == []


@pytest.mark.parametrize("hostile", ['"; DROP TABLE x; --', "múltí ♥", "x" * 63, "select", "a.b%s{}", "'"])
def test_hostile_names_are_kept_exactly(warehouse: PostgresWarehouse, origin: psycopg.Connection, hostile: str) -> None:
    name = TableName(hostile, hostile)
    rows = pa.table({hostile: [1, 2], "v": ["a", "b"]})
    for disposition in ("replace", "append", "merge"):
        if disposition == "merge":
            arrive(warehouse, rows, "replace", name=name)
        arrive(warehouse, rows, disposition, (hostile,), name=name, **_window(disposition, hostile))
    found = warehouse.find_table(name)
    assert found is not None
    assert [c.name for c in found.columns] == [hostile, "v"]
    assert warehouse.read(name).read_all().num_rows == 2


def _window(disposition: str, cursor: str) -> dict[str, Any]:
    return {"window": Window(cursor, "1")} if disposition == "append" else {}


def test_a_name_that_postgres_would_cut_off_is_refused(warehouse: PostgresWarehouse) -> None:
    with pytest.raises(UsageError, match="cannot keep the name"):
        arrive(warehouse, pa.table({"ü" * 32: [1]}))


def test_own_types_of_postgres_are_kept(warehouse: PostgresWarehouse, origin: psycopg.Connection) -> None:
    own = {
        "n": (pa.string(), "numeric", "123456789.000000000000000000000000000000000000000001"),
        "iv": (pa.string(), "interval", "1 year 2 mons 3 days 04:05:06.789"),
        "ip": (pa.string(), "inet", "10.0.0.1/24"),
        "ids": (pa.string(), "integer[]", "[0:1]={1,2}"),
        "tt": (pa.string(), "time with time zone", "12:00:00+05:30"),
        "r": (pa.string(), "int4range", "[1,5)"),
        "j": (pa.json_(), "jsonb", '{"a": [1, 2.50]}'),
        "c": (pa.string(), "character(5)", "ab   "),
        "v": (pa.string(), "character varying(7)", "seven"),
        "mood": (pa.string(), "public.mood", "happy"),
    }
    columns = tuple(Column(name, type_, sql) for name, (type_, sql, _) in own.items())
    table = Table(ORDERS, tuple(warehouse.map_column(c) for c in columns))
    rows = pa.RecordBatch.from_arrays(
        [pa.array([value, None], pa.string()).cast(c.type) if c.type == pa.string()
         else pa.ExtensionArray.from_storage(c.type, pa.array([value, None]))
         for c, (_, _, value) in zip(table.columns, own.values(), strict=True)],
        schema=table.arrow_schema,
    )  # fmt: skip
    warehouse.load(Load(table, "replace", "l"), pa.RecordBatchReader.from_batches(rows.schema, [rows]))
    types = origin.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute\n"
        "WHERE attrelid = 'landing.orders'::regclass AND attnum > 0 ORDER BY attnum"
    ).fetchall()
    assert dict(types) == {**{name: sql for name, (_, sql, _) in own.items()}, "mood": "text"}
    casts = ", ".join(f'"{name}"::text' if name not in ("c",) else f'"{name}"' for name in own)
    assert origin.execute(f"SELECT {casts} FROM landing.orders".encode()).fetchall() == [  # noqa: S608
        tuple(value for _, _, value in own.values()),
        (None,) * len(own),
    ]


def test_infinity_and_years_before_christ_land_as_they_are(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    most, days = 2**63 - 1, 2**31 - 1
    rows = pa.table(
        {
            "ts": pa.array([0, most, -most, -99_999_999_999_999_999, None], pa.timestamp("us", "UTC")),
            "d": pa.array([0, days, -days, -800_000, None], pa.int32()).cast(pa.date32()),
        }
    )
    arrive(warehouse, rows)
    far = origin.execute(
        "SELECT (timestamptz 'epoch' - make_interval(days => 1157407, secs => 35199.999999))::text,\n"
        "  (date 'epoch' - 800000)::text"
    ).fetchone()
    assert origin.execute("SELECT ts::text, d::text FROM landing.orders").fetchall() == [
        ("1970-01-01 00:00:00+00", "1970-01-01"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        tuple(far or ()),
        (None, None),
    ]


def test_a_wrong_password_is_told_without_it(server: Any) -> None:
    conninfo = f"host=127.0.0.1 port={server.port} user=nobody_at_all password=canary-7391 dbname=nowhere"
    with pytest.raises(ConnectionFailed) as refused:
        PostgresWarehouse("pg", conninfo).find_table(ORDERS)
    assert "canary-7391" not in str(refused.value)
    assert refused.value.__cause__ is None


_keys = st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", ""]))
_batch = st.lists(st.tuples(_keys, st.none() | st.integers(-5, 5)), max_size=8)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=_batch, second=_batch)
def test_merge_is_a_dictionary_update(
    warehouse: PostgresWarehouse,
    origin: psycopg.Connection,
    first: list[tuple[tuple[int, str], int | None]],
    second: list[tuple[tuple[int, str], int | None]],
) -> None:
    origin.execute("DROP TABLE IF EXISTS landing.orders")
    schema = pa.schema([("i", pa.int64()), ("s", pa.string()), ("v", pa.int64())])
    model: dict[tuple[int, str], int | None] = {}
    for rows in (first, second):
        table = pa.Table.from_pylist([{"i": k[0], "s": k[1], "v": v} for k, v in rows], schema)
        loaded = arrive(warehouse, table, "merge", ("i", "s"))
        new = dict(rows)
        assert loaded.rows_loaded == len(rows)
        assert loaded.rows_inserted == len(new.keys() - model.keys())
        assert loaded.rows_updated == len(new.keys() & model.keys())
        model |= new
    assert sorted(rows_of(origin), key=repr) == sorted(((*k, v) for k, v in model.items()), key=repr)


_CHILD = """
import sys, pyarrow as pa
from dbt_bridge.contracts.destination import Load
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.nouns.table import Table, TableName
schema = pa.schema([("id", pa.int64()), ("name", pa.string())])
def batches():
    for start in range(0, 100_000_000, 10_000):
        numbers = range(start, start + 10_000)
        yield pa.RecordBatch.from_arrays([pa.array(numbers), pa.array([str(n) for n in numbers])], schema=schema)
        print("batch", flush=True)
load = Load(Table.of_schema(TableName("landing", "orders"), schema, ("id",)), sys.argv[2], "l")
PostgresWarehouse("pg", sys.argv[1]).load(load, pa.RecordBatchReader.from_batches(schema, batches()))
"""


@pytest.mark.parametrize("disposition", ["replace", "append", "merge"])
def test_a_killed_load_leaves_the_old_rows_and_a_retry_cleans_up(
    warehouse: PostgresWarehouse, origin: psycopg.Connection, database: str, disposition: str
) -> None:
    arrive(warehouse, people((1, "a"), (2, "b")))
    child = subprocess.Popen([sys.executable, "-c", _CHILD, database, disposition], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(5):
        child.stdout.readline()
    warehouse.discard()
    assert len(staging_tables(origin)) == 1, "a live run keeps its staging table"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert rows_of(origin) == [(1, "a"), (2, "b")]
    end = time.monotonic() + 180
    while staging_tables(origin) and time.monotonic() < end:  # until the server has seen that the client is gone
        warehouse.discard()
    assert staging_tables(origin) == []
    arrive(warehouse, people((2, "x")), disposition, ("id",))
    expected = {"replace": [(2, "x")], "append": [(1, "a"), (2, "b"), (2, "x")], "merge": [(1, "a"), (2, "x")]}
    assert rows_of(origin) == expected[disposition]


def test_what_the_database_refuses_is_told_and_nothing_stays(
    warehouse: PostgresWarehouse, origin: psycopg.Connection
) -> None:
    """A CHECK of the user's table stands for every refusal in the middle of publishing."""
    origin.execute("CREATE SCHEMA landing")
    origin.execute("CREATE TABLE landing.orders (id bigint CHECK (id < 3), name varchar(3))")
    arrive(warehouse, people((1, "a")))
    with pytest.raises(DestinationError, match=r"landing\.orders.*violates check constraint"):
        arrive(warehouse, people((2, "b"), (3, "c")), "append")
    assert rows_of(origin) == [(1, "a")]
    assert staging_tables(origin) == []


@pytest.mark.parametrize("disposition", ["replace", "merge", "append"])
def test_rows_that_a_policy_hides_from_the_writer_refuse_the_load(
    origin: psycopg.Connection, database: str, disposition: str
) -> None:
    """They were written again, beside those that are there, and the load was a success."""
    role = f"{origin.info.dbname}_writer"
    for statement in (
        "CREATE SCHEMA landing",
        "CREATE TABLE landing.orders (id bigint, name text)",
        "INSERT INTO landing.orders VALUES (1, 'hidden'), (2, 'seen')",
        "ALTER TABLE landing.orders ENABLE ROW LEVEL SECURITY",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT ALL ON SCHEMA landing TO {role}",
        f"GRANT ALL ON landing.orders TO {role}",
        f"CREATE POLICY partly ON landing.orders TO {role} USING (id > 1) WITH CHECK (true)",
    ):
        origin.execute(statement.encode())
    with PostgresWarehouse("crm", database.replace("postgres@", f"{role}@")) as warehouse:
        with pytest.raises(DestinationError, match="row-level security") as refused:
            arrive(warehouse, people((1, "a"), (2, "b")), disposition, ("id",) if disposition == "merge" else ())
        assert "BYPASSRLS" in refused.value.mend
        assert rows_of(origin) == [(1, "hidden"), (2, "seen")]
        with pytest.raises(DestinationError, match="row-level security policy hides rows"):
            warehouse.require_readable(ORDERS)
    origin.execute(f"DROP OWNED BY {role}".encode())
    origin.execute(f"DROP ROLE {role}".encode())
