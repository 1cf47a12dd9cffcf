"""What the project itself remembers of builds: before dbt runs, after it, and of runs that somebody else started."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.projects import Rows, dbt_result

from dbt_bridge import open_project
from dbt_bridge.deliver.build_record import read_records, take_back
from dbt_bridge.deliver.dbt_runs import adopt_run
from dbt_bridge.deliver.tested_rows import find_change
from dbt_bridge.errors import DbtFailed, UsageError
from dbt_bridge.nouns.graph import Graph, Node
from dbt_bridge.nouns.node_record import NodeRecord
from dbt_bridge.nouns.project import DbtOptions, Delivery, Project, WarehouseProfile
from dbt_bridge.nouns.table import Relation
from dbt_bridge.observe.stream_progress import as_watch
from dbt_bridge.project import invoke
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.project.places import digest_place, remember_place
from dbt_bridge.project.run_results import DbtRun, RanNode
from dbt_bridge.run.recorded_build import read_known, run_recorded
from dbt_bridge.run.stream import make_rebuild

MODEL, TEST, OTHER = "model.shop.dim", "test.shop.unique_dim_id.abc", "model.shop.other"
HOOK = "operation.shop.end"
RELATION = '"wh"."dev"."dim"'
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
OUT = Delivery(
    node="exposure.shop.crm",
    name="crm",
    model=MODEL,
    relation=Relation("main", "dim"),
    ancestors=frozenset({MODEL, OTHER}),
    gates=frozenset({TEST}),
    destination="crm_pg",
    schema="crm",
    table="dim",
    write_disposition="replace",
)
GRAPH = Graph(
    "shop",
    "duckdb",
    "1.11",
    {
        MODEL: Node(MODEL, "model", "dim", "shop", "dim.sql", relation_name=RELATION, materialized="table",
                    depends_on=(OTHER,)),
        OTHER: Node(OTHER, "model", "other", "shop", "other.sql", relation_name='"wh"."dev"."other"',
                    materialized="table"),
        TEST: Node(TEST, "test", "unique_dim_id", "shop", "dim.yml", depends_on=(MODEL,), attached_node=MODEL),
    },
)  # fmt: skip
DEV = Project(
    Path("shop"), "shop", WarehouseProfile("duckdb", "wh", "dev", 1, {}), (), (OUT,), graph=GRAPH, profile="shop",
    target="dev",
)  # fmt: skip


def record(node: str, status: str = "success", *, minutes: int = 0, **more: Any) -> NodeRecord:
    began = NOON + timedelta(minutes=minutes)
    made = NodeRecord(node, "shop", "shop", "dev", "wh.dev", "", status, "dbt-bridge build", "1", "one", began, began)
    return replace(made, **more)


def run(command: str = "build", *nodes: RanNode, **more: Any) -> DbtRun:
    """A run of dbt's own, five minutes after noon; of the model and its test where no others are named."""
    return replace(DbtRun(command, "two", None, None, None, False, nodes or (ran(MODEL), ran(TEST, "pass"))), **more)


def ran(node: str, status: str = "success", minutes: int = 5, sql: str = f"from {RELATION}") -> RanNode:
    at = NOON + timedelta(minutes=minutes)
    relation = GRAPH.nodes[node].relation_name if node in GRAPH.nodes else ""
    return RanNode(node, status, "", relation, "" if relation else sql, at, at)


def adopted(found: DbtRun, project: Project = DEV, *known: NodeRecord) -> dict[str, str]:
    before = {one.node: one for one in known}
    return {node: one.status for node, one in adopt_run(found, project, known, before).items()}


@pytest.fixture(autouse=True)
def _no_target_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DBT_TARGET", "DBT_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", ["compile", "generate", "show", "list", "parse", "freshness", "run-operation", ""])
def test_a_command_that_ran_nothing_says_nothing(command: str) -> None:
    assert adopted(run(command)) == {}


@pytest.mark.parametrize("command", ["build", "run", "test", "seed", "snapshot", "retry"])
def test_a_command_that_ran_nodes_is_heard(command: str) -> None:
    assert adopted(run(command)) == {MODEL: "success", TEST: "pass"}


def test_a_clone_is_rows_that_nobody_tested() -> None:
    assert adopted(run("clone", ran(MODEL), replace(ran(OTHER), message="No-op"))) == {MODEL: "cloned, and not tested"}


def test_only_what_is_newer_and_not_known_already_counts() -> None:
    assert adopted(run(), DEV, record(MODEL, minutes=9), record(TEST, "fail", minutes=3)) == {TEST: "pass"}
    assert adopted(run(invocation_id="one"), DEV, record(OTHER)) == {}, "that run is in the record already"


