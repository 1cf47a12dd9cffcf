"""kill -9 at every step of a repair: all of a table is repaired or nothing, and the same command finishes it.

DBT_BRIDGE_SEED plays one seed again; DBT_BRIDGE_RUNS asks for that many kills instead of the 3 of CI.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.chance import SEED
from tests.killed import killed_sync
from tests.killed.killed_sync import Orders

from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions
from dbt_bridge.run.sync import sync as run_sync

KILLS = int(os.environ.get("DBT_BRIDGE_RUNS", "3"))
STEPS = [
    "compared", "read", "applied in part", "applied, not committed", "inside of the commit", "committed",
    "compared again",
]  # fmt: skip
SPOILT = """
UPDATE landing.orders SET note = 'wrong' WHERE id % 40 = 0;
DELETE FROM landing.orders WHERE id % 40 = 1;
INSERT INTO landing.orders SELECT -id, 'ghost' FROM landing.orders WHERE id % 40 = 2;
"""
WRONG = """
SELECT (SELECT count(*) FROM landing.orders WHERE note = 'wrong'), (SELECT count(*) FROM landing.orders WHERE id < 0),
       (SELECT count(*) FROM landing.orders WHERE id % 40 = 1)
"""


class Repairs:
    """A process that repairs in forks of itself."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self._process = subprocess.Popen(
            [sys.executable, str(Path(killed_sync.__file__).with_name("killed_repair.py"))],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, step: str = "", call: int = 1) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asdict(replace(self.orders, step=step, call=call))), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=180)


@pytest.fixture
def repairs(tmp_path: Path, origin: psycopg.Connection, database: str) -> Iterator[Repairs]:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    origin.execute("INSERT INTO orders SELECT g, 'n' FROM generate_series(1, 1000) g")
    profile = {"type": "duckdb", "path": str(tmp_path / "warehouse.duckdb"), "schema": "main"}
    process = Repairs(
        Orders(
            str(tmp_path), ("orders",), "duckdb", profile, chunk_rows=10, slot="dbt_bridge_repair_kill",
            environment={"SOURCES__SHOP_PG__CREDENTIALS": database},
        )
    )  # fmt: skip
    yield process
    process.close()


def asked(repairs: Repairs, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(repairs.orders.profile["path"])) as connection:
        return connection.execute(sql).fetchall()


def sync(repairs: Repairs) -> None:
    receipts = run_sync(killed_sync.project(repairs.orders), SyncOptions(), Silent())
    assert [r.error for r in receipts if r.status != "success"] == []


@pytest.mark.parametrize(
    "step", {**killed_sync.STEPS, **killed_sync.REPAIRING}.values(), ids=lambda step: step.function
)
def test_every_step_to_die_at_is_still_one(step: killed_sync.Step) -> None:
    """A run of CI takes few of them by chance, and would not tell."""
    assert callable(killed_sync.found(step)[2])


def test_a_killed_repair_has_repaired_all_or_nothing(
    repairs: Repairs, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    chance, done = random.Random(SEED), 0
    steps = chance.sample(STEPS, len(STEPS))
    sync(repairs)
    for i in range(KILLS):
        step = steps[i % len(STEPS)]
        origin.execute("UPDATE orders SET note = %s WHERE id < 10 AND id > 2", [f"step {i}"])  # is landed first
        asked(repairs, SPOILT)
        before = asked(repairs, WRONG)
        told = f"seed {SEED}, kill {i}: {step}"
        code = repairs.run(step, chance.randint(2, 7) if step in ("read", "applied in part") else 1)
        assert code == -signal.SIGKILL, told
        after = asked(repairs, WRONG)
        whole = step in ("committed", "compared again")
        assert after == ([(0, 0, 25)] if whole else before), told
        done += whole
        origin.execute("INSERT INTO orders VALUES (%s, 'new')", [4010 + 40 * i])
        assert repairs.run() == 0, told
        done += not whole
        ours = origin.execute("SELECT id, note FROM orders ORDER BY id").fetchall()
        assert asked(repairs, "SELECT id, note FROM landing.orders ORDER BY id") == ours, told
        kept = "SELECT count(*) FROM _dbt_bridge.receipts WHERE hop = 'repair'"
        assert asked(repairs, f"{kept} AND status = 'success' AND rows_loaded = 75") == [(done,)], told
    origin.execute("UPDATE orders SET note = 'last'")
    sync(repairs)
    ours = origin.execute("SELECT count(*) FROM orders").fetchall()
    assert asked(repairs, "SELECT count(*) FROM landing.orders WHERE note = 'last'") == ours


def test_a_killed_repair_of_a_delta_table_is_finished_by_the_same_command(
    repairs: Repairs, origin: psycopg.Connection, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is there twice is deleted and inserted again: two commits of Delta, of which the first is none yet."""
    lake = {
        "DESTINATION__LAKE__DESTINATION_TYPE": "filesystem",
        "DESTINATION__LAKE__BUCKET_URL": str(tmp_path / "lake"),
    }
    for name, value in {**lake, "SOURCES__SHOP_PG__CREDENTIALS": database}.items():
        monkeypatch.setenv(name, value)
    repairs.orders = replace(
        repairs.orders, destination="lake", chunk_rows=100, environment={**repairs.orders.environment, **lake}
    )
    sync(repairs)
    folder = str(tmp_path / "lake" / "landing" / "orders")
    for step in ("a step of Delta's commit", "applied, not committed", "committed"):
        write_deltalake(folder, DeltaTable(folder).to_pyarrow_table(filters=[("id", "<", 4)]), mode="append")
        DeltaTable(folder).update(updates={"note": "'wrong'"}, predicate="id = 10")
        DeltaTable(folder).delete("id = 11")
        assert repairs.run(step) == -signal.SIGKILL, step
        assert repairs.run() == 0, step
        rows = DeltaTable(folder).to_pyarrow_table().select(["id", "note"]).sort_by("id").to_pylist()
        ours = origin.execute("SELECT id, note FROM orders ORDER BY id").fetchall()
        assert [(row["id"], row["note"]) for row in rows] == ours, step
    origin.execute("UPDATE orders SET note = 'last'")
    sync(repairs)
    assert set(DeltaTable(folder).to_pyarrow_table()["note"].to_pylist()) == {"last"}
