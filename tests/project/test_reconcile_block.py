"""The `reconcile` block of a model, as a user writes it."""
# ruff: noqa: S608

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.nouns.reconciliation import DeclaredTolerance, Pairing, Reconciliation
from dbt_bridge.nouns.table import TableName
from dbt_bridge.project.load import load_project
from dbt_bridge.project.reconcile_block import read_reconcile_blocks

WHERE = "model fct_orders (models/marts.yml)"


def test_a_relation_alone_is_enough() -> None:
    (block,) = read_reconcile_blocks({"reconcile": {"origin": "old", "relation": "shop.orders"}}, WHERE)

    assert (block.origin, block.relation, block.levels, block.required) == ("old", "shop.orders", ("rows",), False)


def test_short_forms_mean_the_long_ones() -> None:
    short, long = read_reconcile_blocks(
        {
            "reconcile": [
                {"query": "select 1", "filter": "x > 1", "key": "id", "columns": {"a": "b"}, "levels": "rows"},
                {
                    "query": "select 1",
                    "filter": {"legacy": "x > 1", "new": "x > 1"},
                    "key": {"id": "id"},
                    "columns": {"a": {"legacy": "b"}},
                    "levels": ["rows"],
                },
            ]
        },
        WHERE,
    )
    assert short == long


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (0.5, DeclaredTolerance(Decimal("0.5"), False, "0.5")),
        ("0.01%", DeclaredTolerance(Decimal("0.0001"), True, "0.01%")),
        (" 2 % ", DeclaredTolerance(Decimal("0.02"), True, "2 %")),
        ("2 minutes", DeclaredTolerance(Decimal(120), False, "2 minutes", time=True)),
        (0, DeclaredTolerance(Decimal(0), False, "0")),
    ],
)
def test_a_tolerance_is_absolute_a_share_or_a_time(said: object, meant: DeclaredTolerance) -> None:
    (block,) = read_reconcile_blocks({"reconcile": {"query": "q", "tolerances": {"a": said}}}, WHERE)
    assert block.tolerances == {"a": meant}


