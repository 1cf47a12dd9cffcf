"""Projects whose own macros stand in for `source` and `ref`: what models read is what dbt compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.projects import landing_source, table

from dbt_bridge.nouns.graph import Graph, Node
from dbt_bridge.nouns.project import Project, WarehouseProfile
from dbt_bridge.project.redirected import mark_redirected
from dbt_bridge.project.runners.contract import BuildResult, NodeResult

SOURCE, STAGED, FACTS = "source.shop.shop.orders", "model.shop.stg", "model.shop.fct"
NODES = {
    SOURCE: Node(SOURCE, "source", "orders", "shop", "", relation_name='"wh"."shop_landing"."orders"'),
    STAGED: Node(STAGED, "model", "stg", "shop", "", relation_name='"wh"."main"."stg"', depends_on=(SOURCE,)),
    FACTS: Node(FACTS, "model", "fct", "shop", "", relation_name='"wh"."main"."fct"', depends_on=(STAGED,)),
}
RIGHT = {STAGED: 'select * from "wh"."shop_landing"."orders"', FACTS: "select * from main.stg"}


def marked(overrides: set[str], **compiled: str) -> BuildResult:
    graph = Graph("shop", "duckdb", "", NODES, overrides=frozenset(overrides))
    profile = WarehouseProfile("duckdb", "wh", "main", 1, {"type": "duckdb", "path": "wh.duckdb"})
    project = Project(Path(), "shop", profile, (landing_source(table("orders")),), (), graph=graph)
    code = {**RIGHT, **{f"model.shop.{name}": sql for name, sql in compiled.items()}}
    nodes = tuple(NodeResult(node, "success", "OK", 0.1, compiled_code=sql) for node, sql in code.items())
    return mark_redirected(project, BuildResult(True, nodes))


@pytest.mark.parametrize("sql", ["select 1 from shop_landing.orders", 'select 1 from "SHOP_landing"."Orders" limit 5'])
def test_a_relation_without_its_database_is_the_same(sql: str) -> None:
    assert marked({"source", "ref"}, stg=sql).success


@pytest.mark.parametrize(
    ("model", "sql", "macro"),
    [
        ("stg", "select * from raw_dev.orders", "source"),
        ("stg", "select * from shop_landing.orders_2024", "source"),
        ("fct", "select * from prod.stg", "ref"),
    ],
)
def test_a_model_that_reads_elsewhere_has_failed(model: str, sql: str, macro: str) -> None:
    result = marked({"source", "ref"}, **{model: sql})
    assert (result.success, f"macro `{macro}`" in (result.error or "")) == (False, True)
    statuses = {node.unique_id: node.status for node in result.nodes}
    assert statuses == {**dict.fromkeys(RIGHT, "success"), f"model.shop.{model}": "error"}


def test_dbts_own_macros_lead_where_the_graph_says() -> None:
    assert marked(set(), stg="select 1 -- a source that is named for lineage alone").success
    assert marked({"ref"}, stg="select * from raw_dev.orders").success
