"""A Python model may name a source that has not landed: lineage is there, and reading it fails, not 0 rows."""

from __future__ import annotations

import json

import duckdb
import pytest

SOURCES = """
sources:
  - name: postgres_prod
    schema: pg_landing
    config: {meta: {bridge: {origin: pg}}}
    tables:
      - name: users
        columns: [{name: id}, {name: 'e "mail'}]
"""
NOT_READ = "users = dbt.source('postgres_prod', 'users')\nreturn session.sql('select 7 as n')"
READ = "return dbt.source('postgres_prod', 'users').df()"


@pytest.fixture
def ghosts(project):
    project.write("models/sources.yml", SOURCES)
    return project


def test_a_model_that_names_a_source_builds_and_its_lineage_is_in_the_manifest(ghosts):
    ghosts.model("m", NOT_READ)
    run = ghosts.dbt("run")
    assert run.code == 0, run.output
    assert ghosts.query("from m") == [(7,)]
    assert ghosts.manifest()["parent_map"]["model.shop.m"] == ["source.shop.postgres_prod.users"]


@pytest.mark.parametrize("read", ["users.df()", "users.count('*').fetchall()", "users.arrow()", "users"])
def test_reading_a_source_that_has_not_landed_fails_its_model_and_names_the_command(ghosts, read):
    ghosts.model("m", f"users = dbt.source('postgres_prod', 'users')\nx = {read}\nreturn x")
    ghosts.write("models/child.sql", "select * from {{ ref('m') }}")
    run = ghosts.dbt("run")
    assert run.code == 1
    assert "the source postgres_prod.users has not landed in pg_landing.users" in run.output
    assert "dbt-bridge sync --select source:postgres_prod.users" in run.output
    assert "SKIP=1" in run.output


def test_after_its_rows_landed_the_source_is_read(ghosts):
    ghosts.model("m", READ)
    assert ghosts.dbt("run").code == 1
    ghosts.query("create table pg_landing.users as select 1 as id")
    run = ghosts.dbt("run")  # parsed partially this time
    assert run.code == 0, run.output
    assert ghosts.query("from m") == [(1,)]
    ghosts.query("delete from pg_landing.users")
    assert ghosts.dbt("run").code == 0
    assert ghosts.query("from m") == []


def test_no_view_stays_behind_in_the_warehouse(ghosts):
    ghosts.model("m", NOT_READ)
    assert ghosts.dbt("run").code == 0
    assert ghosts.query("select view_name from duckdb_views() where not internal") == []


def test_a_hostile_name_is_only_a_name(ghosts):
    ghosts.write("models/sources.yml", SOURCES + "      - name: it's; drop schema main\n")
    ghosts.model("m", "dbt.source('postgres_prod', \"it's; drop schema main\")\nreturn session.sql('select 7 as n')")
    run = ghosts.dbt("run")
    assert run.code == 0, run.output
    assert ghosts.query("from m") == [(7,)]


def test_transfer_of_a_ghost_raises_and_a_source_without_bridge_counts_when_the_model_uses_dbt_bridge(ghosts):
    ghosts.write("models/sources.yml", "sources: [{name: crm, schema: crm_landing, tables: [{name: leads}]}]")
    ghosts.model(
        "m",
        "leads = dbt.source('crm', 'leads')\n"
        "return dbt_bridge.transfer(dbt=dbt, source_data=leads, target_destination='duckdb', dataset_name='out', "
        "table_name='leads')",
    )
    run = ghosts.dbt("run")
    assert run.code == 1
    assert "the source crm.leads has not landed" in run.output
    assert ghosts.query("select table_name from duckdb_tables() where schema_name = 'out'") == []


def test_projects_without_such_models_are_not_touched(ghosts):
    ghosts.write("models/plain.sql", "select 1 as n")
    ghosts.write("models/plain_python.py", "def model(dbt, session):\n    return session.sql('select 1 as n')\n")
    run = ghosts.dbt("run")
    assert run.code == 0, run.output
    assert "START hook" not in run.output
    assert ghosts.query("select 1 from information_schema.schemata where schema_name = 'pg_landing'") == []


def test_a_source_of_an_attached_database_is_a_ghost_there(ghosts):
    other = ghosts.root / "other.duckdb"
    ghosts.profile(attach=[{"path": str(other), "alias": "other"}])
    there = SOURCES.replace("postgres_prod", "pg_there").replace(
        "schema: pg_landing", "schema: pg_landing\n    database: other"
    )
    ghosts.write("models/there.yml", there)
    ghosts.model("m", NOT_READ + "\n")
    ghosts.model("n", READ.replace("postgres_prod", "pg_there"))
    run = ghosts.dbt("run")
    assert run.code == 1
    assert "the source pg_there.users has not landed in pg_landing.users" in run.output
    assert ghosts.query("from m") == [(7,)]
    with duckdb.connect(str(other)) as connection:
        assert connection.execute("select view_name from duckdb_views() where not internal").fetchall() == []
        connection.execute("create table pg_landing.users as select 1 as id")
    assert ghosts.dbt("run").code == 0
    assert ghosts.query("from n") == [(1,)]


def test_a_source_of_a_database_that_is_attached_read_only_is_left_alone(ghosts):
    other = ghosts.root / "other.duckdb"
    duckdb.connect(str(other)).close()
    ghosts.profile(attach=[{"path": str(other), "alias": "other", "read_only": True}])
    ghosts.write("models/sources.yml", SOURCES.replace("schema: pg_landing", "schema: pg_landing\n    database: other"))
    ghosts.model("m", NOT_READ)
    run = ghosts.dbt("run")
    assert run.code == 1
    assert "does not exist" in run.output


def test_other_commands_work_and_docs_have_the_lineage(ghosts):
    ghosts.model("m", NOT_READ)
    for command in (["ls"], ["compile"], ["run"], ["docs", "generate"], ["build"], ["parse"]):
        run = ghosts.dbt(*command)
        assert run.code == 0, run.output
    assert ghosts.manifest()["child_map"]["source.shop.postgres_prod.users"] == ["model.shop.m"]
    nodes = json.loads((ghosts.root / "target" / "catalog.json").read_text())["nodes"]
    assert list(nodes) == ["model.shop.m"]


def test_without_artifacts_dbt_offers_no_hook_and_the_model_fails_as_in_plain_dbt(ghosts):
    ghosts.model("m", NOT_READ)
    run = ghosts.dbt("--no-write-json", "run")
    assert run.code == 1
    assert "does not exist" in run.output


def test_operations_of_the_project_run_too(ghosts):
    ghosts.model("m", NOT_READ)
    ghosts.write(
        "dbt_project.yml",
        "name: shop\nversion: '1.0'\nprofile: shop\non-run-start: ['create table if not exists mine (n int)']\n"
        "on-run-end: ['drop table mine']\n",
    )
    run = ghosts.dbt("run")
    assert run.code == 0, run.output
    assert "2 of 2 START hook: shop.on-run-start" in run.output
