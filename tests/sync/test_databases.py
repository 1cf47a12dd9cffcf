"""Sources and models of another database than dbt's own: DuckDB's attached ones, and those that cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from tests.projects import NODE, MakeSource, Rows, SyncTables, landing_source, table

from dbt_bridge.cdc.slots import drop_slots
from dbt_bridge.connectors.duckdb.profile import Database, require_writable
from dbt_bridge.deliver.delivery import deliver_exposure, start_delivery
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import Delivery, LandingSource, Project
from dbt_bridge.nouns.table import Relation
from dbt_bridge.observe.progress import Silent
from dbt_bridge.project.claims import refuse_shared_databases
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.repair import RepairOptions, repair
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions, sync

OLD = "CREATE SCHEMA shop_landing; CREATE TABLE shop_landing.orders AS SELECT 1 AS id, 'OLD' AS v"


@pytest.fixture
def raw_file(tmp_path: Path) -> Path:
    return tmp_path / "raw.duckdb"


@pytest.fixture
def attached(project: Project, raw_file: Path) -> Project:
    """The profile attaches `raw`, as dbt-duckdb's `attach:` does."""
    return replace(project, warehouse=replace(project.warehouse, prepare=(f"ATTACH '{raw_file}' AS raw",)))


def in_raw(source: LandingSource) -> LandingSource:
    tables = tuple(replace(t, relation=Relation("shop_landing", t.identifier, "raw")) for t in source.tables)
    return replace(source, landing_database="raw", tables=tables)


def ask(file: Path, sql: str) -> Rows:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def make_orders(origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, v text); INSERT INTO orders VALUES (1, 'new')")


@pytest.mark.parametrize("replication", ["initial_copy", "incremental", "cdc"])
def test_rows_land_in_the_attached_database_with_their_checkpoints(
    attached: Project,
    origin: psycopg.Connection,
    warehouse_file: Path,
    raw_file: Path,
    request: pytest.FixtureRequest,
    replication: str,
) -> None:
    make_orders(origin)
    for file in (warehouse_file, raw_file):  # a namesake in either is not what landed
        with duckdb.connect(str(file)) as connection:
            connection.execute(OLD)
    cursor = {"cursor": "id"} if replication == "incremental" else {}
    source = in_raw(landing_source(table("orders", replication, **cursor), slot="dbt_bridge_raw"))
    shop = replace(attached, sources=(source,))
    if replication == "cdc":
        request.addfinalizer(lambda: list(drop_slots(shop, [source])))

    (first,) = sync(shop, SyncOptions(), Silent())
    origin.execute("INSERT INTO orders VALUES (2, 'more')")
    (second,) = sync(shop, SyncOptions(), Silent())

    assert (first.error, first.table_name, first.rows_loaded) == (None, "raw.shop_landing.orders", 1)
    assert (second.error, second.rows_loaded) == (None, {"initial_copy": 2, "incremental": 2, "cdc": 1}[replication])
    assert ask(raw_file, "FROM shop_landing.orders ORDER BY id") == [(1, "new"), (2, "more")]
    assert ask(warehouse_file, "FROM shop_landing.orders") == [(1, "OLD")]
    points = ask(raw_file, "SELECT node, landing FROM _dbt_bridge.checkpoints")
    assert points == ([] if replication == "initial_copy" else [(f"{NODE}orders", "raw.shop_landing.orders")])
    assert ask(raw_file, "SELECT count(*) FROM _dbt_bridge.receipts") == [(2,)]

    (equal,) = verify(shop, VerifyOptions(), Silent())
    assert (equal.error, equal.status, equal.rows_destination) == (None, "equal", 2)
    assert equal.destination == "duckdb: raw.shop_landing.orders"
    with duckdb.connect(str(raw_file)) as connection:
        connection.execute("UPDATE shop_landing.orders SET v = 'spoilt' WHERE id = 2")
    repaired = repair(shop, RepairOptions(), Silent())
    assert [(p.error, p.status) for p in repaired.parities] == [(None, "equal")]
    assert ask(raw_file, "FROM shop_landing.orders ORDER BY id") == [(1, "new"), (2, "more")]


