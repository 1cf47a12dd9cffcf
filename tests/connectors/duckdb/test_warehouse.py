"""The DuckDB warehouse: what a load leaves, counts and refuses."""

from __future__ import annotations

import threading

import duckdb
import pyarrow as pa
import pytest

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.contracts.destination import (
    Load,
    Loaded,
    Warehouse,
    Window,
)
from dbt_bridge.errors import ConnectionFailed, DestinationError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.checkpoint import Checkpoint, TableState
from dbt_bridge.nouns.receipt import Receipt, now
from dbt_bridge.nouns.table import Table, TableName

USERS = TableName("landing", "users")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def warehouse(file):
    with DuckDBWarehouse.open(file) as opened:
        yield opened


def load(rows, disposition="replace", key=(), window=None, name=USERS):
    table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    request = Load(Table.of_schema(name, table.schema, key), disposition, "load-1", window)
    return request, table.to_reader(max_chunksize=2)


def landed(warehouse, name=USERS):
    return sorted(
        (tuple(row.values()) for row in warehouse.read(name).read_all().to_pylist()),
        key=lambda row: tuple((value is None, value) for value in row),
    )


def test_it_is_a_warehouse(warehouse):
    assert isinstance(warehouse, Warehouse)


def test_replace_leaves_exactly_the_new_rows(warehouse):
    warehouse.load(*load({"id": [1, 2, 3]}))
    loaded = warehouse.load(*load({"id": [4, 5], "name": ["a", None]}))
    assert landed(warehouse) == [(4, "a"), (5, None)]
    assert (loaded.rows_loaded, loaded.rows_inserted, loaded.rows_updated, loaded.rows_deleted) == (2, 2, 0, 3)


def test_replace_by_nothing_leaves_an_empty_table_with_its_columns(warehouse):
    warehouse.load(*load({"id": [1]}))
    warehouse.load(*load(pa.table({"id": pa.array([], pa.int64()), "at": pa.array([], pa.timestamp("us"))})))
    assert [c.origin_type for c in warehouse.find_table(USERS).columns] == ["BIGINT", "TIMESTAMP"]
    assert landed(warehouse) == []


def test_a_column_of_nulls_keeps_the_type_that_the_column_had(warehouse):
    warehouse.load(*load({"id": [1], "at": pa.array([1], pa.timestamp("us"))}))
    warehouse.load(*load({"id": [2], "at": pa.array([None], pa.null())}))
    assert [c.origin_type for c in warehouse.find_table(USERS).columns] == ["BIGINT", "TIMESTAMP"]


def test_replace_keeps_what_somebody_put_on_the_table(file):
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE SCHEMA landing")
        connection.execute("CREATE TABLE landing.users (id BIGINT PRIMARY KEY, name VARCHAR DEFAULT 'x')")
        connection.execute("INSERT INTO landing.users VALUES (1, 'a'), (2, 'b')")
    with DuckDBWarehouse.open(file) as warehouse:
        loaded = warehouse.load(*load({"id": [2, 3]}))
        assert (loaded.rows_inserted, loaded.rows_deleted) == (2, 2)
        assert landed(warehouse) == [(2, "x"), (3, "x")]
        with pytest.raises(DestinationError, match=r"(?i)primary key"):
            warehouse.load(*load({"id": [4, 4]}))
        assert landed(warehouse) == [(2, "x"), (3, "x")]


def test_append_adds(warehouse):
    warehouse.load(*load({"id": [1, 2]}, "append"))
    loaded = warehouse.load(*load({"id": [2, 3]}, "append"))
    assert landed(warehouse) == [(1,), (2,), (2,), (3,)]
    assert loaded.rows_inserted == 2


def test_append_brings_the_window_again_instead_of_doubling_it(warehouse):
    warehouse.load(*load({"id": [1, 2, 2]}, "append"))
    loaded = warehouse.load(*load({"id": [2, 2, 3]}, "append", window=Window("id", "2")))
    assert landed(warehouse) == [(1,), (2,), (2,), (3,)]
    assert (loaded.rows_inserted, loaded.rows_deleted) == (3, 2)


