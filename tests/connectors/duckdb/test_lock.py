"""A DuckDB file that another process holds is waited for, and the process is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from dbt_bridge.connectors.duckdb.session import name_holder
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.errors import ConnectionFailed
from dbt_bridge.run.open_project import open_project
from dbt_bridge.system.lock_wait import LockWait, find_lock_wait, use_lock_wait

_HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has `wh.duckdb` open until its standard input ends."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "wh.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def open_with(wait: LockWait, path: Path, *prepare: str) -> None:
    with use_lock_wait(wait):
        DuckDBWarehouse.open(path, prepare=prepare).close()


def test_it_is_waited_for_and_told_once(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    told: list[str] = []

    def let_go(text: str) -> None:
        told.append(text)
        assert holder.stdin is not None
        holder.stdin.close()

    open_with(LockWait(600, let_go), tmp_path / "wh.duckdb")
    assert len(told) == 1
    assert f"PID {holder.pid}" in told[0] and "waiting up to 600 seconds" in told[0]


def test_without_patience_the_process_is_named_at_once(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match=rf"wh\.duckdb is in use: PID {holder.pid}.*python") as refused:
        open_with(LockWait(), tmp_path / "wh.duckdb")
    assert "--lock-wait" in refused.value.mend


def test_an_attached_file_is_waited_for_too(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    attach = f"ATTACH '{tmp_path / 'wh.duckdb'}' AS other"
    with pytest.raises(ConnectionFailed, match=f"PID {holder.pid}"):
        open_with(LockWait(), tmp_path / "mine.duckdb", attach)
    duckdb.connect(str(tmp_path / "mine.duckdb")).close()  # it was let go of


def test_every_method_of_a_project_has_its_patience(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\nprofile: shop\nmodel-paths: [models]\n")
    output = "{type: duckdb, path: wh.duckdb}"
    (tmp_path / "profiles.yml").write_text(f"shop:\n  target: dev\n  outputs:\n    dev: {output}\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.sql").write_text("select 1 as id")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConnectionFailed, match=f"PID {holder.pid}"):
        open_project(tmp_path, profiles_dir=tmp_path, lock_wait=0.1).build()
    told: list[str] = []

    def let_go(text: str) -> None:
        told.append(text)
        if "waiting up to" in text and holder.stdin is not None:
            holder.stdin.close()

    project = open_project(tmp_path, profiles_dir=tmp_path, lock_wait=600, progress=let_go)
    assert project.build().ok
    assert find_lock_wait() == LockWait(), "its patience is its own"
    for _ in project.stream_findings():
        assert find_lock_wait() == LockWait()
    assert sum("waiting up to" in text for text in told) == 1


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (
            'IO Error: Could not set lock on file "/w/wh.duckdb": Conflicting lock is held in /usr/bin/python3.11 (PID'
            " 4711) by user ann. See also https://duckdb.org/docs/stable/connect/concurrency",
            "PID 4711 by user ann (/usr/bin/python3.11)",
        ),
        ('IO Error: Could not set lock on file "/w/wh.duckdb": Conflicting lock is held in PID 0. See', "PID 0"),
        ('IO Error: Could not set lock on file "/w/wh.duckdb": Resource temporarily unavailable', "another process"),
        ("IO Error: No space left on device", None),
    ],
)
def test_the_process_is_told_as_duckdb_says_it(message: str, named: str | None) -> None:
    assert name_holder(duckdb.IOException(message)) == named