def test_tables_of_several_databases_land_from_one_snapshot(
    attached: Project, origin: psycopg.Connection, source: MakeSource, warehouse_file: Path, raw_file: Path
) -> None:
    make_orders(origin)
    origin.execute("CREATE TABLE customers (id int); INSERT INTO customers VALUES (7)")
    there = in_raw(source(table("orders", "initial_copy")))
    both = replace(there, tables=(*there.tables, table("customers", "initial_copy")))
    both = replace(
        both, tables=(both.tables[0], replace(both.tables[1], relation=Relation("shop_landing", "customers")))
    )
    receipts = sync(replace(attached, sources=(both,)), SyncOptions(), Silent())
    assert sorted(r.table_name for r in receipts) == ["raw.shop_landing.orders", "shop_landing.customers"]
    assert ask(raw_file, "FROM shop_landing.orders") == [(1, "new")]
    assert ask(warehouse_file, "FROM shop_landing.customers") == [(7,)]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (" (READ_ONLY)", "attached read-only"),
        ("", "no database 'raw'; it has"),
    ],
)
def test_a_database_that_cannot_be_filled_is_told_before_anything_moves(
    attached: Project, origin: psycopg.Connection, source: MakeSource, warehouse_file: Path, raw_file: Path,
    how: str, why: str,
) -> None:  # fmt: skip
    make_orders(origin)
    with duckdb.connect(str(raw_file)) as connection:
        connection.execute("SELECT 1")
    statement = f"ATTACH '{raw_file}' AS raw{how}" if how else "SELECT 1"
    shop = replace(attached, warehouse=replace(attached.warehouse, prepare=(statement,)))
    sources = (source(table("orders", "initial_copy")), in_raw(source(table("orders", "initial_copy"))))
    here = replace(sources[0], name="here", tables=(replace(sources[0].tables[0], node="source.shop.here.orders"),))
    with pytest.raises(UsageError, match=why):
        sync(replace(shop, sources=(here, sources[1])), SyncOptions(), Silent())
    assert ask(warehouse_file, "SELECT count(*) FROM duckdb_tables()") == [(0,)]


def test_a_model_of_an_attached_database_is_delivered_and_verified(
    attached: Project, origin: psycopg.Connection, warehouse_file: Path, raw_file: Path
) -> None:
    for file, value in ((warehouse_file, "OLD"), (raw_file, "new")):
        with duckdb.connect(str(file)) as connection:
            connection.execute(f"CREATE SCHEMA marts; CREATE TABLE marts.dim AS SELECT 1 AS id, '{value}' AS v")
    delivery = Delivery(
        node="exposure.shop.crm", name="crm", model="model.shop.dim", relation=Relation("marts", "dim", "raw"),
        ancestors=frozenset({"model.shop.dim"}), gates=frozenset(), destination="crm_pg", schema="crm", table="people",
        write_disposition="replace",
    )  # fmt: skip
    shop = replace(attached, deliveries=(delivery,))
    with open_warehouse(shop.warehouse) as warehouse:  # type: ignore[attr-defined]
        receipt = start_delivery(delivery, "load")
        receipt = deliver_exposure(delivery, warehouse, shop.root, receipt, Silent(), dry_run=False)
    assert (receipt.error, receipt.origin, receipt.rows_loaded) == (None, "raw.marts.dim", 1)
    assert origin.execute("SELECT id, v FROM crm.people").fetchall() == [(1, "new")]
    (equal,) = verify(shop, VerifyOptions(), Silent())
    assert (equal.error, equal.status, equal.origin) == (None, "equal", "duckdb: raw.marts.dim")
    origin.execute("UPDATE crm.people SET v = 'OLD'")
    (different,) = verify(shop, VerifyOptions(), Silent())
    assert different.status == "different"