@pytest.mark.parametrize(
    ("reconcile", "what", "mend"),
    [
        ({"orgin": "old", "relation": "t"}, "no key `reconcile.orgin`", "did you mean 'origin'?"),
        ({"query": "q", "filter": {"old": "x"}}, "no key `reconcile.filter.old`", "valid are legacy, new"),
        (
            {"query": "q", "columns": {"a": {"lagacy": "x"}}},
            "no key `reconcile.columns.a.lagacy`",
            "did you mean 'legacy'?",
        ),
        (
            {"metrics": [{"name": "m", "legacy": "q", "new": "q", "tolerence": 1}]},
            "no key `reconcile.metrics.0.tolerence`",
            "did you mean 'tolerance'?",
        ),
        ({"metrics": [{"name": "m", "legacy": "q"}]}, "lacks `reconcile.metrics.0.new`", "add `new: ...`"),
        ({"query": "q", "tolerances": {"a": "1 banana"}}, "`reconcile.tolerances.a: '1 banana'`", "correct"),
        ({"query": "q", "tolerances": {"a": -1}}, "not negative", "correct"),
        ({"query": "q", "tolerances": {"a": True}}, "is a number", "correct"),
        ({"query": "q", "levels": ["row"]}, "`reconcile.levels.0: 'row'`", "correct"),
        ({"query": "  "}, "blank", "correct"),
        ({"origin": "old"}, "nothing to compare", "relation: schema.table"),
        ({"query": "q", "relation": "t"}, "a relation and a query", "take one of them out"),
        ({"query": "q", "key": "id", "exclude": "id"}, "leaves out 'id'", "take 'id' out"),
        ({"query": "q", "columns": {"a": {"tolerance": 1}}, "tolerances": {"a": 2}}, "'a' has a tolerance", "take"),
        ("shop.orders", "not a mapping", "reconcile: {origin:"),
    ],
)
def test_a_slip_is_named_with_its_mend(reconcile: object, what: str, mend: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_reconcile_blocks({"reconcile": reconcile}, WHERE)
    assert what in refused.value.what
    assert mend in refused.value.mend


def test_another_key_beside_reconcile_is_refused() -> None:
    with pytest.raises(UsageError, match="no key 'reconsile'") as refused:
        read_reconcile_blocks({"reconsile": {}}, WHERE)
    assert "did you mean 'reconcile'?" in refused.value.mend


MODELS = """
models:
  - name: fct_orders
    constraints: [{type: primary_key, columns: [order_id]}]
    columns: [{name: order_id, data_type: int}]
    config:
      meta:
        bridge:
          reconcile:
            - origin: "{{ 'legacy_' ~ 'my' }}"
              relation: shop.orders
              filter: {legacy: "st <> 'test'", new: "not is_test"}
              columns: {total: "amount / 100", status: {new: upper(status), tolerance: 1}}
              required: true
            - query: select * from {ref('stg_orders')}
              metrics:
                - name: revenue
                  legacy: select sum(x) from orders
                  new: select sum(x) from {{ this }}
                - {name: rows, legacy: "select 1", new: "select count(*) from {this}", tolerance: 1%, by: [a]}
"""


def write(root: Path, yml: str, **models: str) -> DbtOptions:
    (root / "models" / "models.yml").write_text(yml)
    for name, sql in models.items():
        (root / "models" / f"{name}.sql").write_text(sql)
    return DbtOptions(project_dir=root)


def test_a_project_knows_what_its_models_replace(dbt_root: Path) -> None:
    options = write(dbt_root, MODELS, fct_orders="select 1 as order_id", stg_orders="select 1 as order_id")

    rows, metrics = load_project(options).reconciliations

    this = '"warehouse"."main"."fct_orders"'
    assert rows == Reconciliation(
        node="model.shop.fct_orders",
        name="fct_orders",
        this=this,
        display_name="main.fct_orders",
        origin="legacy_my",
        relation=TableName("shop", "orders"),
        legacy_filter="st <> 'test'",
        new_filter="not is_test",
        default_key=("order_id",),
        columns={"total": Pairing("amount / 100"), "status": Pairing("", "upper(status)")},
        tolerances={"status": DeclaredTolerance(Decimal(1), False, "1")},
        required=True,
    )
    assert metrics.query == 'select * from "warehouse"."main"."stg_orders"'
    assert [metric.new for metric in metrics.metrics] == [
        f"select sum(x) from {this}",
        f"select count(*) from {this}",
    ]
    assert metrics.legacy.startswith("warehouse: select * from")
    assert replace(metrics, query="", origin="old").legacy == "old: metrics revenue, rows"
    assert load_project(options).reconciliations == (rows, metrics)  # also from what dbt kept of its first parsing


@pytest.mark.parametrize(
    ("yml", "sql", "what"),
    [
        ("query: select * from {ref('nobody')}", "select 1 as a", "there is no model 'nobody'"),
        ("query: q", "{{ config(materialized='ephemeral') }} select 1 as a", "it is ephemeral"),
        ('{query: q, filter: "{{ 1 }} = 1 or 1 in (select 1 from {{ this }})"}', "select 1 as a", "know `this`"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(dbt_root: Path, yml: str, sql: str, what: str) -> None:
    reconcile = yml if yml.startswith("{") else "{" + yml.replace("query: ", 'query: "') + '"}'
    text = f"models:\n  - name: a\n    config: {{meta: {{bridge: {{reconcile: {reconcile}}}}}}}\n"
    with pytest.raises(UsageError, match=what):
        load_project(write(dbt_root, text, a=sql))


def test_a_slip_is_found_where_it_was_written_and_a_ref_is_the_latest_version(dbt_root: Path) -> None:
    text = """models:
  - name: a
    latest_version: 2
    config: {meta: {bridge: {reconcile: {query: "select * from {ref('a')}"}}}}
    versions: [{v: 1}, {v: 2}]
"""
    options = write(dbt_root, text, a_v1="select 1 as x", a_v2="select 2 as x")
    assert {found.query for found in load_project(options).reconciliations} == {
        'select * from "warehouse"."main"."a_v2"'
    }

    write(dbt_root, text.replace("query", "qurey"))
    with pytest.raises(UsageError, match=r"model a \(models/models.yml\): there is no key `reconcile.qurey`"):
        load_project(options)
