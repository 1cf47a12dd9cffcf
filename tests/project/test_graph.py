"""dbt's manifest as a graph of plain values: the same from dbt's classes and from the file that dbt writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dbt_bridge.errors import DbtFailed
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.graph import make_graph
from dbt_bridge.project.load import load_project

FILES = {
    "dbt_project.yml": "{name: shop, profile: shop, models: {+tags: [nightly]}}",
    "profiles.yml": (
        "shop: {target: dev, outputs: {dev: {type: duckdb, path: shop.duckdb, attach: [{path: raw.duckdb}]}}}"
    ),
    "models/orders.sql": "select * from {{ source('shop', 'orders') }}",
    "models/part.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('orders') }}",
    "models/dim_v1.sql": "select 1 as id",
    "models/dim_v2.sql": "select 1 as id from {{ ref('part') }}",
    "models/off.sql": "{{ config(enabled=false) }} select 1 as id",
    "tests/some.sql": "select * from {{ ref('orders') }} where false",
    "models/all.yml": """
sources:
  - name: shop
    database: raw
    schema: Landing
    quoting: {identifier: false}
    config: {meta: {owner: sales, bridge: {origin: shop_pg, schema: public}}}
    tables: [{name: orders, identifier: Orders, config: {meta: {owner: me}}}]
  - name: every
    database: raw
    config: {meta: {bridge: {origin: shop_pg, tables: "*"}}}
models:
  - name: orders
    columns: [{name: id, data_tests: [unique, not_null]}]
  - name: dim
    latest_version: 2
    versions: [{v: 1}, {v: 2}]
exposures:
  - name: board
    type: dashboard
    owner: {name: me, email: me@example.com}
    depends_on: [ref('dim')]
""",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_graph_says_what_dbt_says(shop: Path) -> None:
    graph = load_project(DbtOptions(project_dir=shop)).graph
    assert (graph.project, graph.adapter) == ("shop", "duckdb")

    source = graph.nodes["source.shop.shop.orders"]
    assert (source.database, source.schema, source.identifier) == ("raw", "Landing", "Orders")
    assert source.relation_name == '"raw"."Landing".Orders'
    assert source.quoting["identifier"] is False
    assert (source.source_name, source.meta["owner"], source.source_meta["owner"]) == ("shop", "me", "sales")

    model = graph.nodes["model.shop.orders"]
    assert (model.relation_name, model.identifier) == ('"shop"."main"."orders"', "orders")
    assert (model.tags, model.materialized, model.primary_key) == (("nightly",), "view", ("id",))
    assert graph.nodes["model.shop.part"].is_ephemeral and not graph.nodes["model.shop.part"].relation_name
    assert [node.is_latest_version for node in graph.list_nodes("model") if node.name == "dim"] == [False, True]
    assert "model.shop.off" not in graph.nodes and not graph.disabled["model.shop.off"].enabled

    board = graph.nodes["exposure.shop.board"]
    assert board.depends_on == ("model.shop.dim.v2",)
    assert {"model.shop.part", "model.shop.orders", "source.shop.shop.orders"} < graph.list_ancestors(board.unique_id)
    assert graph.list_children("model.shop.dim.v2") == (board.unique_id,)
    attached = {node.name: node.attached_node for node in graph.list_nodes("test")}
    assert attached == {"unique_orders_id": model.unique_id, "not_null_orders_id": model.unique_id, "some": ""}

    (every,) = graph.bare_sources
    assert (every.package, every.name, every.database, every.schema) == ("shop", "every", "raw", "every")


def test_both_runners_and_the_cache_give_the_same_graph(shop: Path) -> None:
    parsed = load_project(DbtOptions(project_dir=shop))
    assert not (shop / "target" / "manifest.json").exists(), "to look leaves dbt's artifacts as they were"
    kept = load_project(DbtOptions(project_dir=shop))
    command = load_project(DbtOptions(project_dir=shop, dbt=str(Path(sys.executable).with_name("dbt"))))
    for other in (kept, command):
        assert other.graph == parsed.graph
        assert other.warehouse == parsed.warehouse
        assert (other.name, other.sources, other.deliveries) == (parsed.name, parsed.sources, parsed.deliveries)
    assert not (shop / "target" / "manifest.json").exists()


def test_manifest_of_another_schema_is_refused() -> None:
    with pytest.raises(DbtFailed, match=r"manifest/v13\.json"):
        make_graph({"metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v13.json"}})