def test_a_run_of_another_place_says_nothing() -> None:
    assert adopted(run(target="prod")) == {}
    assert adopted(run(target="dev")) == {MODEL: "success", TEST: "pass"}
    named = replace(DEV, options=DbtOptions(target="dev"))
    assert adopted(run(), named) == {}, "which target dbt took by default is not known"
    assert adopted(run(target="dev"), named) == {MODEL: "success", TEST: "pass"}
    assert adopted(run(target="dev", profile="other"), named) == {}


def test_a_node_of_another_relation_says_nothing() -> None:
    elsewhere = 'from "wh"."prod"."dim"'
    built = replace(ran(MODEL), relation='"wh"."prod"."dim"')
    assert adopted(run("build", built, ran(TEST, "pass", sql=elsewhere))) == {}
    assert adopted(run("build", ran("model.shop.gone"))) == {}
    assert adopted(run("test", ran(TEST, "fail", sql=elsewhere))) == {TEST: "fail"}, "a failure is never forgotten"


@pytest.mark.parametrize(("said", "expected"), [(None, {}), ("here", {MODEL: "success", TEST: "pass"})])
def test_a_run_counts_in_the_warehouse_that_dbts_plugin_wrote_down(
    tmp_path: Path, said: str | None, expected: dict[str, str]
) -> None:
    here = replace(DEV, target_path=tmp_path, options=DbtOptions(target="dev"))
    other = replace(DEV.warehouse, credentials={"path": "/elsewhere/wh.duckdb"})
    remember_place(tmp_path, "two", digest_place("shop", "dev", DEV.warehouse if said else other))
    assert adopted(run(), here) == expected, "whatever target dbt took by default"


@pytest.mark.parametrize(
    ("output", "elsewhere"),
    [
        ("type: postgres, host: db, dbname: wh, password: \"{{ env_var('SECRET') }}\"", False),
        ("type: postgres, host: \"{{ env_var('HOST') }}\", dbname: wh", True),
        ("type: duckdb, path: /var/wh.duckdb", False),
        ("type: duckdb, path: wh.duckdb", True),
        ("type: duckdb, path: /var/wh.duckdb, attach: [{path: \"{{ env_var('RAW') }}\"}]", True),
        ("type: duckdb, path: /var/wh.duckdb, attach: [{path: raw.duckdb}]", True),
    ],
)
def test_names_that_may_mean_another_warehouse_prove_nothing(tmp_path: Path, output: str, *, elsewhere: bool) -> None:
    """Without the plugin: dbt of another environment, or dbt 2."""
    (tmp_path / "profiles.yml").write_text(f"shop: {{target: dev, outputs: {{dev: {{{output}}}}}}}")
    here = replace(DEV, target_path=tmp_path, options=DbtOptions(profiles_dir=tmp_path))
    found = adopted(run(), here)
    if not elsewhere:
        assert found == {MODEL: "success", TEST: "pass"}
        return
    assert found[MODEL].startswith("success, but dbt does not say in which warehouse")
    assert adopted(run(), here, record(MODEL), record(TEST, "pass")) == {}, "what is known here stays"
    failed = run("build", ran(MODEL, "error"), ran("operation.shop.end"))
    assert adopted(failed, here, record(MODEL)) == {MODEL: "error"}, "a failure is never forgotten"


def test_a_macro_that_leads_elsewhere_is_no_success() -> None:
    led = replace(DEV, graph=replace(GRAPH, overrides=frozenset({"ref"})))
    right = replace(ran(MODEL), sql='select * from "wh"."dev"."other"')
    assert adopted(run("build", right), led) == {MODEL: "success"}
    found = adopted(run("build", replace(right, sql="select * from prod.other")), led)
    assert found[MODEL].startswith("error: model.shop.dim does not read dev.other")


def test_a_hook_is_remembered_as_it_ended() -> None:
    hook = Node(HOOK, "operation", "end", "shop", "", tags=("on-run-end",))
    hooked = replace(DEV, graph=replace(GRAPH, nodes={**GRAPH.nodes, HOOK: hook}))
    failed = RanNode(HOOK, "error", "", "", "", NOON, NOON)
    assert adopted(run("run", failed), hooked) == {HOOK: "error"}


