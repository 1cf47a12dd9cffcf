"""Tables of a real Postgres land in a real DuckDB file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests import projects

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import LandingSource, LandingTable, Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

Ask = Callable[[str], list[tuple[object, ...]]]
MakeSource = Callable[..., LandingSource]


table = partial(projects.table, replication="initial_copy")


def test_a_whole_schema_lands_and_its_receipts_tell_the_truth(
    project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    origin.execute("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    origin.execute("INSERT INTO customers VALUES (1, 'Ada'), (2, NULL)")
    origin.execute("CREATE TABLE empty (id int, amount numeric(12,2))")
    origin.execute("CREATE TABLE audit_log (id int)")

    receipts = sync(replace(project, sources=(source(every=True, exclude=("audit_*",)),)), SyncOptions(), Silent())

    assert [(r.node, r.status, r.rows_loaded) for r in receipts] == [
        ("source.shop.shop.customers", "success", 2),
        ("source.shop.shop.empty", "success", 0),
    ]
    assert landed("SELECT * FROM shop_landing.customers ORDER BY id") == [(1, "Ada"), (2, None)]
    assert landed("SELECT column_name, column_type FROM (DESCRIBE shop_landing.empty)") == [
        ("id", "INTEGER"),
        ("amount", "DECIMAL(12,2)"),
    ]
    assert landed("SELECT node, status, rows_loaded FROM _dbt_bridge.receipts ORDER BY node") == [
        ("source.shop.shop.customers", "success", 2),
        ("source.shop.shop.empty", "success", 0),
    ]


def test_sources_of_one_name_in_two_packages_both_land(
    project: Project, origin: psycopg.Connection, landed: Ask
) -> None:
    origin.execute("CREATE TABLE orders (id int)")
    origin.execute("CREATE TABLE items (id int)")
    ours = projects.landing_source("orders", replication="initial_copy")
    theirs = projects.landing_source(
        "items", replication="initial_copy", node="source.other.shop.", schema="other_landing"
    )
    receipts = sync(replace(project, sources=(ours, theirs)), SyncOptions(), Silent())
    assert {r.node for r in receipts} == {"source.shop.shop.orders", "source.other.shop.items"}
    assert landed("SELECT * FROM shop_landing.orders") == landed("SELECT * FROM other_landing.items") == []


def test_all_tables_land_from_one_moment_while_a_writer_goes_on(
    project: Project, origin: psycopg.Connection, database: str, source: MakeSource, landed: Ask
) -> None:
    origin.execute("CREATE TABLE orders (id int)")
    origin.execute("CREATE TABLE items (order_id int)")
    origin.execute("INSERT INTO orders SELECT generate_series(1, 200000)")
    origin.execute("INSERT INTO items SELECT generate_series(1, 200000)")
    done = threading.Event()

    def write() -> None:
        number = 200_000
        with psycopg.connect(database) as writer:
            while not done.is_set():
                number += 1
                writer.execute("INSERT INTO orders VALUES (%s)", [number])
                writer.execute("INSERT INTO items VALUES (%s)", [number])
                writer.commit()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        sync(replace(project, sources=(source(every=True),)), SyncOptions(), Silent())
    finally:
        done.set()
        thread.join()

    assert landed("SELECT count(*) >= 200000 FROM shop_landing.orders") == [(True,)]
    assert landed("SELECT id FROM shop_landing.orders EXCEPT SELECT order_id FROM shop_landing.items") == []
    assert landed("SELECT order_id FROM shop_landing.items EXCEPT SELECT id FROM shop_landing.orders") == []


def test_a_table_that_fails_keeps_its_rows_and_the_others_land(
    project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    origin.execute("CREATE TABLE good (id int)")
    origin.execute("CREATE TABLE bad (id int, matrix int[])")
    origin.execute("INSERT INTO good VALUES (1)")
    origin.execute("INSERT INTO bad VALUES (1, '{1,2}')")
    both = replace(project, sources=(source(table("good"), table("bad")),))
    sync(both, SyncOptions(), Silent())
    origin.execute("INSERT INTO good VALUES (2)")
    origin.execute("INSERT INTO bad VALUES (2, '{{1,2},{3,4}}')")

    good, bad = sync(both, SyncOptions(), Silent())

    assert (good.status, good.rows_loaded) == ("success", 2)
    assert (bad.status, bad.rows_loaded) == ("failed", 0)
    assert "matrix" in (bad.error or "") and "types" in (bad.error or "")
    assert landed("SELECT id FROM shop_landing.bad") == [(1,)]
    assert landed("SELECT status FROM _dbt_bridge.receipts WHERE node LIKE '%.bad' ORDER BY started_at") == [
        ("success",),
        ("failed",),
    ]


def test_an_override_lands_what_was_refused(
    project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    origin.execute("CREATE TABLE bad (matrix int[])")
    origin.execute("INSERT INTO bad VALUES ('{{1,2},{3,4}}')")

    sync(replace(project, sources=(source(table("bad", types={"matrix": "text"})),)), SyncOptions(), Silent())

    assert landed("SELECT matrix FROM shop_landing.bad") == [("{{1,2},{3,4}}",)]


def test_a_missing_table_names_the_nearest(
    project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    origin.execute("CREATE TABLE customers (id int)")

    (receipt,) = sync(replace(project, sources=(source(table("custmers")),)), SyncOptions(), Silent())

    assert receipt.status == "failed"
    assert "custmers" in (receipt.error or "") and "'customers'" in (receipt.error or "")


def test_an_unreachable_origin_fails_every_table_and_writes_none(
    project: Project, source: MakeSource, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", "postgresql://u:canary-5ecret@127.0.0.1:1/nowhere")

    receipts = sync(replace(project, sources=(source(table("a"), table("b")),)), SyncOptions(), Silent())

    assert [r.status for r in receipts] == ["failed", "failed"]
    assert all("shop_pg" in (r.error or "") for r in receipts)
    assert "canary-5ecret" not in repr(receipts)
    assert landed("SELECT count(*) FROM _dbt_bridge.receipts WHERE status = 'failed'") == [(2,)]
    assert landed("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'shop_landing'") == [(0,)]


def test_two_declarations_of_one_landing_table_are_refused(
    project: Project, origin: psycopg.Connection, source: MakeSource, warehouse_file: Path
) -> None:
    origin.execute("CREATE TABLE customers (id int)")
    again = replace(
        source(table("customers")), defaults=LandingTable("source.shop.other", "", "", replication="initial_copy")
    )

    with pytest.raises(UsageError, match=r"both land in shop_landing\.customers"):
        sync(replace(project, sources=(source(table("customers")), again)), SyncOptions(), Silent())


def test_only_the_needed_tables_land(
    project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    origin.execute("CREATE TABLE customers (id int)")
    origin.execute("CREATE TABLE orders (id int)")
    needed = replace(project, sources=(source(every=True),), needed=frozenset({"source.shop.shop.orders"}))

    receipts = sync(needed, SyncOptions(), Silent())

    assert [r.table_name for r in receipts] == ["shop_landing.orders"]


def test_a_destination_beside_the_warehouse_is_followed_by_the_warehouses_checkpoint(
    project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    origin.execute("CREATE TABLE events (id int PRIMARY KEY)")
    origin.execute("INSERT INTO events VALUES (1), (2)")
    events = replace(table("events", cursor="id"), replication="incremental")
    beside = replace(project, sources=(replace(source(events), destination="crm_pg"),))

    sync(beside, SyncOptions(), Silent())
    origin.execute("INSERT INTO events VALUES (3)")
    again = sync(beside, SyncOptions(), Silent())

    assert [(r.status, r.write_disposition, r.checkpoint_from, r.checkpoint_to) for r in again] == [
        ("success", "merge", "2", "3")
    ]
    assert origin.execute("SELECT id FROM shop_landing.events ORDER BY id").fetchall() == [(1,), (2,), (3,)]
    assert landed("SELECT status, checkpoint_to FROM _dbt_bridge.receipts ORDER BY started_at") == [
        ("success", "2"),
        ("success", "3"),
    ]


def test_tables_that_differ_in_case_alone_do_not_replace_each_other(
    project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    origin.execute('CREATE TABLE orders AS SELECT 1 AS id; CREATE TABLE "Orders" AS SELECT 2 AS id')
    with pytest.raises(UsageError, match=r"both land in shop_landing\.Orders and shop_landing\.orders") as refused:
        sync(replace(project, sources=(source(every=True),)), SyncOptions(), Silent())
    assert "exclude: [orders]" in refused.value.mend
    assert landed("SELECT table_name FROM information_schema.tables WHERE table_schema = 'shop_landing'") == []


def test_what_is_wrong_with_a_later_origin_is_told_before_the_first_one_lands(
    project: Project, origin: psycopg.Connection, source: MakeSource, warehouse_file: Path, database: str
) -> None:
    origin.execute("CREATE TABLE customers (id int)")
    first = source(table("customers"))
    other = replace(first, origin="other_pg", tables=(replace(table("customers"), node="source.shop.other.customers"),))

    with pytest.raises(UsageError, match="'other_pg' is not configured"):
        sync(replace(project, sources=(first, replace(other, landing_schema="elsewhere"))), SyncOptions(), Silent())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCES__OTHER_PG__CREDENTIALS", database)
        with pytest.raises(UsageError, match=r"both land in shop_landing\.customers"):
            sync(replace(project, sources=(first, other)), SyncOptions(), Silent())
    assert not warehouse_file.exists()
