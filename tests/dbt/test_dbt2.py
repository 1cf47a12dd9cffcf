"""dbt 2, where it is installed: the same project read by it and by dbt 1; built where DuckDB's driver is there."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.project.test_graph import FILES

from dbt_bridge.cli import run_command
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project import invoke
from dbt_bridge.project.load import load_project
from dbt_bridge.project.runners.python_models import refuse_python_models

DBT2 = os.environ.get("DBT_BRIDGE_TEST_DBT2", "")
"""The command of dbt 2: `make dbt2` installs it as build/dbt2/bin/dbt."""

LIBDUCKDB = os.environ.get("DBT_BRIDGE_TEST_LIBDUCKDB", "")
"""libduckdb.so, which dbt 2 else downloads; npm has it in @duckdb/node-bindings-linux-x64."""

pytestmark = pytest.mark.skipif(not DBT2, reason="DBT_BRIDGE_TEST_DBT2 names no dbt 2 (make dbt2 installs one)")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DbtOptions:
    monkeypatch.setenv("DBT_SEND_ANONYMOUS_USAGE_STATS", "false")
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return DbtOptions(project_dir=tmp_path, profiles_dir=tmp_path, dbt=DBT2)


def test_dbt_2_reads_what_dbt_1_reads(shop: DbtOptions) -> None:
    two, one = load_project(shop), load_project(replace(shop, dbt=None))
    assert two.graph.dbt_version.startswith("2.")
    kinds = ("model", "source", "exposure", "seed", "snapshot")
    for node in one.graph.list_nodes(*kinds):
        other = two.graph.nodes[node.unique_id]
        for field in (
            "kind",
            "name",
            "database",
            "schema",
            "identifier",
            "materialized",
            "tags",
            "meta",
            "source_meta",
        ):
            assert getattr(other, field) == getattr(node, field), (node.unique_id, field)
        assert set(other.depends_on) == set(node.depends_on)
    assert {n.unique_id for n in two.graph.list_nodes(*kinds)} == {n.unique_id for n in one.graph.list_nodes(*kinds)}
    assert (two.sources, two.deliveries, two.warehouse) == (one.sources, one.deliveries, one.warehouse)
    assert two.graph.bare_sources == one.graph.bare_sources
    assert not (shop.project_dir / "target" / "manifest.json").exists()


def test_selections_plans_and_faults_are_as_with_dbt_1(shop: DbtOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        load_project(replace(shop, select=("+orders",))).selected
        == load_project(replace(shop, select=("+orders",), dbt=None)).selected
    )
    assert run_command(["plan", "--dbt", DBT2]) == 0
    assert "model orders" in capsys.readouterr().out
    (shop.project_dir / "models" / "wrong.sql").write_text("select * from {{ ref('nowhere') }}")
    with pytest.raises(UsageError, match=r"dbt cannot parse the project: .*nowhere"):
        load_project(shop)


def test_python_models_are_refused_before_anything_moves(shop: DbtOptions) -> None:
    code = "def model(dbt, session):\n    return dbt.ref('orders')\n"
    (shop.project_dir / "models" / "loaded.py").write_text(code)
    with pytest.raises(UsageError, match=r"runs no Python models on duckdb.*: loaded") as refused:
        refuse_python_models(load_project(shop))
    assert refused.value.mend.endswith("--exclude loaded")
    refuse_python_models(load_project(replace(shop, dbt=None)))


@pytest.mark.skipif(not LIBDUCKDB, reason="DBT_BRIDGE_TEST_LIBDUCKDB names no libduckdb.so for dbt 2 to build with")
def test_dbt_2_builds(dbt_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drivers").mkdir()
    place = shutil.copy(LIBDUCKDB, tmp_path / "drivers")
    (tmp_path / "drivers" / "duckdb.toml").write_text(
        f'[Driver]\nentrypoint = "duckdb_adbc_init"\n[Driver.shared]\nlinux_amd64 = "{place}"\n'
    )
    monkeypatch.setenv("ADBC_DRIVER_PATH", str(tmp_path / "drivers"))
    (dbt_root / "models" / "good.sql").write_text("{{ config(materialized='table') }} select 1 as id")
    (dbt_root / "models" / "bad.sql").write_text("{{ config(materialized='table') }} select * from nowhere")
    built = invoke.build(DbtOptions(dbt_root, profiles_dir=dbt_root, dbt=DBT2), quiet=True)
    assert {node.unique_id: node.status for node in built.nodes} == {
        "model.shop.good": "success",
        "model.shop.bad": "error",
    }
    assert (built.success, bool(built.invocation_id)) == (False, True)
