"""The order of a build, and what counts as failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from tests.projects import dbt_result

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.graph import Graph, Node
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
from dbt_bridge.run.altered_landings import list_exposed
from dbt_bridge.run.build import build
from dbt_bridge.run.deliver import deliver_last_build
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


START = "operation.shop.shop-on-run-start-0"
HOOKED = Graph(
    "shop",
    "duckdb",
    "",
    {
        START: Node(START, "operation", "shop-on-run-start-0", "shop", "", tags=("on-run-start",)),
        ORDERS.node: Node(ORDERS.node, "source", "orders", "shop", ""),
        DELIVERY.model: Node(
            DELIVERY.model, "model", "orders", "shop", "", materialized="table", depends_on=(ORDERS.node,)
        ),
    },
)


@pytest.mark.parametrize("alters", [True, False])
def test_what_a_hook_makes_of_a_landing_is_not_what_landed(
    project: Project, origin: psycopg.Connection, source: MakeSource, warehouse_file: Path, *, alters: bool
) -> None:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    origin.execute("INSERT INTO orders VALUES (1), (2)")
    whole = replace(project, sources=(source(ORDERS),), deliveries=(DELIVERY,), graph=HOOKED)

    def dbt() -> BuildResult:
        if alters:
            with duckdb.connect(str(warehouse_file)) as warehouse:
                warehouse.execute("DELETE FROM shop_landing.orders WHERE id = 2")
        return dbt_result({START: "success", DELIVERY.model: "success"})

    outcome = build(whole, dbt, SyncOptions(), Silent())

    assert outcome.ok is not alters
    if alters:
        assert "source.shop.shop.orders was altered while dbt ran, by a hook" in outcome.problems[0]
        assert outcome.receipts[-1].error == "model orders: error: dbt-bridge build --select +exposure:crm"
        (kept,) = deliver_last_build(whole, Silent(), dry_run=False).receipts
        assert (kept.status, kept.error) == ("skipped", outcome.receipts[-1].error)


def test_no_landing_is_looked_at_for_the_bridges_own_hooks(project: Project, source: MakeSource) -> None:
    own = replace(HOOKED.nodes[START], name="dbt_bridge-on-run-start-ghost-sources")
    whole = replace(project, sources=(source(ORDERS),), graph=HOOKED)
    assert set(list_exposed(whole, [DELIVERY.model])) == {ORDERS.node}
    ghosts = replace(HOOKED, nodes={**HOOKED.nodes, START: own})
    assert list_exposed(replace(whole, graph=ghosts), [DELIVERY.model]) == {}


def test_a_hook_that_failed_holds_back(project: Project, origin: psycopg.Connection, source: MakeSource) -> None:
    """dbt builds all the same, and says success of every model."""
    origin.execute("CREATE TABLE orders (id int)")
    hooked = replace(DELIVERY, hooks=frozenset({START}))
    whole = replace(project, sources=(source(ORDERS),), deliveries=(hooked,), graph=HOOKED)

    outcome = build(whole, Dbt({START: "error", DELIVERY.model: "success"}, False), SyncOptions(), Silent())

    assert [r.status for r in outcome.receipts] == ["success", "skipped"]
    assert (outcome.receipts[-1].error or "").startswith("hook shop-on-run-start-0: error (dbt-bridge build, ")


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
