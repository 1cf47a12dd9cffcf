"""The command line: exit codes, one JSON document, interruption; on a real Postgres and real dbt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from dbt_bridge.cli import cli, run_command
from dbt_bridge.cli.dbt_flags import move_behind_command, spread_values

SOURCES = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public}}}
    tables: [{name: orders}, {name: customers}]
models:
  - name: big
    columns: [{name: id, data_tests: [unique]}]
exposures:
  - name: crm
    type: application
    owner: {name: growth, email: growth@example.com}
    depends_on: [ref('big')]
    config: {meta: {bridge: {destination: crm_pg, schema: crm, table: big, write_disposition: merge, primary_key: id}}}
"""

# The interface that other tools rely on: the names, in this order.
RECEIPT = [
    "load_id", "hop", "node", "origin", "destination", "table_name", "write_disposition", "status", "rows_loaded",
    "rows_inserted", "rows_updated", "rows_deleted", "bytes", "checkpoint_from", "checkpoint_to", "started_at",
    "finished_at", "duration_seconds", "error", "last_commit_at", "lag_seconds", "note", "without",
]  # fmt: skip

Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def shop(dbt_root: Path, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """3 orders and 2 customers in Postgres; the model `big` goes back there, as crm.big."""
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(10,2))")
    origin.execute("INSERT INTO orders VALUES (1, 5), (2, 50), (3, 500)")
    origin.execute("CREATE TABLE customers (id int PRIMARY KEY)")
    origin.execute("INSERT INTO customers VALUES (1), (2)")
    origin.execute("CREATE SCHEMA crm")
    (dbt_root / "models" / "all.yml").write_text(SOURCES)
    (dbt_root / "models" / "big.sql").write_text(
        "select id, amount from {{ source('shop', 'orders') }} where amount > {{ var('least', 10) }}"
    )
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.setenv("DESTINATION__CRM_PG__DESTINATION_TYPE", "postgres")
    monkeypatch.setenv("DESTINATION__CRM_PG__CREDENTIALS", database.replace("//postgres@", "//postgres:x@"))
    monkeypatch.chdir(dbt_root)
    return dbt_root


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run one command with --json; answers its exit code and its document, which is all of standard output."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run_command([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_a_build_lands_builds_delivers_and_says_so_in_one_document(
    shop: Path, command: Command, origin: psycopg.Connection
) -> None:
    code, document = command("build")
    assert code == 0
    assert (document["status"], document["error"], document["dbt"]["success"]) == ("success", None, True)
    loaded = {receipt["node"]: (receipt["status"], receipt["rows_loaded"]) for receipt in document["receipts"]}
    assert loaded == {
        "source.shop.shop.orders": ("success", 3),
        "source.shop.shop.customers": ("success", 2),
        "exposure.shop.crm": ("success", 2),
    }
    assert {node["unique_id"].split(".")[0] for node in document["dbt"]["nodes"]} >= {"model", "test"}
    with duckdb.connect(str(shop / "warehouse.duckdb"), read_only=True) as connection:
        kept = connection.execute("SELECT * FROM _dbt_bridge.receipts ORDER BY table_name")
        assert [column[0] for column in kept.description] == RECEIPT == list(document["receipts"][0])
        assert [row[1:3] for row in kept.fetchall()] == [
            ("deliver", "exposure.shop.crm"),
            ("initial_copy", "source.shop.shop.customers"),
            ("initial_copy", "source.shop.shop.orders"),
        ]
    assert origin.execute("SELECT id FROM crm.big ORDER BY id").fetchall() == [(2,), (3,)]

    origin.execute("INSERT INTO orders VALUES (4, 5000)")
    code, document = command("sync", "--select", "source:shop.orders")
    assert code == 0
    assert [receipt["node"] for receipt in document["receipts"]] == ["source.shop.shop.orders"]

    code, document = command("deliver", "--dry-run")
    assert (code, document["receipts"][0]["status"]) == (1, "skipped"), "the view has rows that were not tested"
    assert "--select" in document["receipts"][0]["error"]
    assert command("build", "--exclude", "exposure:*")[0] == 0

    code, document = command("deliver", "--dry-run")
    (receipt,) = document["receipts"]
    assert (code, receipt["rows_inserted"], receipt["rows_updated"]) == (0, 1, 2)
    assert origin.execute("SELECT count(*) FROM crm.big").fetchall() == [(2,)], "a dry run writes nothing"

    # A test on the model fails: dbt fails, and the exposure is held back with the reason.
    (shop / "models" / "big.sql").write_text("select 7 as id, 1.5 as amount union all select 7, 2.5")
    code, document = command("build", "--vars", "{least: 1}", "--exclude", "source:shop.customers")
    assert code == 1
    assert (document["status"], document["dbt"]["success"]) == ("failed", False)
    held_back = next(receipt for receipt in document["receipts"] if receipt["hop"] == "deliver")
    assert held_back["status"] == "skipped"
    assert "unique_big_id" in held_back["error"]
    assert origin.execute("SELECT count(*) FROM crm.big").fetchall() == [(2,)]