def test_a_window_of_a_cursor_that_is_text_or_absent_is_refused(warehouse):
    warehouse.load(*load({"n": ["9"]}))
    with pytest.raises(TypeRefused, match="'n' lands as text"):
        warehouse.load(*load({"n": ["10"]}, "append", window=Window("n", "10")))
    with pytest.raises(DestinationError, match="no column 'm'"):
        warehouse.load(*load({"n": ["10"]}, "append", window=Window("m", "10")))
    assert landed(warehouse) == [("9",)]


def test_merge_keeps_one_row_per_key_and_the_last_one_wins(warehouse):
    first = warehouse.load(*load({"id": [1, 2, 1], "v": ["a", "b", "c"]}, "merge", ("id",)))
    second = warehouse.load(*load({"id": [2, 3, 3, 2], "v": ["d", "e", "f", "g"]}, "merge", ("id",)))
    assert landed(warehouse) == [(1, "c"), (2, "g"), (3, "f")]
    assert (first.rows_loaded, first.rows_inserted, first.rows_updated) == (3, 2, 0)
    assert (second.rows_loaded, second.rows_inserted, second.rows_updated) == (4, 1, 1)


def test_merge_by_a_composite_key(warehouse):
    warehouse.load(*load({"a": [1, 1], "b": ["x", "y"], "v": [1, 2]}, "merge", ("a", "b")))
    warehouse.load(*load({"a": [1, 2], "b": ["y", "y"], "v": [3, 4]}, "merge", ("a", "b")))
    assert landed(warehouse) == [(1, "x", 1), (1, "y", 3), (2, "y", 4)]


def test_merge_takes_two_spellings_of_an_interval_for_one_key(warehouse):
    """PostgreSQL takes `29 days` for `1 mon -1 day`, and DuckDB does not."""
    for spelling, value in (((1, -1, 0), 1), ((0, 29, 0), 2)):
        rows = pa.table({"k": pa.array([spelling], pa.month_day_nano_interval()), "v": [value]})
        warehouse.load(*load(rows, "merge", ("k",)))
    ((key, value),) = (row.values() for row in warehouse.read(USERS).read_all().to_pylist())
    assert (tuple(key), value) == ((0, 29, 0), 2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pa.array([0.0]), pa.array([-0.0])),
        (pa.array([-0.0], pa.float32()), pa.array([0.0], pa.float32())),
        (pa.array([(1, 0, 0)], pa.month_day_nano_interval()), pa.array([(0, 30, 0)], pa.month_day_nano_interval())),
        (pa.array([(1, -1, 0)], pa.month_day_nano_interval()), pa.array([(0, 29, 0)], pa.month_day_nano_interval())),
        (pa.array([{"a": 0.0}]), pa.array([{"a": -0.0}])),
        (pa.array([[0.0]]), pa.array([[-0.0]])),
    ],
    ids=["double", "float", "a month", "a month but a day", "struct", "list"],
)
def test_merge_writes_a_value_that_is_equal_to_the_standing_one_and_yet_another(warehouse, before, after):
    """DuckDB's UPDATE takes such a value for the one that stands, and leaves it."""
    other = pa.array(["kept", "kept"])
    ids = pa.array([1, 2])
    warehouse.load(*load(pa.table({"id": ids, "v": pa.concat_arrays([before, before]), "o": other}), "merge", ("id",)))
    loaded = warehouse.load(*load(pa.table({"id": ids[:1], "v": after}), "merge", ("id",)))
    assert (loaded.rows_inserted, loaded.rows_updated) == (0, 1)
    rows = sorted(warehouse.read(USERS).read_all().to_pylist(), key=lambda row: row["id"])
    assert [str(row["v"]) for row in rows] == [str(after[0].as_py()), str(before[0].as_py())]
    assert [row["o"] for row in rows] == ["kept", "kept"]


