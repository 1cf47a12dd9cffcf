"""`dbt build` in this process: what it answers, where it prints, what it leaves open."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from dbt_bridge.errors import BridgeError, DbtFailed, UsageError
from dbt_bridge.nouns.project import DbtOptions, Project
from dbt_bridge.project import invoke
from dbt_bridge.project.load import load_project
from dbt_bridge.project.run_results import read_last_run
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
    statuses = {node.unique_id: node.status for node in built.nodes}
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

    good = next(node for node in built.nodes if node.unique_id == "model.shop.good")
    assert good.relation_name == '"warehouse"."main"."good"'
    assert good.completed_at is not None and abs(datetime.now(UTC) - good.completed_at) < timedelta(minutes=10)
    run = read_last_run(project.target_path)
    assert run is not None
    assert (run.command, run.invocation_id, run.target) == ("build", built.invocation_id, None)
    there = {node.unique_id: (node.status, node.relation, node.finished_at) for node in run.nodes}
    assert there["model.shop.good"] == ("success", good.relation_name, good.completed_at)


def test_a_selection_of_what_works_succeeds_and_one_of_nothing_too(project: Project) -> None:
    good = replace(project.options, select=("good",), exclude=("test_type:data",))
    assert [node.unique_id for node in invoke.build(good).nodes] == ["model.shop.good"]
    nothing = replace(project.options, select=("source:none",))
    built = invoke.build(nothing)
    assert (built.success, built.nodes) == (True, ())


@pytest.mark.parametrize("name", ["empty", "sample"])
def test_a_run_without_the_real_rows_is_no_success_for_a_delivery(
    project: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dbt takes both options from its environment too, where `dbt-bridge build` does not see them."""
    monkeypatch.setenv(f"DBT_{name.upper()}", {"empty": "true", "sample": "3 days"}[name])
    good = replace(project.options, select=("good",), exclude=("test_type:data",))
    built = invoke.build(good)
    run = read_last_run(project.target_path)
    assert built.nodes[0].status == "success"
    assert run is not None
    assert built.partial == run.partial == f"--{name}"


def test_a_file_of_results_that_was_cut_off_is_said(project: Project) -> None:
    file = project.root / "target" / "run_results.json"
    assert read_last_run(project.target_path) is None, "nothing has run"
    for text in ('{"results": [', "[]", "{}"):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"run_results\.json is not what dbt writes"):
            read_last_run(project.target_path)


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
