"""The order of a build, and what counts as failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import psycopg
import pytest
from tests.projects import dbt_result

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import (
    DbtOptions,
    Delivery,
    LandingSource,
    LandingTable,
    Project,
)
from dbt_bridge.nouns.table import Relation
from dbt_bridge.observe.progress import Silent
from dbt_bridge.project.invoke import BuildResult
from dbt_bridge.run.build import build
from dbt_bridge.run.sync import SyncOptions

MakeSource = Callable[..., LandingSource]
ORDERS = LandingTable("source.shop.shop.orders", "orders", "orders", replication="initial_copy")
DELIVERY = Delivery(
    node="exposure.shop.crm",
    name="crm",
    model="model.shop.orders",
    relation=Relation("shop_landing", "orders"),
    ancestors=frozenset({"model.shop.orders", "source.shop.shop.orders"}),
    gates=frozenset(),
    destination="crm_pg",
    schema="crm",
    table="orders",
    write_disposition="replace",
)


class Dbt:
    """Stands for `dbt build`, whose own run is tested elsewhere: answers these statuses, and counts its calls."""

    def __init__(self, statuses: Mapping[str, str], ok: bool) -> None:
        self.answer = dbt_result(statuses, ok=ok)
        self.calls = 0

    def __call__(self) -> BuildResult:
        self.calls += 1
        return self.answer


def test_sync_then_dbt_then_deliver(project: Project, origin: psycopg.Connection, source: MakeSource) -> None:
    origin.execute("CREATE TABLE orders (id int)")
    origin.execute("INSERT INTO orders VALUES (1), (2)")
    whole = replace(project, sources=(source(ORDERS),), deliveries=(DELIVERY,))

    outcome = build(whole, Dbt({"model.shop.orders": "success"}, True), SyncOptions(), Silent())

    assert outcome.ok
    assert [(r.hop, r.status) for r in outcome.receipts] == [("initial_copy", "success"), ("deliver", "success")]
    assert len({r.load_id for r in outcome.receipts}) == 1
    assert origin.execute("SELECT id FROM crm.orders ORDER BY id").fetchall() == [(1,), (2,)]


def test_dbt_does_not_run_on_what_did_not_land(project: Project, source: MakeSource) -> None:
    whole = replace(project, sources=(source(ORDERS),), deliveries=(DELIVERY,))
    dbt = Dbt({}, True)

    outcome = build(whole, dbt, SyncOptions(), Silent())

    assert not outcome.ok
    assert (dbt.calls, outcome.dbt_ok) == (0, None)
    assert [(r.hop, r.status) for r in outcome.receipts] == [("initial_copy", "failed")]


def test_a_delivery_outside_of_the_selection_is_skipped_and_no_failure(project: Project) -> None:
    outcome = build(replace(project, deliveries=(DELIVERY,)), Dbt({}, True), SyncOptions(), Silent())

    assert outcome.ok
    assert [r.status for r in outcome.receipts] == ["skipped"]
    assert "--select +exposure:crm" in (outcome.receipts[0].error or "")


def test_a_failed_dbt_build_fails_the_build(project: Project) -> None:
    outcome = build(
        replace(project, deliveries=(DELIVERY,)), Dbt({"model.shop.orders": "error"}, False), SyncOptions(), Silent()
    )

    assert not outcome.ok
    assert outcome.receipts[0].error == "model orders: error: dbt-bridge build --select +exposure:crm"


def test_a_table_that_nobody_knows_is_no_selection(
    project: Project, origin: psycopg.Connection, source: MakeSource
) -> None:
    """With `tables: "*"` dbt cannot know the name, so the origin is asked."""
    origin.execute("CREATE TABLE orders (id int)")
    chosen = DbtOptions(select=("source:shop.ordres",))
    whole = replace(
        project,
        sources=(source(every=True),),
        needed=frozenset(),
        selected=frozenset(),
        needed_undeclared=("source.shop.shop.ordres",),
        options=chosen,
    )
    dbt = Dbt({}, True)

    with pytest.raises(UsageError, match=r"--select source:shop\.ordres selects nothing") as refused:
        build(whole, dbt, SyncOptions(), Silent())

    assert refused.value.mend == "did you mean source:shop.orders?"
    assert dbt.calls == 0