@pytest.mark.parametrize("key", [pa.array([0.0]), pa.array([{"a": 0.0}])], ids=["double", "struct"])
def test_merge_spells_a_key_as_it_came_last(warehouse, key):
    for sign in (1, -1):
        spelled = pa.array([-0.0 if sign < 0 else 0.0])
        rows = spelled if key.type == pa.float64() else pa.StructArray.from_arrays([spelled], ["a"])
        warehouse.load(*load(pa.table({"k": rows, "v": [sign]}), "merge", ("k",)))
    (row,) = warehouse.read(USERS).read_all().to_pylist()
    assert (str(row["k"]), row["v"]) == ("-0.0" if key.type == pa.float64() else "{'a': -0.0}", -1)


def test_merge_of_a_table_that_is_only_a_key(warehouse):
    warehouse.load(*load({"id": [1]}, "merge", ("id",)))
    loaded = warehouse.load(*load({"id": [1, 2]}, "merge", ("id",)))
    assert landed(warehouse) == [(1,), (2,)]
    assert (loaded.rows_inserted, loaded.rows_updated) == (1, 1)


def test_merge_into_rows_that_already_share_a_key_is_refused(warehouse):
    warehouse.load(*load({"id": [1, 1]}, "append"))
    with pytest.raises(KeyRefused, match="already holds several rows with the same key"):
        warehouse.load(*load({"id": [1]}, "merge", ("id",)))
    assert landed(warehouse) == [(1,), (1,)]


@pytest.mark.parametrize(
    ("rows", "key", "what"),
    [
        ({"id": [1]}, (), "needs a key"),
        ({"id": [1]}, ("nr",), "key column 'nr' is not among the new rows' columns"),
        ({"id": [1, None]}, ("id",), "key column 'id' of landing.users holds NULL"),
    ],
)
def test_a_bad_key_is_refused_before_anything_is_written(warehouse, rows, key, what):
    warehouse.load(*load({"id": [7]}))
    with pytest.raises(KeyRefused, match=what):
        warehouse.load(*load(rows, "merge", key))
    assert landed(warehouse) == [(7,)]
    assert staging_tables(warehouse) == []


def test_an_unknown_disposition_is_refused(warehouse):
    with pytest.raises(UsageError, match="unknown write disposition 'upsert'"):
        warehouse.load(*load({"id": [1]}, "upsert"))


def test_new_columns_are_added_and_vanished_ones_are_null(warehouse):
    warehouse.load(*load({"id": [1], "old": ["x"]}, "append"))
    warehouse.load(*load({"id": [2], "new": [True]}, "append"))
    assert landed(warehouse) == [(1, "x", None), (2, None, True)]


def test_merge_keeps_the_values_of_columns_that_it_does_not_bring(warehouse):
    warehouse.load(*load({"id": [1], "old": ["x"]}, "merge", ("id",)))
    warehouse.load(*load({"id": [1], "new": [5]}, "merge", ("id",)))
    assert landed(warehouse) == [(1, "x", 5)]