def test_a_run_without_the_real_rows_is_no_success() -> None:
    found = adopted(run(partial="--empty"))
    assert found[MODEL] == "success, but dbt ran with --empty: dbt-bridge build, without --empty and DBT_EMPTY"
    assert found[TEST].startswith("pass, but dbt ran with --empty")


def test_what_read_a_model_of_another_place_is_no_success() -> None:
    deferred = take_back({MODEL: record(MODEL), TEST: record(TEST, "pass")}, None, GRAPH)
    assert deferred[MODEL].status == "success, but with --defer it may have read another other"
    assert deferred[TEST].status == "pass"
    unit = {"unit_test.shop.dim.adds": record("unit_test.shop.dim.adds", "pass")}
    assert take_back(unit, None, GRAPH) == take_back(unit, "--empty", None) == unit, "its rows are written in it"
    everything = {node: record(node) for node in (MODEL, OTHER, TEST)}
    assert take_back(everything, None, GRAPH) == everything, "all was built here"


@pytest.fixture(params=["duckdb", "postgres"])
def shop(request: pytest.FixtureRequest) -> Project:
    if request.param == "duckdb":
        project: Project = request.getfixturevalue("project")
    else:
        project = request.getfixturevalue("there")[0]
    return replace(project, deliveries=(OUT,), graph=GRAPH, profile="shop", target="dev", target_path=project.root)


def test_a_build_is_unfinished_until_it_has_ended(shop: Project) -> None:
    statuses = {MODEL: "success", OTHER: "success", TEST: "pass"}

    def fail() -> Any:
        there = {node: one.status for node, one in read_known(shop).items()}
        assert there == dict.fromkeys(statuses, "unfinished"), "a kill would leave this"
        raise DbtFailed("the warehouse is gone")

    with pytest.raises(UsageError, match="nothing is known of a build of shop") as unknown:
        read_known(shop)
    assert unknown.value.mend == "dbt-bridge build"
    with pytest.raises(DbtFailed):
        run_recorded(shop, fail, "1")
    assert {one.status for one in read_known(shop).values()} == {"unfinished"}

    _, known = run_recorded(shop, lambda: dbt_result(statuses), "2")
    assert read_known(shop) == known
    assert {node: (one.status, one.build_id) for node, one in known.items()} == {
        node: (status, "2") for node, status in statuses.items()
    }

    some = replace(shop, selected=frozenset({MODEL, TEST}))
    _, known = run_recorded(some, lambda: dbt_result({MODEL: "error"}), "3")
    assert {node: (one.status, one.build_id) for node, one in read_known(shop).items()} == {
        MODEL: ("error", "3"),
        OTHER: ("success", "2"),
        TEST: ("pass", "2"),
    }, "what dbt did not reach is as it was"


def test_each_place_has_a_memory_of_its_own(shop: Project) -> None:
    run_recorded(shop, lambda: dbt_result({MODEL: "success"}), "1")
    neighbour = replace(shop, warehouse=replace(shop.warehouse, schema="dbt_bob"))
    for other in (replace(shop, target="prod"), replace(shop, profile="other"), replace(shop, name="erp"), neighbour):
        with pytest.raises(UsageError, match="nothing is known"):
            read_known(other)


def test_a_project_that_delivers_nothing_keeps_no_record(
    project: Project, landed: Callable[[str], Rows], warehouse_file: Path
) -> None:
    assert run_recorded(project, lambda: dbt_result({MODEL: "success"}), "1")[1] == {}
    assert not warehouse_file.exists()


@pytest.fixture
def filled(shop: Project, request: pytest.FixtureRequest) -> tuple[Project, Callable[[str], object]]:
    """A warehouse with the model `main.dim`, and what changes it."""
    if shop.warehouse.adapter == "postgres":
        ask = request.getfixturevalue("there")[1]
        ask("CREATE SCHEMA main")
    else:
        file = request.getfixturevalue("warehouse_file")

        def ask(statement: str) -> object:
            with duckdb.connect(str(file)) as connection:
                return connection.execute(statement).fetchall()

    ask("CREATE TABLE main.dim AS SELECT 1 AS id, cast('a' as varchar(9)) AS name")
    ask("INSERT INTO main.dim VALUES (2, 'b'), (3, NULL)")
    return shop, ask


