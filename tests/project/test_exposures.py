"""Which model an exposure delivers, and what stands behind it: versions, metrics, folders' blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions, Project
from dbt_bridge.project.load import load_project

BLOCK = "config: {meta: {bridge: {destination: crm, write_disposition: replace%s}}}"
HEAD = "type: application, owner: {name: growth}"
PROJECT = """
name: shop
version: '1.0'
profile: shop
sources: {shop: {landing: {+meta: {bridge: {origin: shop_pg, replication: cdc}}}}}
exposures: {shop: {folder: {+meta: {bridge: {destination: crm, schema: crm, write_disposition: replace}}}}}
"""
LANDING = """
sources:
  - name: raw
    tables:
      - {name: orders}
      - {name: rates, config: {meta: {bridge: {replication: initial_copy}}}}
  - name: own
    config: {meta: {bridge: {origin: other_pg}}}
    tables: [{name: items}]
"""
MODELS = """
models:
  - {name: dim, latest_version: 2, versions: [{v: 1}, {v: 2}]}
  - {name: spine, time_spine: {standard_granularity_column: date_day}, columns: [{name: date_day, granularity: day}]}
  - {name: fct, columns: [{name: id, data_tests: [unique]}]}
semantic_models:
  - name: orders
    model: ref('fct')
    defaults: {agg_time_dimension: placed_on}
    entities: [{name: order_id, type: primary, expr: id}]
    dimensions: [{name: placed_on, type: time, expr: day, type_params: {time_granularity: day}}]
    measures: [{name: orders_n, agg: sum, expr: "1"}]
metrics:
  - {name: order_count, label: Orders, type: simple, type_params: {measure: orders_n}}
"""
FILES = {
    "dbt_project.yml": PROJECT,
    "models/landing/raw.yml": LANDING,
    "models/models.yml": MODELS,
    "models/dim_v1.sql": "{{ config(materialized='table') }} select 1 as id",
    "models/dim_v2.sql": "{{ config(materialized='table') }} select 2 as id",
    "models/spine.sql": "{{ config(materialized='table') }} select date '2026-01-01' as date_day",
    "models/stg.sql": "select 1 as id, date '2026-01-01' as day",
    "models/fct.sql": "select * from {{ ref('stg') }}",
}


def read(root: Path, exposures: str, folder: str = "models") -> Project:
    for name, text in {**FILES, f"{folder}/exposures.yml": f"exposures:\n{exposures}"}.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)
    return load_project(DbtOptions(root, profiles_dir=root))


def test_what_is_delivered_and_what_it_waits_for(dbt_root: Path) -> None:
    """One story, as every parse takes a second."""
    block, latest, first = BLOCK % "", BLOCK % ", model: dim", BLOCK % ", model: dim.v1, table: first"
    both = """depends_on: ["ref('dim', v=1)", "ref('dim', v=2)"]"""
    project = read(
        dbt_root,
        f"""
  - {{name: plain, {HEAD}, depends_on: [ref('dim')], {block}}}
  - {{name: latest, {HEAD}, {both}, {latest}}}
  - {{name: first, {HEAD}, {both}, {first}}}
  - {{name: measured, {HEAD}, depends_on: ["ref('dim', v=1)", "metric('order_count')"], {block}}}
""",
    )
    by_name = {delivery.name: delivery for delivery in project.deliveries}
    assert {name: delivery.model for name, delivery in by_name.items()} == {
        "plain": "model.shop.dim.v2",
        "latest": "model.shop.dim.v2",
        "first": "model.shop.dim.v1",
        "measured": "model.shop.dim.v1",
    }
    measured = by_name["measured"]
    assert {"model.shop.fct", "model.shop.stg", "model.shop.dim.v1"} <= measured.ancestors, "also behind a metric"
    (test,) = measured.gates
    assert measured.tested[test] == {"model.shop.fct", "model.shop.stg"}, "fct is a view of stg"
    assert measured.relations["model.shop.dim.v1"] == '"warehouse"."main"."dim_v1"'

    raw, own = sorted(project.sources, key=lambda source: source.name, reverse=True)
    assert (raw.name, raw.origin, {table.name: table.replication for table in raw.tables}) == (
        "raw",
        "shop_pg",
        {"orders": "cdc", "rates": "initial_copy"},
    )
    assert (own.name, own.origin, own.tables[0].replication) == ("own", "other_pg", "initial_copy")


def test_a_folder_of_exposures_shares_a_block(dbt_root: Path) -> None:
    project = read(dbt_root, f"  - {{name: plain, {HEAD}, depends_on: [ref('dim')]}}\n", "models/folder")
    (delivery,) = project.deliveries
    assert (delivery.destination, delivery.schema, delivery.table) == ("crm", "crm", "plain")


@pytest.mark.parametrize(
    ("depends_on", "model", "mend"),
    [
        ("[\"source('raw', 'orders')\"]", "", "add depends_on"),
        ("[metric('order_count')]", "", "add depends_on"),
        ("[ref('dim'), ref('fct')]", "", "say which with `model: ...`"),
        ("[ref('dim'), ref('fct')]", ", model: dmi", "did you mean 'dim'"),
    ],
)
def test_what_is_not_clear_is_refused(dbt_root: Path, depends_on: str, model: str, mend: str) -> None:
    with pytest.raises(UsageError, match=r"exposure plain \(models/exposures\.yml\)") as refused:
        read(dbt_root, f"  - {{name: plain, {HEAD}, depends_on: {depends_on}, {BLOCK % model}}}\n")
    assert mend in refused.value.mend