@pytest.mark.parametrize(
    ("before", "after", "sql"),
    [
        (pa.array([1], pa.int32()), pa.array([2**40], pa.int64()), "BIGINT"),
        (pa.array([2**40], pa.int64()), pa.array([1], pa.int16()), "BIGINT"),
        (pa.array([1], pa.int64()), pa.array([2**64 - 1], pa.uint64()), "HUGEINT"),
        (pa.array([1], pa.int64()), pa.array([1.5], pa.float64()), "DOUBLE"),
        (pa.array(["1.50"]).cast(pa.decimal128(4, 2)), pa.array(["123456"]).cast(pa.decimal128(6, 0)), "DECIMAL(8,2)"),
        (pa.array([1], pa.date32()), pa.array([1], pa.timestamp("us")), "TIMESTAMP"),
        (pa.array([None], pa.null()), pa.array([5], pa.int64()), "BIGINT"),
        (pa.array([5], pa.int64()), pa.array([None], pa.null()), "BIGINT"),
        (pa.array([None], pa.string()), pa.array([5], pa.int64()), "BIGINT"),
        (pa.array([[1]], pa.list_(pa.int32())), pa.array([[2**40]], pa.list_(pa.int64())), "BIGINT[]"),
    ],
)
def test_a_type_that_changed_without_loss_widens_the_column(warehouse, before, after, sql):
    warehouse.load(*load(pa.table({"v": before}), "append"))
    warehouse.load(*load(pa.table({"v": after}), "append"))
    assert warehouse.find_table(USERS).columns[0].origin_type == sql
    assert len(landed(warehouse)) == 2
    assert sum(v is None for (v,) in landed(warehouse)) == before.null_count + after.null_count


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pa.array([1]), pa.array(["a"])),
        (pa.array(["a"]), pa.array([1])),
        (pa.array([2**53 + 1]), pa.array([1.5])),
        (pa.array([1.5]), pa.array([2**53 + 1])),
        (pa.array([True]), pa.array([1])),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("us", "UTC"))),
        (pa.array([1], pa.decimal128(38, 0)), pa.array(["0.1"]).cast(pa.decimal128(2, 1))),
    ],
)
def test_a_type_that_changed_with_loss_is_refused(warehouse, before, after):
    warehouse.load(*load(pa.table({"v": before}), "append"))
    with pytest.raises(TypeRefused, match=r"column 'v' of landing.users is .* and the new rows bring"):
        warehouse.load(*load(pa.table({"v": after}), "append"))
    assert len(landed(warehouse)) == 1
    assert staging_tables(warehouse) == []


def test_a_table_without_columns_is_refused(warehouse):
    with pytest.raises(TypeRefused, match=r"landing.users has no columns"):
        warehouse.load(*load(pa.table({})))


def test_two_columns_that_differ_in_case_are_refused(warehouse):
    with pytest.raises(TypeRefused, match="'Id' and 'ID', which are one name to DuckDB"):
        warehouse.load(*load({"Id": [1], "ID": [2]}))


def test_hostile_names_are_only_names(warehouse):
    name = TableName('s"; drop schema landing; --', "tä'b\"le; select 1")
    column = 'co"l; drop table x; -- \N{SNOWMAN}' + "x" * 40
    warehouse.load(*load({column: [0], "select": ["'"]}, "append", name=name))
    warehouse.load(*load({column: [1], "select": ["'"]}, "append", (column,), Window(column, "0"), name=name))
    warehouse.load(*load({column: [1, 2], "select": [";", "'"]}, "merge", (column,), name=name))
    assert landed(warehouse, name) == [(1, ";"), (2, "'")]


def test_an_error_of_the_rows_leaves_the_old_table_and_is_raised_as_it_is(warehouse):
    warehouse.load(*load({"id": [1]}))

    def rows():
        yield pa.record_batch({"id": [2]})
        raise TypeRefused("value 9 of column id")

    request, _ = load({"id": [2]})
    with pytest.raises(TypeRefused, match="value 9 of column id"):
        warehouse.load(request, pa.RecordBatchReader.from_batches(request.table.arrow_schema, rows()))
    assert landed(warehouse) == [(1,)]
    assert staging_tables(warehouse) == []


