"""The main job, end to end, as a user runs it; and its ends: finished, refused, interrupted, killed."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import psycopg
import pytest

COMMAND = Path(sys.executable).with_name("dbt-bridge")
CHECKS = 10

# A test run in the background ignores Ctrl-C, and its children inherit that.
_MINDING_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that the server's account can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="dbt-bridge-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def temporary() -> Iterator[Path]:
    with _folder() as folder:
        yield folder


@dataclass(frozen=True)
class Kept:
    """A demo that went well with --keep and --json: the document, and the story beside it."""

    temporary: Path
    project: Path
    document: str
    output: str
    server: int


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with _folder() as folder:
        project = folder / "shop"
        done = _run([*_demo(project), "--keep", "--json"], folder)
        assert done.returncode == 0, done.stdout + done.stderr
        server = json.loads((project / ".dbt-bridge-demo.json").read_text())["pid"]
        try:
            yield Kept(folder, project, done.stdout, done.stderr, server)
        finally:
            os.kill(server, signal.SIGINT)
            _wait_until_gone(folder)


def test_the_two_ends_agree_on_both_days(kept: Kept) -> None:
    assert kept.output.count(f"{CHECKS} of {CHECKS} checks have the same answer") == 2
    assert "DIFFER" not in kept.output


def test_parity_is_proven_under_the_writer_and_a_corruption_found_and_repaired(kept: Kept) -> None:
    parities = json.loads(kept.document)["parity"]
    first, second, third = parities[:6], parities[6:12], parities[12:]
    assert {p["status"] for p in first} == {"equal"}
    assert all(p["at"].startswith("LSN ") for p in first)
    planted = {p["node"].rpartition(".")[2]: p for p in second if p["status"] != "equal"}
    assert {name: (p["only_in_origin"], p["only_in_destination"], p["different"]) for name, p in planted.items()} == {
        "customers": (1, 0, 0), "products": (0, 0, 1), "orders": (0, 1, 0)
    }  # fmt: skip
    assert {p["status"] for p in third} == {"equal"}
    made = re.search(r"while the shop made ([\d,]+) transactions", kept.output)
    assert made is not None and int(made[1].replace(",", "")) > 0


def test_the_document_has_every_receipt_and_check(kept: Kept) -> None:
    document = json.loads(kept.document)
    assert (document["status"], document["error"]) == ("success", None)
    assert [receipt["status"] for receipt in document["receipts"]] == ["success"] * 17
    assert [receipt["hop"] for receipt in document["receipts"]][-3:] == ["repair"] * 3
    assert [check["same"] for check in document["checks"]] == [True] * CHECKS


def test_every_kind_of_model_did_its_work(kept: Kept) -> None:
    with duckdb.connect(str(kept.project / "shop.duckdb"), read_only=True) as warehouse:
        versions, current = warehouse.sql(
            "SELECT count(*), count(*) FILTER (WHERE dbt_valid_to IS NULL) FROM customers_history"
        ).fetchall()[0]
        segments = warehouse.sql("SELECT DISTINCT segment FROM customer_clusters").fetchall()
        hops = warehouse.sql(
            "SELECT hop, status, count(*) FROM _dbt_bridge.receipts GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert versions > current == 500, "customers who moved have two versions"
    assert len(segments) == 4
    copied = {hop: count for hop, _, count in hops if hop != "cdc"}
    assert copied == {"deliver": 2, "initial_copy": 6, "repair": 3}
    assert {status for _, status, _ in hops} == {"success"}


def test_a_kept_server_goes_on_for_the_other_commands(kept: Kept) -> None:
    made = _run([str(COMMAND), "simulate", "5", "5", "5", "--project-dir", str(kept.project), "--json"], kept.temporary)
    assert json.loads(made.stdout)["simulated"]["inserts"] == 5, made.stderr
    folders = ["--project-dir", str(kept.project), "--profiles-dir", str(kept.project)]
    shown = _run([str(COMMAND), "slots", *folders, "--json"], kept.temporary)
    (slot,) = json.loads(shown.stdout)["slots"]
    assert (slot["wal_status"], slot["active"], slot["problem"]) == ("reserved", False, "")


def test_a_demo_leaves_no_slot_and_is_done_within_a_minute(temporary: Path) -> None:
    """A minute of a machine that has nothing else to do: what it and its processes worked is counted, and hardly
    anything is waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = _run(_demo(temporary / "shop"), temporary)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the replication slot dbt_bridge_shop_shop_dev is dropped" in done.stdout
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 60


def test_a_kept_server_has_what_was_delivered(kept: Kept) -> None:
    with psycopg.connect(_secret(kept.project, "crm")) as crm:
        delivered = crm.execute("SELECT count(*), count(DISTINCT segment) FROM crm.segments").fetchone()
    assert delivered is not None
    assert delivered[0] > 400
    assert delivered[1] > 1


def test_a_second_demo_says_how_to_stop_the_kept_server(kept: Kept) -> None:
    again = _run(_demo(kept.project), kept.temporary)
    assert again.returncode == 2
    assert f"kill -INT {kept.server}" in again.stderr


def test_the_server_asks_for_its_password(kept: Kept) -> None:
    port = json.loads((kept.project / ".dbt-bridge-demo.json").read_text())["port"]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/shop")


def test_the_password_is_in_no_output_and_no_other_file(kept: Kept) -> None:
    password = urlsplit(_secret(kept.project, "crm")).password
    assert password
    assert password not in kept.output + kept.document
    files = [path for path in kept.project.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    assert files == [kept.project / ".dlt" / "secrets.toml"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_demo_leaves_no_process(temporary: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _MINDING_CTRL_C, *_demo(temporary / "shop")],
        env=_environment(temporary),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert any("the dbt project is in" in line for line in running.stdout)
        assert _left_over(temporary), "the server is running by now"
        running.send_signal(how)
    assert running.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130)
    _wait_until_gone(temporary)
    assert not list(temporary.glob("dbt-bridge-demo-*")), "the server's files are deleted too"


def test_a_demo_touches_no_folder_but_its_own(temporary: Path) -> None:
    project = temporary / "shop"
    project.mkdir()
    (project / "dbt_project.yml").write_text("name: precious\n")
    done = _run(_demo(project), temporary)
    assert done.returncode == 2
    assert "dbt_project.yml" in done.stderr
    assert [path.name for path in project.iterdir()] == ["dbt_project.yml"]
    assert (project / "dbt_project.yml").read_text() == "name: precious\n"
    assert _left_over(temporary) == []


def _demo(project: Path) -> list[str]:
    return [str(COMMAND), "demo", "--scale", "0.05", "--dir", str(project)]


def _run(command: list[str], temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=_environment(temporary), capture_output=True, text=True, check=False)


def _environment(temporary: Path) -> dict[str, str]:
    """The server's files go to the test's folder, which names its processes."""
    return {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}


def _left_over(temporary: Path) -> list[str]:
    """Processes that name the folder and are no demo themselves: servers and watchdogs."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"{temporary}/dbt-bridge-demo-" in line]


def _wait_until_gone(temporary: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while _left_over(temporary) and time.monotonic() < end:
        time.sleep(0.05)
    assert _left_over(temporary) == []


def _secret(project: Path, database: str) -> str:
    lines = (project / ".dlt" / "secrets.toml").read_text().splitlines()
    found = [line.split(" = ", 1)[1] for line in lines if line.endswith(f'/{database}"')]
    return str(json.loads(found[0]))
