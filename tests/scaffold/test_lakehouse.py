"""The lakehouse template: Postgres -> Delta -> dbt-duckdb, through the entry points that a scheduler calls."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import deltalake
import duckdb
import psycopg
import pytest

from dbt_bridge.demo import shop
from dbt_bridge.scaffold.template import Answers, write_project
from dbt_bridge.simulate.mix import Mix, simulate

BOOKS = """
SELECT count(*), sum(total_amount), count(*) FILTER (WHERE status = 'delivered'), max(order_id) FROM shop.orders
"""


@pytest.fixture
def lakehouse(database: str, tmp_path: Path) -> Path:
    shop.fill(database, shop.Sizes.of_scale(0.01))
    project = tmp_path / "lakehouse"
    name = f"lake_{database.rsplit('/', 1)[1]}"  # slots are the server's: their names must differ from other tests'
    write_project(project, Answers(name=name, origin_url=database), "lakehouse")
    return project


def warehouse_of(project: Path) -> Path:
    name = (project / "dbt_project.yml").read_text().splitlines()[0].removeprefix("name: ")
    return project / f"{name}.duckdb"


RunScript = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_script(warm_commands: Path) -> RunScript:
    """Runs a script of a project, from the folder above it, as a scheduler does."""

    def run(project: Path, *command: str, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm_commands / "python", *command], cwd=project.parent, env={**os.environ, **environment}, input=said,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def agree(project: Path, origin: psycopg.Connection) -> None:
    there = origin.execute(BOOKS).fetchone()
    orders = deltalake.DeltaTable(str(project / "lake" / "shop_landing" / "orders")).to_pyarrow_table()
    assert duckdb.sql(BOOKS.replace("shop.orders", "orders")).fetchone() == there, orders.num_rows
    with duckdb.connect(warehouse_of(project), read_only=True) as warehouse:
        built = warehouse.execute("SELECT count(*), sum(total_amount) FROM fct_orders").fetchone()
    assert there is not None and built == there[:2]


def test_a_scheduler_copies_follows_and_cleans_up(
    lakehouse: Path, origin: psycopg.Connection, database: str, run_script: RunScript
) -> None:
    entry = str(lakehouse / "pipeline_main.py")
    done = run_script(lakehouse, entry, PIPELINE_MODE="cdc")
    assert done.returncode == 0, done.stdout + done.stderr
    agree(lakehouse, origin)

    simulate(database, Mix(30, 30, 20, seed=1))
    done = run_script(lakehouse, entry, "--mode", "cdc", "--quiet", PIPELINE_MODE="snapshot")
    assert done.returncode == 0, done.stdout + done.stderr
    agree(lakehouse, origin)
    with duckdb.connect(warehouse_of(lakehouse), read_only=True) as warehouse:
        hops = warehouse.execute("SELECT hop, count(*) FROM _dbt_bridge.receipts GROUP BY 1 ORDER BY 1").fetchall()
    assert [hop for hop, _ in hops] == ["cdc", "initial_copy"]
    lake = b"".join(file.read_bytes() for file in (lakehouse / "lake").rglob("*.parquet"))
    assert b"@example.com" not in lake, "emails are masked"

    simulate(database, Mix(5, 5, 5, seed=2))
    done = run_script(lakehouse, entry, "--mode", "snapshot", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    agree(lakehouse, origin)

    done = run_script(lakehouse, str(lakehouse / "cleanup.py"), said="no\n")
    assert (done.returncode, (lakehouse / "lake").exists()) == (1, True)
    done = run_script(
        lakehouse, str(lakehouse / "cleanup.py"), "--yes", SOURCES__SHOP_PG__CREDENTIALS=f"{database}_gone"
    )
    assert (done.returncode, (lakehouse / "lake").exists()) == (1, True), "the slot is still there"
    assert "the files stay" in done.stdout and "Traceback" not in done.stderr
    done = run_script(lakehouse, str(lakehouse / "cleanup.py"))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), "nobody is there to ask"
    done = run_script(lakehouse, str(lakehouse / "cleanup.py"), said="yes\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (lakehouse / "lake").exists() and not (warehouse_of(lakehouse)).exists()
    assert origin.execute("SELECT count(*) FROM pg_publication").fetchall() == [(0,)]
    mine = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    assert origin.execute(mine).fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--mode", "full"], {}), ([], {"PIPELINE_MODE": "CDC!"}), ([], {})]
)
def test_a_bad_mode_prints_the_usage(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], run_script: RunScript
) -> None:
    write_project(tmp_path / "lakehouse", Answers(), "lakehouse")
    done = run_script(
        tmp_path / "lakehouse", str(tmp_path / "lakehouse" / "pipeline_main.py"), *arguments, **environment
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: pipeline_main.py")
    assert "must be one of snapshot, cdc" in done.stderr
