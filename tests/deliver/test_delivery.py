"""Relations of a DuckDB warehouse are delivered to a real Postgres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from tests.projects import known

from dbt_bridge.nouns.project import Delivery, Project
from dbt_bridge.nouns.table import Relation
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.deliver import deliver

Ask = Callable[[str], list[tuple[object, ...]]]
PASSED = known({"model.shop.dim_customers": "success"})
SEGMENTS = Delivery(
    node="exposure.shop.crm_segments",
    name="crm_segments",
    model="model.shop.dim_customers",
    relation=Relation("marts", "dim_customers"),
    ancestors=frozenset({"model.shop.dim_customers"}),
    gates=frozenset(),
    destination="crm_pg",
    schema="crm",
    table="segments",
    write_disposition="merge",
    primary_key=("customer_id",),
)


@pytest.fixture
def ready(project: Project, warehouse_file: Path) -> Project:
    """A warehouse whose `marts.dim_customers` has three customers."""
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute("CREATE SCHEMA marts")
        connection.execute(
            "CREATE TABLE marts.dim_customers AS"
            " SELECT * FROM (VALUES (1, 'gold', 10.50::DECIMAL(12,2)), (2, 'new', 0), (3, NULL, NULL))"
            " AS t(customer_id, segment, revenue)"
        )
    return replace(project, deliveries=(SEGMENTS,))


def test_a_merge_updates_and_inserts_and_counts_both(ready: Project, origin: psycopg.Connection, landed: Ask) -> None:
    origin.execute("CREATE SCHEMA crm")
    origin.execute("CREATE TABLE crm.segments (customer_id int PRIMARY KEY, segment text, revenue numeric(12,2))")
    origin.execute("INSERT INTO crm.segments VALUES (1, 'old', 1), (99, 'theirs', 2)")

    (receipt,) = deliver(ready, PASSED, Silent())

    assert (receipt.status, receipt.rows_inserted, receipt.rows_updated) == ("success", 2, 1), receipt.error
    rows = origin.execute("SELECT customer_id, segment, revenue::text FROM crm.segments ORDER BY 1").fetchall()
    assert rows == [(1, "gold", "10.50"), (2, "new", "0.00"), (3, None, None), (99, "theirs", "2.00")]
    assert landed("SELECT hop, status, rows_loaded FROM _dbt_bridge.receipts") == [("deliver", "success", 3)]


def test_a_dry_run_counts_and_writes_nothing(ready: Project, origin: psycopg.Connection, landed: Ask) -> None:
    origin.execute("CREATE SCHEMA crm")
    origin.execute("CREATE TABLE crm.segments (customer_id int PRIMARY KEY, segment text, revenue numeric(12,2))")
    origin.execute("INSERT INTO crm.segments VALUES (1, 'old', 1)")

    (receipt,) = deliver(ready, PASSED, Silent(), dry_run=True)

    assert (receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted) == (2, 1, 0), receipt.error
    assert origin.execute("SELECT segment FROM crm.segments").fetchall() == [("old",)]
    assert landed("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'receipts'") == [(0,)]


def test_a_replace_shows_exactly_the_relation(ready: Project, origin: psycopg.Connection) -> None:
    whole = replace(SEGMENTS, write_disposition="replace", primary_key=(), columns=("customer_id", "segment"))

    deliver(replace(ready, deliveries=(whole,)), PASSED, Silent())
    (receipt,) = deliver(replace(ready, deliveries=(whole,)), PASSED, Silent())

    assert receipt.status == "success", receipt.error
    rows = origin.execute("SELECT * FROM crm.segments ORDER BY 1").fetchall()
    assert rows == [(1, "gold"), (2, "new"), (3, None)]


def test_a_failed_ancestor_skips_the_delivery_and_the_receipt_says_why(
    ready: Project, origin: psycopg.Connection, landed: Ask
) -> None:
    (receipt,) = deliver(ready, known({"model.shop.dim_customers": "error"}), Silent())

    assert (receipt.status, receipt.error) == (
        "skipped",
        "model dim_customers: error: dbt-bridge build --select +exposure:crm_segments",
    )
    assert origin.execute("SELECT to_regclass('crm.segments')").fetchone() == (None,)
    assert landed("SELECT status, error FROM _dbt_bridge.receipts") == [
        ("skipped", "model dim_customers: error: dbt-bridge build --select +exposure:crm_segments")
    ]


def test_a_duplicate_key_at_the_destination_side_is_a_failed_receipt_not_a_crash(
    ready: Project, origin: psycopg.Connection, landed: Ask
) -> None:
    origin.execute("CREATE SCHEMA crm")
    origin.execute(
        "CREATE TABLE crm.segments (customer_id int PRIMARY KEY, segment text NOT NULL, revenue numeric(12,2))"
    )

    (receipt,) = deliver(ready, PASSED, Silent())

    assert receipt.status == "failed"
    assert "segment" in (receipt.error or "")
    assert origin.execute("SELECT count(*) FROM crm.segments").fetchone() == (0,)


def test_a_missing_relation_names_the_command_that_builds_it(ready: Project) -> None:
    gone = replace(SEGMENTS, relation=Relation("marts", "dim_gone"))

    (receipt,) = deliver(replace(ready, deliveries=(gone,)), PASSED, Silent())

    assert receipt.status == "failed"
    assert "dim_gone" in (receipt.error or "") and "dbt-bridge build" in (receipt.error or "")


def test_a_value_that_cannot_be_read_fails_its_delivery_and_not_the_others(
    ready: Project, origin: psycopg.Connection, warehouse_file: Path, landed: Ask
) -> None:
    with duckdb.connect(str(warehouse_file)) as connection:
        connection.execute(
            "CREATE VIEW marts.sums AS SELECT i AS customer_id,"
            " CASE WHEN i = 199999 THEN 170141183460469231731687303715884105727 ELSE i::HUGEINT END AS n"
            " FROM range(200000) AS r(i)"
        )
    sums = replace(SEGMENTS, node="exposure.shop.sums", relation=Relation("marts", "sums"), table="sums")

    broken, whole = deliver(replace(ready, deliveries=(sums, SEGMENTS)), PASSED, Silent())

    assert (broken.status, whole.status) == ("failed", "success")
    assert "marts.sums" in (broken.error or "") and "cast its column" in (broken.error or "")
    assert origin.execute("SELECT to_regclass('crm.sums')").fetchone() == (None,)
    assert landed("SELECT status FROM _dbt_bridge.receipts ORDER BY started_at") == [("failed",), ("success",)]