def test_a_checkpoint_of_another_place_is_not_gone_on_from(
    sync_sources: SyncTables, origin: psycopg.Connection, landed: Callable[[str], Rows], warehouse_file: Path
) -> None:
    """A table of that name stood where the source lands now: its rows are somebody else's."""
    make_orders(origin)
    source = landing_source(table("orders", "incremental", cursor="id"))
    sync_sources(source)
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute(OLD.replace("shop_landing", "moved"))
        connection.execute("INSERT INTO moved.orders VALUES (9, 'OLD')")
    receipt = sync_sources(replace(source, landing_schema="moved"))["orders"]
    assert (receipt.error, receipt.write_disposition) == (None, "replace")
    assert landed("FROM moved.orders") == [(1, "new")]


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(
    sync_sources: SyncTables, origin: psycopg.Connection, landed: Callable[[str], Rows], warehouse_file: Path
) -> None:
    make_orders(origin)
    source = landing_source(table("orders", "incremental", cursor="id"))
    sync_sources(source)
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute("ALTER TABLE _dbt_bridge.checkpoints DROP COLUMN landing")
    origin.execute("INSERT INTO orders VALUES (2, 'more')")
    receipt = sync_sources(source)["orders"]
    assert (receipt.error, receipt.write_disposition, receipt.checkpoint_from) == (None, "merge", "1")
    assert landed("SELECT landing FROM _dbt_bridge.checkpoints") == [("shop_landing.orders",)]


def test_rows_land_in_duckdbs_own_files_alone() -> None:
    """Another kind of database keeps other types, and loses what it cannot keep."""
    with pytest.raises(UsageError, match="attached as postgres"):
        require_writable(Database("raw", "postgres", is_read_only=False))
    require_writable(Database("raw", "motherduck", is_read_only=False))


def test_postgres_reaches_one_database(
    there: tuple[Project, Callable[[str], Rows]], origin: psycopg.Connection, source: MakeSource
) -> None:
    project, _ = there
    make_orders(origin)
    with pytest.raises(UsageError, match="'raw', and the warehouse 'postgres' reaches its own alone"):
        sync(replace(project, sources=(in_raw(source(table("orders", "initial_copy"))),)), SyncOptions(), Silent())


def test_tables_that_only_their_origins_know_meet_before_anything_moves(
    project: Project, origin: psycopg.Connection, source: MakeSource, database: str, warehouse_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SOURCES__OTHER_PG__CREDENTIALS", database)
    origin.execute("CREATE TABLE orders AS SELECT 1 AS id; CREATE TABLE customers AS SELECT 2 AS id")
    first = source(table("customers"))
    node = "source.shop.other"
    other = replace(
        first, name="other", origin="other_pg", landing_schema="SHOP_LANDING", every_table=True, tables=(),
        defaults=replace(first.defaults, node=node),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"both land in shop_landing\.customers and SHOP_LANDING\.customers"):
        sync(replace(project, sources=(first, other)), SyncOptions(), Silent())
    assert not warehouse_file.exists()
    left_out = replace(other, exclude=("customers",))
    receipts = sync(replace(project, sources=(first, left_out)), SyncOptions(), Silent())
    assert sorted(r.node for r in receipts) == [f"{node}.orders", f"{NODE}customers"]


def test_an_undeclared_table_of_a_declared_ones_name_is_told(
    project: Project, origin: psycopg.Connection, source: MakeSource, warehouse_file: Path
) -> None:
    origin.execute("CREATE TABLE orders AS SELECT 1 AS id; CREATE TABLE orders_v2 AS SELECT 2 AS id")
    renamed = source(replace(table("orders", "initial_copy"), identifier="orders_v2"), every=True)
    with pytest.raises(UsageError, match="the declared table 'orders' is its 'orders_v2'") as refused:
        sync(replace(project, sources=(renamed,)), SyncOptions(), Silent())
    assert "exclude: [orders]" in refused.value.mend


def test_two_destinations_that_are_one_database_are_one_place(
    project: Project, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESTINATION__ERP_PG__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__ERP_PG__CREDENTIALS", database.replace("127.0.0.1", "localhost"))
    first = Delivery(
        node="exposure.shop.a", name="a", model="model.shop.dim", relation=Relation("marts", "dim"),
        ancestors=frozenset(), gates=frozenset(), destination="crm_pg", schema="crm", table="people",
        write_disposition="replace",
    )  # fmt: skip
    second = replace(first, node="exposure.shop.b", destination="erp_pg")
    with pytest.raises(
        UsageError, match=r"a and exposure\.shop\.b are both delivered to crm_pg: crm\.people and erp_pg"
    ):
        refuse_shared_databases(replace(project, deliveries=(first, second)))
    apart = replace(second, schema="CRM")  # two schemas of PostgreSQL
    refuse_shared_databases(replace(project, deliveries=(first, apart)))
