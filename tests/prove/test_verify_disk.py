"""A disk that fills while rows are compared: a failure that names the folder, never a match, and nothing is left.

The system's limit on the size of a file stands for the disk: only the process's own files are refused, as those of
its servers are written by others.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.projects import NODE, table
from tests.prove.test_verify import Shop
from tests.prove.test_verify_interrupted import until

from dbt_bridge.nouns.project import Project
from dbt_bridge.verify.rows import partitions

OTHERS = """
SELECT pid, left(query, 60) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')
"""


@contextmanager
def disk_of(most: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))  # Python ignores SIGXFSZ
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(partitions, "_SHARE", 1 << 60)  # rows go to files from the first on
    return folder


def test_a_disk_that_fills_is_a_failure_that_leaves_nothing_behind(
    there: tuple[Project, Callable[[str], list[tuple[Any, ...]]]], origin: psycopg.Connection, temporary: Path
) -> None:
    project, ask = there
    for name, rows in (("big", 30_000), ("small", 20)):
        origin.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, note text)".encode())
        origin.execute(f"INSERT INTO {name} SELECT g, 'n' || g FROM generate_series(1, {rows}) g".encode())  # noqa: S608
    shop = Shop(project, Path(), table("big"), table("small"))
    shop.sync()
    for method in ("digests", "values"):
        with disk_of(3000):
            found = shop.verify(method=method)
        big, error = found["big"], found["big"].error or ""
        assert (big.status, big.is_equal, big.differences) == ("failed", False, None)
        assert f"no room for temporary files in {temporary}" in error and "File too large" in error
        assert "free disk space there, or set TMPDIR to a folder on a larger disk" in error
        assert (found["small"].status, found["small"].error) == ("equal", None), "others are compared all the same"
        assert [p for p in temporary.rglob("*") if p.is_file() and p.name != ".lock"] == []
        until(lambda: not (origin.execute(OTHERS).fetchall() or ask(OTHERS)))  # the server notices in a moment
        assert origin.execute("SELECT slot_name FROM pg_replication_slots").fetchall() == [("dbt_bridge_verify_test",)]
        assert origin.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").fetchall() == []
    kept_rows = ask("SELECT node, status FROM _dbt_bridge.parity ORDER BY started_at")
    assert kept_rows == [(f"{NODE}big", "failed"), (f"{NODE}small", "equal")] * 2
    assert {p.status for p in shop.verify().values()} == {"equal"}, "the same command again, with room"


def test_a_log_that_is_folded_in_files_names_their_folder_too(
    project: Project, origin: psycopg.Connection, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESTINATION__LAKE__DESTINATION_TYPE", "filesystem")
    monkeypatch.setenv("DESTINATION__LAKE__BUCKET_URL", str(tmp_path / "lake"))
    monkeypatch.setattr("dbt_bridge.replicate.log_state._MEMORY", "40MB")
    origin.execute("CREATE TABLE log (id int PRIMARY KEY, note text)")
    origin.execute("INSERT INTO log SELECT g, md5(g::text) || md5((g + 1)::text) FROM generate_series(1, 300000) g")
    shop = Shop(project, Path(), table("log", write_disposition="append"))
    (source,) = shop.project.sources
    shop.project = replace(shop.project, sources=(replace(source, destination="lake"),))
    shop.sync()
    with disk_of(8_000_000):
        found = shop.verify()["log"]
    assert (found.status, found.differences) == ("failed", None)
    assert f"no room for temporary files in {temporary}" in (found.error or ""), found.error
    assert [p for p in temporary.rglob("*") if p.is_file() and p.name != ".lock"] == []
