"""`dbt build` in this process: what it answers, where it prints, what it leaves open."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbt_bridge.errors import BridgeError, DbtFailed, UsageError
from dbt_bridge.nouns.project import DbtOptions, Project
from dbt_bridge.project import invoke
from dbt_bridge.project.load import load_project
from dbt_bridge.project.runners import module

MODELS = {
    "good.sql": "select 1 as id",
    "broken.sql": "select * from no_such_table",
    "child.sql": "select * from {{ ref('broken') }}",
    "all.yml": "models: [{name: good, columns: [{name: id, data_tests: [unique, {accepted_values: "
    "{arguments: {values: [2]}, config: {severity: warn}}}]}]}]",
}


@pytest.fixture
def project(dbt_root: Path) -> Project:
    for name, text in MODELS.items():
        (dbt_root / "models" / name).write_text(text)
    return load_project(DbtOptions(dbt_root, profiles_dir=dbt_root))


def test_each_node_has_its_status_and_the_file_is_free_afterwards(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with redirect_stdout(sys.stderr):  # as the command line does with --json
        built = invoke.build(project.options)
    captured = capsys.readouterr()

    assert not built.success
    statuses = built.statuses
    assert statuses["model.shop.good"] == "success"
    assert statuses["model.shop.broken"] == "error"
    assert statuses["model.shop.child"] == "skipped"
    assert {status for node, status in statuses.items() if node.startswith("test.")} == {"pass", "warn"}
    message = next(node.message for node in built.nodes if node.unique_id == "model.shop.broken")
    assert message is not None
    assert "no_such_table" in message

    assert captured.out == "", "standard output is the JSON document's"
    assert "model main.good" in captured.err

    with duckdb.connect(str(project.root / "warehouse.duckdb"), config={"threads": 1}) as connection:
        assert connection.execute("select id from main.good").fetchall() == [(1,)]

    assert invoke.read_last_statuses(project)["model.shop.broken"] == "error"


def test_a_selection_of_what_works_succeeds_and_one_of_nothing_too(project: Project) -> None:
    good = replace(project.options, select=("good",), exclude=("test_type:data",))
    assert invoke.build(good).statuses == {"model.shop.good": "success"}
    nothing = replace(project.options, select=("source:none",))
    assert invoke.build(nothing) == invoke.BuildResult(True, ())


@pytest.mark.parametrize("name", ["empty", "sample"])
def test_a_run_without_the_real_rows_is_no_success_for_a_delivery(
    project: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dbt takes both options from its environment too, where `dbt-bridge build` does not see them."""
    monkeypatch.setenv(f"DBT_{name.upper()}", {"empty": "true", "sample": "3 days"}[name])
    good = replace(project.options, select=("good",), exclude=("test_type:data",))
    built = invoke.build(good)
    assert built.nodes[0].status == "success"
    for statuses in (built.statuses, invoke.read_last_statuses(project)):
        assert statuses["model.shop.good"].startswith(f"success, but dbt ran with --{name}: dbt-bridge build")


def test_a_file_of_results_that_was_cut_off_is_said(project: Project) -> None:
    file = project.root / "target" / "run_results.json"
    file.write_text('{"results": [')
    with pytest.raises(UsageError, match=r"run_results\.json is not what dbt writes"):
        invoke.read_last_statuses(project)


def test_before_any_run_nothing_is_known(project: Project) -> None:
    with pytest.raises(UsageError, match="has not run") as refused:
        invoke.read_last_statuses(project)
    assert refused.value.mend == "dbt-bridge build"


def test_a_warehouse_that_is_locked_is_said(project: Project) -> None:
    held = duckdb.connect(str(project.root / "warehouse.duckdb"), config={"threads": 1})
    try:
        with pytest.raises(DbtFailed, match="different configuration") as failed:
            invoke.build(project.options)
    finally:
        held.close()
    assert "dbt.log" in failed.value.mend


def test_two_runs_at_once_are_refused(project: Project) -> None:
    with module._ONE_AT_A_TIME, pytest.raises(BridgeError, match="already running"):
        invoke.build(project.options)
