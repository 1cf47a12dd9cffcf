"""`dbt-bridge plan`: what a build would do, without connecting to anything."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.load import load_project
from dbt_bridge.run.plan import make_plan, print_plan

YAML = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: nowhere, schema: public, tables: "*", exclude: [tmp_*]}}}
    tables:
      - name: orders
        config: {meta: {bridge: {replication: incremental, cursor: updated_at, lag: 5 minutes, primary_key: id}}}
models:
  - name: mart
    columns: [{name: id, data_tests: [unique]}]
    config:
      meta:
        bridge:
          reconcile:
            - {origin: old, relation: public.mart, required: true}
            - {origin: old, metrics: [{name: total, legacy: select 1, new: select 1}]}
exposures:
  - name: crm
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('mart')]
    config:
      meta: {bridge: {destination: crm_pg, schema: crm, table: people, write_disposition: merge, primary_key: id}}
"""


@pytest.fixture
def root(dbt_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (dbt_root / "models" / "all.yml").write_text(YAML)
    (dbt_root / "models" / "stg.sql").write_text("select 1 as id from {{ source('shop', 'orders') }}")
    (dbt_root / "models" / "mart.sql").write_text("{{ config(materialized='table') }} select id from {{ ref('stg') }}")
    monkeypatch.chdir(dbt_root)
    return dbt_root


def test_the_plan_is_a_tree_in_order_and_touches_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_command(["plan"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "dbt-bridge build: shop",
        "├── 1. land 1 table, and all others of 1 schema",
        "│   ├── nowhere: public.orders -> duckdb: landing.orders "
        "(incremental; from cursor updated_at with lag 300; merge by the origin's key, append without one; key id)",
        "│   └── nowhere: public.* -> duckdb: landing.* (initial copy; without tmp_*)",
        "├── 2. dbt build: 2 nodes",
        "│   ├── model stg (view)",
        "│   └── model mart (table), then 1 test",
        "├── 3. reconcile 1 model",
        "│   └── mart: against old: public.mart (rows)",
        "├── 4. deliver 1 exposure",
        "│   └── crm: mart -> crm_pg: crm.people (merge by id; when 2 nodes and 1 test pass)",
        "└── only with dbt-bridge reconcile",
        "    └── mart: against old: metrics total",
    ]
    assert not (root / "warehouse.duckdb").exists()

    assert run_command(["plan", "--select", "mart", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["landings"] == []
    assert [node["unique_id"] for node in plan["nodes"]] == ["model.shop.mart"]
    assert plan["deliveries"] == []
    assert [one["required"] for one in plan["reconciliations"]] == [True, False]


def test_a_selection_of_nothing_is_told_with_how_to_select(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "--select", "orders"]) == 2
    told = capsys.readouterr().err
    assert "--select orders selects nothing\n  -> did you mean source:shop.orders?" in told


def test_a_narrow_terminal_shows_every_word(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "50")
    out = Terminal()
    print_plan(make_plan(load_project(DbtOptions(project_dir=root))), out)
    words = {word for line in out.getvalue().splitlines() for word in line.split()}
    assert "(merge" in words
    assert "pass)" in words