def test_several_tables_their_checkpoints_and_receipts_are_published_together_or_not_at_all(warehouse):
    names = [TableName("landing", "a"), TableName("landing", "b")]
    staged = [warehouse.stage(*load({"id": [1]}, name=name)) for name in names]
    point = Checkpoint("source.shop.a", "shop_pg", "id", "1")

    def broken(_):
        raise RuntimeError("before the commit")

    with pytest.raises(RuntimeError):
        warehouse.publish(staged, [point], broken)
    assert [warehouse.find_table(name) for name in names] == [None, None]
    assert warehouse.checkpoint(point.node) is None

    warehouse.publish(staged, [point], lambda loaded: [receipt(one) for one in loaded])
    assert [landed(warehouse, name) for name in names] == [[(1,)], [(1,)]]
    assert warehouse.checkpoint(point.node) == point
    assert (
        warehouse.read(TableName("_dbt_bridge", "receipts"), ["rows_loaded"]).read_all().to_pylist()
        == [{"rows_loaded": 1}] * 2
    )
    warehouse.forget(point.node)
    assert warehouse.checkpoint(point.node) is None


def test_a_preview_counts_and_changes_nothing(warehouse):
    warehouse.load(*load({"id": [1, 2], "v": [1, 1]}, "merge", ("id",)))
    told = warehouse.preview(*load({"id": [2, 3, 4], "w": ["a", "b", "c"]}, "merge", ("id",)))
    assert (told.rows_inserted, told.rows_updated) == (2, 1)
    assert landed(warehouse) == [(1, 1), (2, 1)]
    assert staging_tables(warehouse) == []


def test_a_ghost_view_gives_way_to_the_table_and_another_view_does_not(warehouse, file):
    execute(warehouse, "CREATE SCHEMA landing")
    execute(
        warehouse, "CREATE VIEW landing.users AS SELECT 1 AS id FROM (SELECT 1) AS _dbt_bridge_ghost WHERE error('no')"
    )
    execute(warehouse, "CREATE VIEW landing.report AS SELECT 1 AS id")
    assert warehouse.find_table(USERS) is None
    warehouse.load(*load({"id": [1]}, "append"))
    assert landed(warehouse) == [(1,)]
    with pytest.raises(DestinationError, match=r"landing.report is a view that dbt-bridge did not make"):
        warehouse.load(*load({"id": [1]}, name=TableName("landing", "report")))


def test_staging_tables_of_killed_runs_are_dropped_and_those_of_live_loads_stay(warehouse):
    live = warehouse.stage(*load({"id": [1]}))
    execute(warehouse, 'CREATE TABLE landing."_dbt_bridge_stage_0000dead_1" AS SELECT 1 AS id')
    warehouse.discard()
    assert staging_tables(warehouse) == [live.staging.name]
    warehouse.publish([live])
    assert landed(warehouse) == [(1,)]


def test_many_threads_load_into_one_new_schema(warehouse):
    errors = []

    def work(number):
        try:
            for turn in range(3):
                warehouse.load(*load({"id": [number * 10 + turn]}, "append"))
                warehouse.load(*load({"id": [number]}, "replace", name=TableName("landing", "shared")))
                warehouse.load(*load({"id": [turn]}, "merge", ("id",), name=TableName("landing", "merged")))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert landed(warehouse) == sorted((n * 10 + turn,) for n in range(6) for turn in range(3))
    assert len(landed(warehouse, TableName("landing", "shared"))) == 1
    assert landed(warehouse, TableName("landing", "merged")) == [(0,), (1,), (2,)]


