"""`dbt build` by both runners: what it answers, where it prints, what it leaves open."""

from __future__ import annotations

import io
import os
import signal
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
from dbt_bridge.project.runners import command, module
from dbt_bridge.project.runners.failures import describe_parse_failure

MODELS = {
    "good.sql": "select 1 as id",
    "broken.sql": "select * from no_such_table",
    "child.sql": "select * from {{ ref('broken') }}",
    "all.yml": "models: [{name: good, columns: [{name: id, data_tests: [unique, {accepted_values: "
    "{arguments: {values: [2]}, config: {severity: warn}}}]}]}]",
}


@pytest.fixture
def project(each_dbt: str, dbt_root: Path) -> Project:
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
        with pytest.raises(DbtFailed, match=r"different configuration|Conflicting lock") as failed:
            invoke.build(project.options)
    finally:
        held.close()
    assert "dbt.log" in failed.value.mend


def test_two_runs_at_once_are_refused(dbt_root: Path) -> None:
    with module._ONE_AT_A_TIME, pytest.raises(BridgeError, match="already running"):
        invoke.build(DbtOptions(dbt_root, profiles_dir=dbt_root))


ENDLESS = """{{ config(materialized="table") }}
select sum(a.range * b.range) as id from range(10000000) as a, range(10000000) as b"""


def test_an_interrupted_dbt_has_ended_before_the_error_goes_on(
    dbt_root: Path, warm_commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dbt_root / "models" / "endless.sql").write_text(ENDLESS)

    monkeypatch.setattr(command, "_SECONDS_TO_END", 2.0)  # dbt itself waits for a query of DuckDB that has begun

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            if "START" in text:  # as Ctrl-C would, while the model runs
                raise KeyboardInterrupt
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        invoke.build(DbtOptions(dbt_root, profiles_dir=dbt_root, dbt=str(warm_commands / "dbt")))
    with duckdb.connect(str(dbt_root / "warehouse.duckdb")) as connection:
        assert connection.execute("select count(*) from duckdb_tables() where table_name = 'endless'").fetchone() == (
            0,
        )


def test_a_dbt_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SECONDS_TO_END", 0.1)
    monkeypatch.setattr(command, "_SECONDS_TO_DIE", 0.1)
    deaf = "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\n"
    deaf += "print('up', flush=True)\ntime.sleep(999)"
    with pytest.raises(KeyboardInterrupt), command._started([sys.executable, "-c", deaf], os.environ) as (process, _):
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL


def test_a_dbt_that_is_not_there_is_said(dbt_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no dbt command /nowhere/dbt"):
        load_project(DbtOptions(dbt_root, profiles_dir=dbt_root, dbt="/nowhere/dbt"))
    monkeypatch.setattr(invoke, "has_module", lambda: False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="no dbt command is on PATH") as refused:
        load_project(DbtOptions(dbt_root, profiles_dir=dbt_root))
    assert "pip install dbt-core dbt-duckdb" in refused.value.mend


def test_what_dbt_refuses_is_said_in_the_same_words(each_dbt: str, dbt_root: Path) -> None:
    (dbt_root / "models" / "wrong.sql").write_text("select * from {{ ref('nowhere') }}")
    options = DbtOptions(dbt_root, profiles_dir=dbt_root)
    with pytest.raises(UsageError, match=r"dbt cannot parse the project: .*depends on a node named 'nowhere'"):
        load_project(options)
    (dbt_root / "models" / "wrong.sql").write_text("select 1 as id")
    with pytest.raises(UsageError, match=r"dbt does not understand the selection: .*no_method") as refused:
        load_project(replace(options, select=("no_method:x",)))
    assert refused.value.mend == "try it: dbt ls --select no_method:x"
    (dbt_root / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: nobase}}}")
    with pytest.raises(UsageError, match="no adapter of the profile's type nobase"):
        load_project(options)


@pytest.mark.parametrize(("adapter", "package"), [("snowflake", "dbt-snowflake>="), ("databricks", "dbt-databricks")])
def test_an_adapter_that_is_absent_is_told_before_anything_is_touched(adapter: str, package: str) -> None:
    said = f"Runtime Error Credentials in profile invalid: Could not find adapter type {adapter}!"
    refused = describe_parse_failure(said, DbtOptions(Path()))
    assert isinstance(refused, UsageError), "exit code 2"
    assert adapter in refused.what and package in refused.mend
