"""dbt's `--select` and `--exclude`, as the bridge understands them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions, Project
from dbt_bridge.project.load import load_project
from dbt_bridge.project.selection import list_build_order, select_downstream

YAML = """
sources:
  - name: shop
    config: {meta: {bridge: {origin: shop_pg, tables: "*"}}}
    tables: [{name: orders}, {name: customers, columns: [{name: id, data_tests: [unique]}]}]
  - name: erp
    config: {meta: {bridge: {origin: erp_my, tables: "*"}}}
models:
  - name: mart
    columns: [{name: id, data_tests: [not_null]}]
exposures:
  - name: crm
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('mart')]
    config: {meta: {bridge: {destination: crm_pg, write_disposition: replace}}}
"""


@pytest.fixture
def root(dbt_root: Path) -> Path:
    (dbt_root / "models" / "all.yml").write_text(YAML)
    (dbt_root / "models" / "stg_orders.sql").write_text("select 1 as id from {{ source('shop', 'orders') }}")
    (dbt_root / "models" / "stg_customers.sql").write_text("select 1 as id from {{ source('shop', 'customers') }}")
    (dbt_root / "models" / "mart.sql").write_text("select id from {{ ref('stg_orders') }}")
    return dbt_root


def test_the_selection_is_dbts_and_brings_the_sources_that_it_reads(root: Path) -> None:
    """One story, as every selection parses the project again."""

    def picked(*select: str, exclude: tuple[str, ...] = ()) -> Project:
        return load_project(DbtOptions(root, profiles_dir=root, select=select, exclude=exclude))

    downstream = picked("source:shop.orders+")
    assert downstream.needed == {"source.shop.shop.orders"}
    assert downstream.selected is not None
    assert {"model.shop.stg_orders", "model.shop.mart", "exposure.shop.crm"} <= downstream.selected
    assert not downstream.needs("source.shop.shop.products"), "an undeclared table that was not named"

    one_model = picked("stg_customers")
    assert one_model.needed == {"source.shop.shop.customers"}

    further_down = picked("mart")
    assert further_down.needed == frozenset(), "what is upstream of the selection is not in it, as in dbt"

    undeclared = picked("source:shop.prod*")
    assert undeclared.needed == frozenset()
    assert undeclared.needs("source.shop.shop.products")
    assert not undeclared.needs("source.shop.shop.orders")
    assert not undeclared.needs("source.shop.erp.products")

    whole = picked("source:shop+", exclude=("source:shop.tmp_*", "mart"))
    assert whole.needs("source.shop.shop.products")
    assert not whole.needs("source.shop.shop.tmp_1")
    assert whole.needs("source.shop.shop.orders")
    assert whole.selected is not None
    assert "model.shop.mart" not in whole.selected

    all_but = picked(exclude=("source:erp",))
    assert all_but.needs("source.shop.shop.products")
    assert not all_but.needs("source.shop.erp.anything")
    needed = {source.name: all_but.needs_source(source) for source in all_but.sources}
    assert needed == {"shop": True, "erp": False}, "an excluded origin is not even opened"


def test_what_reads_a_changed_table_is_selected_whatever_its_name(root: Path) -> None:
    (root / "models" / "odd.yml").write_text(
        "sources: [{name: odd, tables: [{name: order items}, {name: order_items}, {name: a.b}]}]"
    )
    for model, table in (("blank", "order items"), ("word", "order_items"), ("dot", "a.b")):
        (root / "models" / f"{model}.sql").write_text(f"select * from {{{{ source('odd', '{table}') }}}}")  # noqa: S608
    project = load_project(DbtOptions(root, profiles_dir=root))
    built = select_downstream(project.options, project.graph, ["source.shop.odd.order items", "source.shop.odd.a.b"])
    assert built is not None
    chosen = load_project(replace(built)).selected or frozenset()
    assert {node for node in chosen if node.startswith("model.")} == {"model.shop.blank", "model.shop.dot"}


def test_the_order_is_parents_first_with_their_tests(root: Path) -> None:
    project = load_project(DbtOptions(root, profiles_dir=root))
    order = list_build_order(project.graph, None)
    names = [node.name for node in order]
    assert names[0] == "source_unique_shop_customers_id", "a test on a source alone comes first"
    assert names.index("stg_orders") < names.index("mart")
    mart = order[names.index("mart")]
    assert [test.split(".")[2] for test in mart.tests] == ["not_null_mart_id"]


def test_a_selector_that_dbt_does_not_understand_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="selection") as refused:
        load_project(DbtOptions(root, profiles_dir=root, select=("nonsense:x",)))
    assert refused.value.mend.endswith("dbt ls --select nonsense:x")