def test_rows_that_changed_unseen_are_not_those_that_were_tested(
    filled: tuple[Project, Callable[[str], object]],
) -> None:
    shop, ask = filled
    models_alone = replace(shop, selected=frozenset({MODEL, OTHER, TEST}))
    run_recorded(models_alone, lambda: dbt_result({MODEL: "success", OTHER: "success", TEST: "pass"}), "1")

    def found() -> str | None:
        with closing(open_warehouse(shop.warehouse, project_root=shop.root)) as warehouse:
            return find_change(OUT, read_records_of(warehouse), warehouse)

    def read_records_of(warehouse: Any) -> dict[str, NodeRecord]:
        return {one.node: one for one in read_records(warehouse)}

    assert found() is None
    ask("CREATE TABLE main.again AS SELECT * FROM main.dim ORDER BY id DESC")
    ask("DROP TABLE main.dim")
    ask("ALTER TABLE main.again RENAME TO dim")
    assert found() is None, "the same rows, in whatever order"
    for change in ("UPDATE main.dim SET name = 'c' WHERE id = 3", "INSERT INTO main.dim SELECT * FROM main.dim"):
        ask(change)
        assert "model dim holds other rows than those that were built and tested" in (found() or "")


def test_what_a_stream_builds_is_tied_to_its_rows(
    filled: tuple[Project, Callable[[str], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "source.shop.raw.rows"
    nodes = {
        **GRAPH.nodes,
        source: Node(source, "source", "rows", "shop", "raw.yml", source_name="raw"),
        MODEL: replace(GRAPH.nodes[MODEL], depends_on=(source,)),
    }
    delivery = replace(OUT, ancestors=frozenset({MODEL}))
    followed = replace(filled[0], graph=replace(GRAPH, nodes=nodes), deliveries=(delivery,))
    monkeypatch.setattr(invoke, "build", lambda *_, **__: dbt_result({MODEL: "success", TEST: "pass"}))
    assert make_rebuild(followed, as_watch(None))(frozenset({source}))
    assert read_known(followed, keep=False)[MODEL].fingerprint.startswith("3:")


MODELS = {
    "dim.sql": "{{ config(materialized='table') }} select 1 as id, {{ var('name', \"'a'\") }} as name",
    "all.yml": """
models: [{name: dim, columns: [{name: name, data_tests: [not_null]}]}]
exposures:
  - name: crm
    type: application
    owner: {name: growth}
    depends_on: [ref('dim')]
    config: {meta: {bridge: {destination: out, schema: crm, write_disposition: replace}}}
""",
}


def test_dbts_own_commands_after_a_build(dbt_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One story, as every command of dbt takes seconds."""
    from dbt.cli.main import dbtRunner

    monkeypatch.setenv("DESTINATION__OUT__DESTINATION_TYPE", "duckdb")
    monkeypatch.setenv("DESTINATION__OUT__CREDENTIALS", str(dbt_root / "out.duckdb"))
    for name, text in MODELS.items():
        (dbt_root / "models" / name).write_text(text)
    (other := dbt_root / "other").mkdir()
    monkeypatch.setenv("WAREHOUSE", str(dbt_root / "warehouse.duckdb"))
    profiles = dbt_root / "profiles.yml"
    profiles.write_text(profiles.read_text().replace(str(dbt_root / "warehouse.duckdb"), "{{ env_var('WAREHOUSE') }}"))
    shop = open_project(dbt_root, profiles_dir=dbt_root, target_path="elsewhere")

    def dbt(*arguments: str) -> None:
        from dbt_bridge.project.runners.module import _release_duckdb

        where = ["--project-dir", str(dbt_root), "--profiles-dir", str(dbt_root), "--target-path", "elsewhere"]
        dbtRunner().invoke([*arguments, "--quiet", *where])
        _release_duckdb()

    def delivered() -> str:
        (receipt,) = shop.deliver().receipts
        return receipt.error or receipt.status

    with pytest.raises(UsageError, match="nothing is known"):
        shop.deliver()
    dbt("build")
    with monkeypatch.context() as elsewhere, pytest.raises(UsageError, match="nothing is known"):
        elsewhere.setenv("WAREHOUSE", str(other / "warehouse.duckdb"))
        shop.deliver()
    assert delivered() == "success", "a plain dbt build is enough"
    dbt("run", "--vars", json.dumps({"name": "cast(null as text)"}))
    assert "model dim was built again (dbt run, " in delivered()
    dbt("compile")
    assert "model dim was built again (dbt run, " in delivered(), "it was seen before"
    dbt("test")
    assert "test not_null_dim_name: fail" in delivered()
    outcome = shop.build()
    assert [receipt.status for receipt in outcome.receipts] == ["success"]
    dbt("run", "--vars", json.dumps({"name": "'b'"}))
    dbt("docs", "generate")
    assert "model dim holds other rows than those that were built and tested (dbt-bridge build, " in delivered()
