"""A small bound of memory: what is larger lands all the same, as the bound is raised for it, and told; one that the
profile names is kept, and then tables are committed one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import duckdb
import psycopg
import pyarrow as pa
import pytest
from tests.projects import cdc_source, table

from dbt_bridge.connectors.duckdb import memory
from dbt_bridge.connectors.duckdb.memory import Memory, Window
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync
from dbt_bridge.system.memory_room import MemoryLimit


class Heard(Silent):
    """Keeps what was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def narrow(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Receipt], list[str]]]:
    """A sync that begins with little memory: its receipts, and what it told."""
    monkeypatch.setattr(memory, "_FIRST", 40_000_000)
    return make_sync(project)


def with_limit(project: Project, limit: str) -> Project:
    credentials = {**project.warehouse.credentials, "settings": {"memory_limit": limit}}
    return replace(project, warehouse=replace(project.warehouse, credentials=credentials))


def make_sync(small: Project) -> Callable[..., tuple[dict[str, Receipt], list[str]]]:
    def once(*tables: str, full_refresh: bool = False, status: str = "success") -> tuple[dict[str, Receipt], list[str]]:
        heard = Heard()
        source = cdc_source(*(table(name, node="source.shop.landing.") for name in tables))
        receipts = sync(replace(small, sources=(source,)), SyncOptions(full_refresh=full_refresh), heard)
        assert {r.status for r in receipts} <= {status}, [r.error for r in receipts]
        return {r.node.rsplit(".", 1)[1]: r for r in receipts}, heard.lines

    return once


def test_values_larger_than_the_bound_land_by_copy_and_by_changes(
    origin: psycopg.Connection, narrow: Callable, landed: Callable
) -> None:
    origin.execute("CREATE TABLE large (id int PRIMARY KEY, n int, v text)")
    origin.execute("ALTER TABLE large ALTER v SET STORAGE EXTERNAL")
    narrow("large")
    origin.execute("INSERT INTO large SELECT i, 0, repeat(md5(i::text), 100000) FROM generate_series(1, 20) i")
    _, told = narrow("large")
    assert any("landing.large: DuckDB may take" in line for line in told), told
    origin.execute("UPDATE large SET n = 1")  # values that are not sent again are read here
    narrow("large")
    expected = origin.execute("SELECT id, n, md5(v) FROM large ORDER BY 1").fetchall()
    assert landed("SELECT id, n, md5(v) FROM landing.large ORDER BY 1") == expected
    _, told = narrow("large", full_refresh=True)
    assert any("landing.large: DuckDB may take" in line for line in told), told
    assert landed("SELECT id, n, md5(v) FROM landing.large ORDER BY 1") == expected


def test_many_tables_that_change_together_land(
    origin: psycopg.Connection, project: Project, narrow: Callable, landed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each table that is written takes blocks for its columns until the commit."""
    names, texts = [f"t{number}" for number in range(16)], [f"c{number}" for number in range(70)]
    for name in names:
        columns = ", ".join(f"{text} text DEFAULT 'x'" for text in texts)
        origin.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, a text, {columns})".encode())
        origin.execute(f"INSERT INTO {name} (id) SELECT i FROM generate_series(1, 5) i".encode())  # noqa: S608
    narrow(*names)

    def change(value: str) -> None:
        with origin.transaction():
            for name in names:
                origin.execute(f"UPDATE {name} SET a = '{value}' WHERE id < 3".encode())  # noqa: S608

    def count(value: str) -> set[tuple[int]]:
        return {landed(f"SELECT count(*) FROM landing.{name} WHERE a = '{value}'")[0] for name in names}  # noqa: S608

    change("x")
    _, told = narrow(*names)
    assert any("DuckDB may take" in line for line in told), told
    assert count("x") == {(2,)}
    change("y")
    change("z")
    receipts, told = make_sync(with_limit(project, "60MB"))(*names)
    assert not any("DuckDB may take" in line for line in told), told
    assert any("tables are committed at once" in line for line in told), told
    assert count("z") == {(2,)}
    assert {receipt.checkpoint_to for receipt in receipts.values()} == {receipts["t0"].checkpoint_to}
    assert {receipt.rows_loaded for receipt in receipts.values()} == {4}


def test_what_does_not_fit_into_the_limit_of_the_profile_is_refused_with_numbers(
    origin: psycopg.Connection, project: Project, landed: Callable
) -> None:
    origin.execute("CREATE TABLE large (id int PRIMARY KEY, v text)")
    origin.execute("ALTER TABLE large ALTER v SET STORAGE EXTERNAL")
    origin.execute("INSERT INTO large SELECT i, repeat(md5(i::text), 100000) FROM generate_series(1, 20) i")
    receipts, _ = make_sync(with_limit(project, "40MB"))("large", status="failed")
    error = str(receipts["large"].error)
    assert "landing.large: DuckDB holds 2048 rows of every column at once" in error
    assert "40 MB that the profile's memory_limit allows" in error
    assert landed(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE '%large%' OR table_name LIKE '%stage%'"
    ) == [(0,)]


def test_a_window_holds_the_batches_that_may_lie_in_one_vector() -> None:
    window, batch = Window(), pa.record_batch({"v": pa.array(range(1500), pa.int64())})
    assert window.add(batch) == batch.nbytes
    assert window.add(batch) == 2 * batch.nbytes
    assert window.add(batch) == 2 * batch.nbytes, "the last 2048 rows lie in two of them"


def test_of_a_large_batch_a_window_holds_as_many_rows_as_one_vector() -> None:
    batch = pa.record_batch({"v": pa.array(["x" * 5_000] * 10_000)})
    assert Window().add(batch) <= batch.nbytes * 2 * 2048 / 10_000, "two vectors: its rows need not begin with one"


def test_what_one_database_of_a_connection_has_raised_another_does_not_lower() -> None:
    with duckdb.connect(config={"memory_limit": "200MB"}) as connection:
        one, other = Memory(connection), Memory(connection)
        before = one.limit
        other.make_room(400 << 20, 1, "wide")
        raised = Memory(connection).limit
        assert raised > 3 * before
        one.make_room(100 << 20, 1, "narrow")
        assert Memory(connection).limit == raised
        assert one.limit == raised
        assert one.take_told() == []


def test_work_that_no_raise_helps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "find_limit", lambda: MemoryLimit(700 << 20, 0, "this test"))
    monkeypatch.setattr(memory, "measure_room", lambda: 700 << 20)  # whatever the machine has left now
    with duckdb.connect(config={"memory_limit": "200MB", "threads": 2}) as connection:
        bound, raises = Memory(connection), 0
        while bound.make_more("wide") or bound.make_all("wide"):
            raises += 1
            assert raises < 10
        assert bound.limit == pytest.approx((700 - 256) * 0.8 * (1 << 20), rel=0.01)
        assert "one thread" in "".join(bound.take_told())


def test_one_long_value_among_rows_that_are_only_in_the_log_is_no_reason_to_refuse_them() -> None:
    with duckdb.connect(config={"memory_limit": "200MB"}) as connection:
        connection.execute("CREATE TABLE t AS SELECT 'short ' || i AS v FROM range(3000) r(i)")
        connection.execute("INSERT INTO t VALUES (repeat('x', 10000000))")
        assert 10_000_000 <= Memory(connection).make_room_to_read("t", "t") <= 40_000_000
