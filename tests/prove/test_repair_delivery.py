"""A delivered table is repaired by its keys, where it is delivered by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from tests.deliver.test_delivery import PASSED, SEGMENTS
from tests.projects import known

from dbt_bridge.nouns.project import Delivery, Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.repair import RepairOptions, repair
from dbt_bridge.run.deliver import deliver

Ask = Callable[[str], list[tuple[object, ...]]]


def delivered(project: Project, file: Path, item: Delivery) -> Project:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE SCHEMA marts")
        connection.execute(
            "CREATE TABLE marts.dim_customers AS SELECT range::INTEGER AS customer_id, 's' || range AS segment,"
            " range::DECIMAL(12,2) AS revenue FROM range(1, 51)"
        )
    ready = replace(project, deliveries=(item,))
    (receipt,) = deliver(ready, PASSED, Silent())
    assert receipt.status == "success", receipt.error
    return ready


def test_only_the_rows_that_differ_are_delivered_again(
    project: Project, warehouse_file: Path, origin: psycopg.Connection, landed: Ask
) -> None:
    origin.execute("CREATE SCHEMA crm")
    ready = delivered(project, warehouse_file, SEGMENTS)
    origin.execute("ALTER TABLE crm.segments ADD COLUMN touched bool")
    origin.execute("INSERT INTO crm.segments VALUES (99, 'theirs', 2)")
    origin.execute("UPDATE crm.segments SET touched = false")
    origin.execute("UPDATE crm.segments SET segment = 'wrong' WHERE customer_id = 3")
    origin.execute("DELETE FROM crm.segments WHERE customer_id = 4")
    origin.execute(
        "CREATE FUNCTION crm.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.touched := true; RETURN NEW; END'"
    )
    origin.execute(
        "CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON crm.segments FOR EACH ROW EXECUTE FUNCTION crm.touch()"
    )
    (refused,) = repair(ready, RepairOptions(), Silent(), known({SEGMENTS.model: "error"})).receipts
    assert refused.status == "failed" and "is not repaired from its model: model dim_customers: error" in refused.error
    elsewhere = replace(ready, options=replace(ready.options, target="prod"))
    (told,) = repair(elsewhere, RepairOptions(dry_run=True), Silent()).receipts
    assert "dbt-bridge build --select +exposure:crm_segments --target prod" in (told.error or "")
    done = repair(ready, RepairOptions(), Silent(), PASSED)
    (receipt,) = done.receipts
    assert done.ok, receipt.error
    assert (receipt.hop, receipt.node, receipt.rows_inserted, receipt.rows_updated) == ("repair", SEGMENTS.node, 1, 1)
    touched = origin.execute("SELECT customer_id, segment FROM crm.segments WHERE touched ORDER BY 1").fetchall()
    assert touched == [(3, "s3"), (4, "s4")]
    assert origin.execute("SELECT count(*) FROM crm.segments WHERE customer_id = 99").fetchall() == [(1,)]
    assert landed("SELECT status, rows_loaded FROM _dbt_bridge.receipts WHERE hop = 'repair'") == [
        ("failed", 0),
        ("success", 2),
    ]
    assert repair(ready, RepairOptions(), Silent()).receipts == ()


@pytest.mark.parametrize("dry", [True, False])
def test_what_is_delivered_whole_is_not_repaired(
    project: Project, warehouse_file: Path, origin: psycopg.Connection, dry: bool
) -> None:
    item = replace(SEGMENTS, write_disposition="replace", primary_key=())
    ready = delivered(project, warehouse_file, item)
    origin.execute("DELETE FROM crm.segments WHERE customer_id = 4")
    done = repair(ready, RepairOptions(dry_run=dry), Silent())
    (receipt,) = done.receipts
    assert (receipt.status, done.ok) == ("failed", False)
    assert receipt.error is not None
    assert "dbt-bridge deliver --select exposure:crm_segments" in receipt.error
    assert origin.execute("SELECT count(*) FROM crm.segments").fetchall() == [(49,)]
