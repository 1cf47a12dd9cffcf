"""What changes rows without a change in the log: types whose values read otherwise, partitions that went, publications
with a gap. Each is noticed from the catalog, and the table copied anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.projects import SyncTables, cdc_source, table

from dbt_bridge.connectors.postgres.changes.source import PostgresChangeSource

SLOT = "dbt_bridge_test"


def landed(file: Path, name: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM landing.{name} ORDER BY ALL").fetchall()  # noqa: S608


def same(origin: psycopg.Connection, file: Path, name: str) -> None:
    """Both ends hold the same rows, as text."""
    columns = origin.execute(f"SELECT * FROM {name} LIMIT 0".encode()).description or ()  # noqa: S608
    texts = ", ".join(f'"{column.name}"::text' for column in columns)
    rows = origin.execute(f"SELECT {texts} FROM {name}".encode()).fetchall()  # noqa: S608
    assert landed(file, name) == sorted(rows, key=lambda row: [(v is None, v or "") for v in row])


@pytest.fixture
def typed(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("""
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TYPE address AS (street text, no int);
        CREATE DOMAIN mail AS text;
        CREATE TYPE span AS RANGE (subtype = int4);
        CREATE TYPE inner_address AS (at address, moods mood[]);  -- values of types inside of types
        CREATE SCHEMA other;
        CREATE TABLE t (id int PRIMARY KEY, m mood, a address, e mail, s span, deep inner_address);
        INSERT INTO t VALUES (1, 'sad', ('x', 1), 'a@b', '[1,5)', (('y', 2)::address, '{sad}'));
        CREATE TABLE k (m mood, n int, v text, PRIMARY KEY (m, n));
        INSERT INTO k VALUES ('sad', 1, 'a'), ('ok', 1, 'b');
        CREATE TABLE plain (id int PRIMARY KEY, v text);
        INSERT INTO plain VALUES (1, 'p');
    """)
    return origin


COPIED = {
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'": {"t", "k"},
    "ALTER TYPE address ADD ATTRIBUTE zip text CASCADE": {"t"},
    "ALTER TYPE address DROP ATTRIBUTE no CASCADE": {"t"},
    "ALTER DOMAIN mail RENAME TO post": {"t"},
    "ALTER TYPE span RENAME TO distance": {"t"},
    "ALTER TYPE mood SET SCHEMA other": {"t", "k"},
    "ALTER TYPE other.mood ADD VALUE 'happy' BEFORE 'ok'": set(),
    "ALTER TYPE address RENAME ATTRIBUTE street TO road": set(),
}


def test_a_type_whose_values_read_otherwise_has_its_tables_copied_anew(
    typed: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    source = cdc_source("t", "k", "plain")
    sync_sources(source)
    for ddl, copied in COPIED.items():
        typed.execute(ddl.encode())
        typed.execute(
            "UPDATE k SET v = v || '!'; INSERT INTO t (id) SELECT max(id) + 1 FROM t; UPDATE plain SET v = 'q'"
        )
        receipts = sync_sources(source)
        assert {name for name, receipt in receipts.items() if receipt.hop == "initial_copy"} == copied, ddl
        for name in receipts:
            same(typed, warehouse_file, name)
    assert {receipt.rows_loaded for receipt in sync_sources(source).values()} == {0}, "once is enough"


@pytest.mark.parametrize("when", ["find_end", "open_snapshot"])
def test_a_type_that_changes_in_the_middle_of_a_sync_leaves_nothing_old(
    when: str,
    typed: psycopg.Connection,
    sync_sources: SyncTables,
    warehouse_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server writes labels as they are now, also in an older snapshot: a copy may hold both."""
    source = cdc_source("t", "k", "plain")
    if when == "find_end":
        sync_sources(source)
    method = getattr(PostgresChangeSource, when)

    def then(self: PostgresChangeSource, *args: Any, **keys: Any) -> Any:
        done = method(self, *args, **keys)
        if typed.execute("SELECT 1 FROM pg_enum WHERE enumlabel = 'sad'").fetchall():
            if when == "open_snapshot":
                typed.execute("INSERT INTO k VALUES ('sad', 2, 'old')")
            typed.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; INSERT INTO k VALUES ('blue', 3, 'new')")
        return done

    monkeypatch.setattr(PostgresChangeSource, when, then)
    assert {receipt.status for receipt in sync_sources(source).values()} == {"success"}
    same(typed, warehouse_file, "t")
    if when == "find_end":
        sync_sources(source)
    same(typed, warehouse_file, "k")