def test_a_build_without_the_real_rows_delivers_nothing_and_says_why(
    shop: Path, command: Command, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dbt takes `--empty` from its environment too."""
    monkeypatch.setenv("DBT_EMPTY", "true")
    code, document = command("build")
    held_back = document["receipts"][-1]
    assert (code, document["dbt"]["success"], held_back["status"]) == (1, True, "skipped")
    assert "model big: success, but dbt ran with --empty: dbt-bridge build, without" in held_back["error"]
    monkeypatch.delenv("DBT_EMPTY")
    code, document = command("deliver")
    assert (code, document["receipts"][0]["status"]) == (1, "skipped"), "the last build was none"
    assert origin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'crm'").fetchall() == [(0,)]


def test_without_json_a_person_gets_a_table_and_with_quiet_nothing(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run_command(["sync"]) == 0
    captured = capsys.readouterr()
    assert "landing.orders" in captured.out and "2 success" in captured.out
    assert "landing.orders: success, 3 rows" in captured.err

    assert run_command(["build", "--quiet", "--select", "big"]) == 0
    assert capsys.readouterr().out.strip() == ""


def test_a_wrong_key_in_the_yaml_is_a_usage_error_before_anything_is_touched(shop: Path, command: Command) -> None:
    (shop / "models" / "all.yml").write_text(SOURCES.replace("origin:", "orgin:"))
    code, document = command("build")
    assert code == 2
    assert document["receipts"] == []
    assert "`bridge` has no key 'orgin'" in document["error"]["what"]
    assert "did you mean 'origin'?" in document["error"]["mend"]
    assert not (shop / "warehouse.duckdb").exists()


def test_sigterm_ends_a_sync_cleanly(shop: Path, origin: psycopg.Connection, database: str) -> None:
    """The sync waits for a lock that this test holds; nothing of it may be left, here or there."""
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(
            [sys.executable, "-m", "dbt_bridge", "sync"], cwd=shop, env=os.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        _until(lambda: origin.execute(waiting).fetchall() != [(0,)] or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=180)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted" in err
    assert "Traceback" not in err
    connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    _until(lambda: origin.execute(connected).fetchall() == [(0,)])
    with duckdb.connect(str(shop / "warehouse.duckdb")) as connection:
        assert connection.execute("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'landing'").fetchall() == [
            (0,)
        ]


def _until(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_an_unexpected_error_is_called_a_bug_and_hides_passwords(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(options: object) -> None:
        raise RuntimeError("cannot parse postgresql://u:c4n4ry@db/x")

    monkeypatch.setattr("dbt_bridge.project.load.load_project", broken)
    assert run_command(["plan", "--project-dir", str(tmp_path), "--json", "--debug"]) == 1
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["what"] == "this is a bug in dbt-bridge: RuntimeError: cannot parse postgresql://u:***@db/x"
    assert "Traceback" in captured.err
    assert "c4n4ry" not in captured.out + captured.err

    assert run_command(["plan", "--project-dir", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dbt_bridge.project.load.load_project", interrupted)
    code, document = command("plan")
    assert (code, document["error"]["what"]) == (130, "interrupted")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["build", "--nope"], "No such option '--nope'."),
        (["bild"], "No such command 'bild'."),
        (["run", "--select", "a b"], "'run' is a command of dbt itself"),
        (["docs", "generate"], "'docs' is a command of dbt itself"),
        (["--no-use-colors", "--log-format", "json", "--nope", "build"], "No such option '--nope'."),
        (["slots", "-t", "prod", "drop", "--yes"], "--target stands before 'drop', which has options of its own"),
        (["build", "--threads", "0"], "Invalid value for '--threads'"),
        (["build", "--vars", "[1, 2]"], "--vars is not a YAML dictionary"),
        (["sync", "--until-lsn", "soon"], "'soon' is not an LSN: write it as Postgres does: 16/B374D848"),
        (["sync", "--max-seconds", "soon"], "'soon' is not a time like 2s, 500ms, 5m or 1h"),
        (["stream", "--every", "0s"], "'0s' is not a time"),
    ],
)
def test_a_wrong_command_line_is_2(arguments: list[str], what: str, command: Command) -> None:
    code, document = command(*arguments)
    assert code == 2
    assert what in document["error"]["what"]
    assert document["error"]["mend"]


def test_a_models_child_process_does_not_write_into_the_document() -> None:
    program = (
        "import subprocess, sys; from dbt_bridge import cli\n"
        "cli.run_command = lambda arguments: subprocess.run(['echo', 'a child'], check=True) and print('{}')\n"
        "sys.argv = ['dbt-bridge', 'build', '--json']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{}\n", "a child\n")


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(cli.commands) == {
        "sync", "build", "stream", "deliver", "plan", "doctor", "slots", "init", "demo", "simulate", "verify", "repair",
        "reconcile",
    }  # fmt: skip
    for name in [*cli.commands, "slots drop"]:
        assert run_command([*name.split(), "--help"]) == 0
        help_ = capsys.readouterr().out
        assert f"Example:\n    dbt-bridge {name}" in help_, name


def test_several_selectors_may_follow_one_flag_as_in_dbt() -> None:
    assert spread_values(["build", "-s", "a", "b+", "--exclude", "c", "--json"]) == [
        "build", "--select", "a", "--select", "b+", "--exclude", "c", "--json",
    ]  # fmt: skip
    assert spread_values(["init", "a", "b"]) == ["init", "a", "b"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--no-use-colors", "build", "--json"], ["build", "--no-use-colors", "--json"]),
        (["--log-format", "json", "-t", "dev", "build"], ["build", "--log-format", "json", "-t", "dev"]),
        (["-t", "prod", "slots", "drop"], ["slots", "drop", "-t", "prod"]),
        (["--version"], ["--version"]),
        (["build", "--help"], ["build", "--help"]),
    ],
)
def test_flags_may_stand_before_the_command_as_in_dbt(given: list[str], meant: list[str]) -> None:
    assert move_behind_command(given) == meant