def test_merges_of_the_same_new_key_at_once_leave_it_once(warehouse):
    def merge(key):
        warehouse.load(*load({"id": [key]}, "merge", ("id",)))

    merge(0)
    for key in range(1, 7):
        threads = [threading.Thread(target=merge, args=(key,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert landed(warehouse) == [(key,) for key in range(7)]


def test_over_a_connection_of_dbt_its_settings_stay(file):
    with duckdb.connect(str(file), config={"threads": 1}) as connection:
        settings = "SELECT name, value FROM duckdb_settings() WHERE name NOT LIKE '%secret%'"
        before = connection.execute(settings).fetchall()
        warehouse = DuckDBWarehouse.over(connection)
        warehouse.load(*load({"id": [3, 1, 2]}, "merge", ("id",)))
        warehouse.close()
        assert connection.execute(settings).fetchall() == before
        assert connection.execute("SELECT count(*) FROM landing.users").fetchone() == (3,)


def test_reading_streams_while_the_same_warehouse_loads(warehouse):
    warehouse.load(*load(pa.table({"id": pa.array(range(300_000))})))
    reader = warehouse.read(USERS)
    first = reader.read_next_batch()
    warehouse.load(*load({"id": [1]}, name=TableName("landing", "other")))
    assert first.num_rows + sum(batch.num_rows for batch in reader) == 300_000


def test_a_file_that_another_process_has_open_is_named(file):
    import subprocess
    import sys

    holder = subprocess.Popen(
        [sys.executable, "-c", f"import duckdb; c = duckdb.connect({str(file)!r}); print('open', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        holder.stdout.readline()
        with pytest.raises(ConnectionFailed, match=rf"warehouse.duckdb is in use: PID {holder.pid}"):
            DuckDBWarehouse.open(file)
    finally:
        holder.kill()
        holder.wait()


def test_a_missing_relation_and_a_missing_column_are_named(warehouse):
    with pytest.raises(DestinationError, match=r"there is no table landing.users"):
        warehouse.read(USERS)
    warehouse.load(*load({"id": [1]}))
    with pytest.raises(DestinationError, match=r"landing.users has no column 'nr'; it has id"):
        warehouse.read(USERS, ["nr"])


def test_audit_tables_of_an_earlier_version_get_the_columns_that_came_since(file):
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE SCHEMA _dbt_bridge")
        connection.execute(
            "CREATE TABLE _dbt_bridge.checkpoints"
            " (node VARCHAR, origin VARCHAR, cursor VARCHAR, value VARCHAR, saved_at TIMESTAMPTZ)"
        )
        connection.execute("INSERT INTO _dbt_bridge.checkpoints VALUES ('source.shop.a', 'shop_pg', 'id', '7', now())")
        connection.execute("CREATE TABLE _dbt_bridge.receipts (load_id VARCHAR, node VARCHAR, note VARCHAR)")
        connection.execute("INSERT INTO _dbt_bridge.receipts VALUES ('load-0', 'source.shop.a', 'somebody''s own')")
    followed = Checkpoint(
        "source.shop.b", "shop_pg", "", "0/16B3748", "7301/dbt_shop", "{}", "type refused", TableState.SET_ASIDE
    )
    with DuckDBWarehouse.open(file) as warehouse:
        assert warehouse.checkpoint("source.shop.a") == Checkpoint("source.shop.a", "shop_pg", "id", "7")
        warehouse.save([followed], [receipt(Loaded(1, 1, 0, 0, 8))])
        assert warehouse.checkpoints() == [Checkpoint("source.shop.a", "shop_pg", "id", "7"), followed]
        assert warehouse.checkpoint("source.shop.b") == followed
        rows = warehouse.read(TableName("_dbt_bridge", "receipts")).read_all()
    assert rows["load_id"].to_pylist() == ["load-0", "load-1"]
    assert rows["note"].to_pylist() == ["somebody's own", None]
    assert {"last_commit_at", "lag_seconds"} <= set(rows.column_names)


def receipt(loaded: Loaded) -> Receipt:
    return Receipt(
        load_id="load-1", hop="transfer", node="model.shop.m", origin="o", destination="duckdb", table_name="t",
        write_disposition="replace", status="success", rows_loaded=loaded.rows_loaded, rows_inserted=None,
        rows_updated=None, rows_deleted=None, bytes=0, checkpoint_from=None, checkpoint_to=None, started_at=now(),
        finished_at=now(), duration_seconds=0.0, error=None,
    )  # fmt: skip


def execute(warehouse, sql):
    warehouse._connection.cursor().execute(sql)


def staging_tables(warehouse):
    rows = warehouse._connection.cursor().execute("SELECT table_name FROM duckdb_tables()").fetchall()
    return [name for (name,) in rows if name.startswith("_dbt_bridge_stage_")]