@pytest.fixture
def parted(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("""
        CREATE TABLE ev (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (100) TO (200);
        INSERT INTO ev VALUES (1, 105, 'a'), (2, 106, 'b');
        CREATE TABLE plain (id int PRIMARY KEY, v text);
        INSERT INTO plain VALUES (1, 'p');
    """)
    return origin


MORE = "CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM (200) TO (300)"


@pytest.mark.parametrize(
    ("statements", "hop"),
    [
        ([MORE, "INSERT INTO ev VALUES (10, 205, 'x')", "INSERT INTO plain VALUES (2, 'z')"], "cdc"),
        ([MORE, "INSERT INTO ev VALUES (10, 205, 'x')", "DROP TABLE ev_2"], "initial_copy"),
        ([MORE, "INSERT INTO ev VALUES (10, 205, 'x')", "ALTER TABLE ev DETACH PARTITION ev_2"], "initial_copy"),
        (
            [MORE, "INSERT INTO ev VALUES (10, 205, 'x')", "ALTER TABLE ev DETACH PARTITION ev_2 CONCURRENTLY"],
            "initial_copy",
        ),
        ([MORE, "INSERT INTO ev_2 VALUES (10, 205, 'x')", "DROP TABLE ev_2"], "initial_copy"),
        (
            [MORE, "INSERT INTO ev VALUES (10, 205, 'x')", "TRUNCATE ev_2", "INSERT INTO ev VALUES (11, 206, 'y')"],
            "initial_copy",
        ),
        (
            [
                "CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM (200) TO (300) PARTITION BY LIST (v)",
                "CREATE TABLE ev_2x PARTITION OF ev_2 FOR VALUES IN ('x')",
                "INSERT INTO ev VALUES (10, 205, 'x')",
                "ALTER TABLE ev DETACH PARTITION ev_2",
            ],
            "initial_copy",
        ),
        ([MORE, "DROP TABLE ev_2"], "cdc"),
    ],
)
def test_a_partition_that_came_and_went_leaves_no_rows(
    statements: list[str], hop: str, parted: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    """Its rows come as the root's, and its end does not come."""
    if "PARTITION BY LIST (v)" in statements[0]:
        parted.execute("DROP TABLE ev; CREATE TABLE ev (id int, day int, v text) PARTITION BY RANGE (day)")
        parted.execute("CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (100) TO (200)")
        parted.execute("ALTER TABLE ev REPLICA IDENTITY FULL; ALTER TABLE ev_1 REPLICA IDENTITY FULL")
        statements.insert(2, "ALTER TABLE ev_2 REPLICA IDENTITY FULL; ALTER TABLE ev_2x REPLICA IDENTITY FULL")
    source = cdc_source("ev", "plain")
    sync_sources(source)
    for statement in statements:
        parted.execute(statement.encode())
    parted.execute("INSERT INTO ev VALUES (3, 107, 'c'); UPDATE plain SET v = 'q'")
    receipts = sync_sources(source)
    assert (receipts["ev"].hop, receipts["plain"].hop) == (hop, "cdc")
    for name in ("ev", "plain"):
        same(parted, warehouse_file, name)
    assert {receipt.rows_loaded for receipt in sync_sources(source).values()} == {0}


def test_a_partition_that_comes_in_one_run_and_goes_before_the_next_is_remembered(
    parted: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that the census did not see: it came with the changes."""
    source = cdc_source("ev")
    sync_sources(source)
    find_end = PostgresChangeSource.find_end

    def then(self: PostgresChangeSource) -> Any:
        parted.execute(MORE.encode())
        parted.execute("INSERT INTO ev VALUES (10, 205, 'x')")
        return find_end(self)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresChangeSource, "find_end", then)
        assert sync_sources(source)["ev"].hop == "cdc"
    same(parted, warehouse_file, "ev")
    parted.execute("DROP TABLE ev_2")
    assert sync_sources(source)["ev"].hop == "initial_copy"
    same(parted, warehouse_file, "ev")


GAPS = {
    "left and came back": [
        "ALTER PUBLICATION {slot} DROP TABLE t",
        "UPDATE t SET v = 'unseen' WHERE id = 1; DELETE FROM t WHERE id = (SELECT max(id) FROM t)",
        "ALTER PUBLICATION {slot} ADD TABLE t",
    ],
    "fewer operations": [
        "ALTER PUBLICATION {slot} SET (publish = 'insert')",
        "UPDATE t SET v = 'unseen' WHERE id = 1; DELETE FROM t WHERE id = (SELECT max(id) FROM t)",
        "ALTER PUBLICATION {slot} SET (publish = 'insert, update, delete, truncate')",
    ],
    "a row filter": [
        "ALTER PUBLICATION {slot} SET TABLE t WHERE (id > 100), u",
        "UPDATE t SET v = 'unseen' WHERE id = 1",
        "ALTER PUBLICATION {slot} SET TABLE t, u",
    ],
    "a column list": [
        "ALTER PUBLICATION {slot} SET TABLE t (id), u",
        "UPDATE t SET v = 'unseen' WHERE id = 1",
        "ALTER PUBLICATION {slot} SET TABLE t, u",
    ],
    "made anew": [
        "DROP PUBLICATION {slot}",
        "UPDATE t SET v = 'unseen' WHERE id = 1; INSERT INTO u SELECT max(id) + 1, 'unseen' FROM u",
        "CREATE PUBLICATION {slot} FOR TABLE t, u WITH (publish_via_partition_root = true)",
    ],
    "dropped": [
        "DROP PUBLICATION {slot}",
        "UPDATE t SET v = 'unseen' WHERE id = 1; INSERT INTO u SELECT max(id) + 1, 'unseen' FROM u",
    ],
    "made anew for a schema": [
        "DROP PUBLICATION {slot}",
        "UPDATE t SET v = 'unseen' WHERE id = 1",
        "CREATE PUBLICATION {slot} FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true)",
    ],
}
WHOLE = {"fewer operations", "made anew", "dropped", "made anew for a schema"}


@pytest.fixture
def two(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (LIKE t INCLUDING ALL)")
    origin.execute("INSERT INTO t SELECT g, 'a' FROM generate_series(1, 5) g; INSERT INTO u TABLE t")
    return origin


def test_a_gap_in_a_publication_is_copied_over(
    two: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    source = cdc_source("t", "u")
    sync_sources(source)
    for gap, statements in GAPS.items():
        for statement in statements:
            two.execute(statement.format(slot=SLOT).encode())
        two.execute("INSERT INTO t SELECT max(id) + 1, 'seen' FROM t; INSERT INTO u SELECT max(id) + 1, 'seen' FROM u")
        receipts = sync_sources(source)
        copied = {name for name, receipt in receipts.items() if receipt.hop == "initial_copy"}
        assert copied == ({"t", "u"} if gap in WHOLE else {"t"}), gap
        same(two, warehouse_file, "t")
        same(two, warehouse_file, "u")
        two.execute("UPDATE t SET v = v || '!'; DELETE FROM u WHERE id = (SELECT min(id) FROM u)")
        assert {receipt.hop for receipt in sync_sources(source).values()} == {"cdc"}, f"after {gap}"
        same(two, warehouse_file, "t")
        same(two, warehouse_file, "u")


def test_a_table_that_left_a_published_schema_for_a_while_is_copied_anew(
    two: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    two.execute(f"CREATE PUBLICATION {SLOT} FOR TABLES IN SCHEMA public".encode())
    source = cdc_source("t", "u")
    sync_sources(source)
    two.execute("CREATE SCHEMA away; ALTER TABLE t SET SCHEMA away; UPDATE away.t SET v = 'unseen' WHERE id = 1")
    two.execute("ALTER TABLE away.t SET SCHEMA public; GRANT SELECT ON u TO public; UPDATE u SET v = 'seen'")
    receipts = sync_sources(source)
    assert {name: receipt.hop for name, receipt in receipts.items()} == {"t": "initial_copy", "u": "cdc"}
    same(two, warehouse_file, "t")


def test_what_is_done_to_other_tables_of_a_publication_copies_nothing(
    two: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    two.execute("CREATE TABLE w (id int PRIMARY KEY)")
    sync_sources(cdc_source("t", "u"))
    assert sync_sources(cdc_source("t", "w"))["t"].hop == "cdc"
    two.execute("GRANT SELECT ON t TO public; ANALYZE t; CREATE INDEX ON t (v); ALTER TABLE t OWNER TO CURRENT_USER")
    two.execute("UPDATE t SET v = 'seen'")
    assert sync_sources(cdc_source("t", "w"))["t"].hop == "cdc"
    same(two, warehouse_file, "t")


def _forget(file: Path, edit: Callable[[dict[str, Any]], None] | None) -> None:
    """Make the checkpoints those of a version that did not remember something; None for those of cursors."""
    with duckdb.connect(str(file)) as connection:
        if edit is None:
            connection.execute("UPDATE _dbt_bridge.checkpoints SET shape = ''")
            return
        for node, text in connection.execute("SELECT node, shape FROM _dbt_bridge.checkpoints").fetchall():
            memory = json.loads(text)
            edit(memory["shape"])
            connection.execute(
                "UPDATE _dbt_bridge.checkpoints SET shape = ? WHERE node = ?", [json.dumps(memory), node]
            )


def _as_before(shape: dict[str, Any]) -> None:
    del shape["forms"], shape["published"]


def test_a_checkpoint_of_an_older_version_goes_on_where_the_catalog_is_as_it_was(
    typed: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    source = cdc_source("t", "k", "plain")
    sync_sources(source)
    _forget(warehouse_file, _as_before)
    typed.execute("UPDATE k SET v = 'seen'")
    assert {receipt.hop for receipt in sync_sources(source).values()} == {"cdc"}
    typed.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
    assert sync_sources(source)["k"].hop == "initial_copy", "it was taken up"
    same(typed, warehouse_file, "k")


def test_a_checkpoint_of_an_older_version_is_not_trusted_over_what_changed_since(
    typed: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    source = cdc_source("t", "k", "plain")
    sync_sources(source)
    _forget(warehouse_file, _as_before)
    typed.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
    typed.execute(f"ALTER PUBLICATION {SLOT} DROP TABLE plain".encode())
    typed.execute("UPDATE plain SET v = 'unseen'")
    typed.execute(f"ALTER PUBLICATION {SLOT} ADD TABLE plain".encode())
    assert {receipt.hop for receipt in sync_sources(source).values()} == {"initial_copy"}
    for name in ("t", "k", "plain"):
        same(typed, warehouse_file, name)


def test_values_that_read_otherwise_are_copied_anew_by_a_cursor_too(
    typed: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    typed.execute("ALTER TABLE t ADD COLUMN at int NOT NULL DEFAULT 1")
    source = cdc_source(table("t", "incremental", node="source.shop.landing.", cursor="at"))
    sync_sources(source)
    _forget(warehouse_file, None)
    typed.execute("INSERT INTO t (id, m, at) VALUES (2, 'ok', 2)")
    assert sync_sources(source)["t"].checkpoint_from == "1", "a checkpoint of an older version goes on"
    typed.execute("ALTER TYPE mood ADD VALUE 'happy'")
    assert sync_sources(source)["t"].checkpoint_from == "2", "it is in no row yet"
    for ddl in ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", "ALTER TYPE address ADD ATTRIBUTE zip text CASCADE"):
        typed.execute(ddl.encode())
        assert sync_sources(source)["t"].checkpoint_from is None
        same(typed, warehouse_file, "t")
        assert sync_sources(source)["t"].checkpoint_from == "2"
    typed.execute("ALTER TYPE mood RENAME TO humour; ALTER TYPE humour RENAME VALUE 'blue' TO 'low'")
    assert sync_sources(source)["t"].checkpoint_from is None, "a type is the same one under another name"
    same(typed, warehouse_file, "t")


def test_a_partition_that_is_followed_beside_its_root_is_refused(
    parted: psycopg.Connection, sync_sources: SyncTables, warehouse_file: Path
) -> None:
    """Its changes come as the root's alone: it would stay as it was copied."""
    receipts = sync_sources(cdc_source("ev", "ev_1"))
    assert receipts["ev"].status == "success"
    assert "partition of public.ev" in (receipts["ev_1"].error or "")
    parted.execute(
        "CREATE TABLE own (id int, day int, v text, PRIMARY KEY (id, day)); INSERT INTO own VALUES (5, 305, '')"
    )
    assert {receipt.error for receipt in sync_sources(cdc_source("ev", "own")).values()} == {None}
    parted.execute("ALTER TABLE ev ATTACH PARTITION own FOR VALUES FROM (300) TO (400); UPDATE own SET v = 'seen'")
    receipts = sync_sources(cdc_source("ev", "own"))
    assert "partition of public.ev" in (receipts["own"].error or "")
    same(parted, warehouse_file, "ev")
    assert sync_sources(cdc_source("ev"))["ev"].error is None
    parted.execute("UPDATE own SET v = 'again'")
    assert sync_sources(cdc_source("own"))["own"].error is None, "the mend works as printed"
    same(parted, warehouse_file, "own")
