"""`init` writes a project that dbt reads, and nothing over what is there."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import psycopg
import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.errors import BridgeError, UsageError
from dbt_bridge.scaffold.template import Answers, write_files, write_project

COMMAND = Path(sys.executable).with_name("dbt-bridge")
URL = "postgresql://me:pa%22ss$word@origin:5432/d\\b"


def test_a_new_project_is_one_that_plan_understands(tmp_path: Path) -> None:
    made = subprocess.run([COMMAND, "init", tmp_path / "my project"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    planned = subprocess.run(
        [COMMAND, "plan"], cwd=tmp_path / "my project", capture_output=True, text=True, check=False
    )
    assert planned.returncode == 0, planned.stdout + planned.stderr
    for word in ("orders", "customers_history", "countries", "customer_segments", "crm_segments"):
        assert word in planned.stdout


def test_credentials_are_in_one_file_that_only_the_owner_reads_and_git_ignores(tmp_path: Path) -> None:
    files = write_project(tmp_path, Answers(origin_url=URL))
    secrets = tmp_path / ".dlt" / "secrets.toml"
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert tomllib.loads(secrets.read_text())["sources"]["shop_pg"]["credentials"] == URL
    assert [file for file in files if "origin:5432" in (tmp_path / file).read_text()] == [Path(".dlt/secrets.toml")]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    ignored = subprocess.run(["git", "-C", tmp_path, "check-ignore", ".dlt/secrets.toml"], check=False)
    assert ignored.returncode == 0


def test_files_that_are_there_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "profiles.yml").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"README\.md, profiles\.yml"):
        write_project(tmp_path, Answers())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "models", "profiles.yml"]


def test_a_write_that_fails_in_the_middle_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").write_text("mine")
    files = {Path("mine/a.sql"): "a", Path("new/b.sql"): "b", Path("file/c.sql"): "c"}
    with pytest.raises(BridgeError, match="nothing of it is left"):
        write_files(tmp_path, files)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["file", "mine"]


@pytest.mark.parametrize("name", ["", "1st", "has space", "Ünïcode", "a-b", "x; drop"])
def test_a_name_that_dbt_would_refuse_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a dbt project"):
        write_project(tmp_path / "new", Answers(name=name))
    assert not (tmp_path / "new").exists()


def test_a_project_of_ones_own_tables_builds_whatever_their_names(
    tmp_path: Path, database: str, origin: psycopg.Connection, warm_commands: Path
) -> None:
    origin.execute("""
        CREATE TABLE "We ird {{ x }}" (
            "order" int PRIMARY KEY, "Ünï ""q" text, "{{ y }}" int, updated_at timestamptz NOT NULL
        );
        INSERT INTO "We ird {{ x }}" VALUES (1, 'a', 2, now()), (2, NULL, 3, now());
        CREATE TABLE "we ird x" (a int, b int, PRIMARY KEY (a, b));
        CREATE TABLE yes (no int);
    """)
    project = tmp_path / "own"
    for arguments in (["init", project, "--origin-url", database], ["build", "--quiet"]):
        done = subprocess.run(
            [warm_commands / "dbt-bridge", *arguments],
            cwd=project if project.exists() else tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    with duckdb.connect(str(project / "own.duckdb"), read_only=True) as warehouse:
        counts = dict(warehouse.sql("FROM landed_tables").fetchall())
        hops = dict(warehouse.sql("SELECT table_name, hop FROM _dbt_bridge.receipts").fetchall())
        rows = warehouse.sql("""SELECT "order", "Ünï ""q", "{{ y }}" FROM stg_we_ird_x ORDER BY ALL""").fetchall()
    assert counts == {"stg_we_ird_x": 2, "stg_we_ird_x_2": 0, "stg_yes": 0}
    assert hops["origin_landing.We ird {{ x }}"] == "incremental"
    assert hops["origin_landing.yes"] == "initial_copy"
    assert rows == [(1, "a", 2), (2, None, 3)]


def test_an_origin_without_tables_writes_no_project(tmp_path: Path, database: str) -> None:
    done = subprocess.run(
        [COMMAND, "init", tmp_path / "own", "--origin-url", database], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "--origin-schema" in done.stderr
    assert not (tmp_path / "own").exists()


def test_an_origin_that_cannot_be_found_is_told_by_the_option_that_named_it(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, mend in (
        (["--origin-url", f"{database}_of_nobody"], "check --origin-url"),
        (["--origin-url", database, "--origin-schema", "sales"], "name a schema that exists: public"),
    ):
        assert run_command(["init", str(tmp_path / "own"), *wrong]) == 1
        assert mend in capsys.readouterr().err
    assert not (tmp_path / "own").exists()
