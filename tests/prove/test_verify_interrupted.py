"""Ctrl-C and SIGTERM while tables are compared or repaired: real processes, at steps of their way.

Whatever the moment: nothing is half written, what had been compared is told and kept, nobody waits for what is gone,
and the same command does it all. DBT_BRIDGE_RUNS asks for that many interruptions instead of the 4 of CI.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from tests.chance import SEED
from tests.killed import killed_sync
from tests.killed.killed_sync import Orders, Step

from dbt_bridge.nouns.parity import Interrupted
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.reconciliation import Metric, Reconciliation
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.reconcile import ReconcileOptions, reconcile
from dbt_bridge.run.sync import SyncOptions, sync

RUNS = int(os.environ.get("DBT_BRIDGE_RUNS", "4"))
SLOT = "dbt_bridge_interrupted"
VERIFYING: Mapping[str, tuple[Step, int]] = {
    "the landing is held": (Step("dbt_bridge.connectors.postgres.changes.landing_lock:_Session.query", after=True), 4),
    "the log is read": (Step("dbt_bridge.cdc.applier:Applier.take"), 1),
    "the point is taken": (Step("dbt_bridge.connectors.postgres.changes.slot:Replication.create_slot", after=True), 1),
    "the first table's turn": (Step("dbt_bridge.prove.recorder:compare"), 1),
    "the first table is compared": (Step("dbt_bridge.prove.recorder:compare", after=True), 1),
    "a side is read": (Step("dbt_bridge.verify.rows.partitions:Partitions.add"), 2),
    "rows are written to files": (Step("dbt_bridge.verify.rows.partitions:Partitions._write", after=True), 1),
    "suspicious rows are judged": (Step("dbt_bridge.verify.rows.judge_suspects:judge"), 1),
    "a verdict is to be kept": (Step("dbt_bridge.connectors.duckdb.warehouse:DuckDBWarehouse.record_parity"), 1),
    "a verdict is kept": (Step("dbt_bridge.connectors.duckdb.warehouse:DuckDBWarehouse.record_parity", after=True), 1),
    "the second table is compared": (Step("dbt_bridge.prove.recorder:compare", after=True), 2),
}
REPAIRING: Mapping[str, tuple[Step, int]] = {
    "compared": (Step("dbt_bridge.prove.repair_changes:plan_repair", after=True), 1),
    "applied in part": (Step("dbt_bridge.prove.repair_changes:_change"), 2),
    "applied, not committed": (Step("dbt_bridge.prove.repair:_refuse_moved", after=True), 1),
    "committed": (Step("dbt_bridge.prove.repair:_compare_again"), 1),
    "compared again": (Step("dbt_bridge.prove.repair:_update_parity", after=True), 1),
}
RECONCILING: Mapping[str, tuple[Step, int]] = {
    "the first model's turn": (Step("dbt_bridge.prove.reconcile:compare"), 1),
    "the second model is compared": (Step("dbt_bridge.prove.reconcile:compare", after=True), 2),
}
STEPS = {**VERIFYING, **REPAIRING, **RECONCILING}


class Commands:
    """A process that runs commands in forks of itself."""

    def __init__(self, orders: Orders, folder: Path) -> None:
        self.orders, self.folder = orders, folder
        self.script = str(Path(killed_sync.__file__).with_name("interrupted.py"))
        self._process = subprocess.Popen(
            [sys.executable, self.script], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, *arguments: str, **how: Any) -> Ended:
        self.start(*arguments, **how)
        return self.ended()

    def start(self, *arguments: str, step: str = "", signal: str = "SIGINT", **how: Any) -> None:
        assert self._process.stdin is not None
        out, err = self.folder / "out", self.folder / "err"
        at, call = STEPS.get(step, (Step(""), 1))
        command = {
            "orders": asdict(self.orders), "arguments": arguments, "out": str(out), "err": str(err),
            "function": at.function, "after": at.after, "call": call, "signal": signal, **how,
        }  # fmt: skip
        print(json.dumps(command), file=self._process.stdin, flush=True)

    def ended(self) -> Ended:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 180)[0], "the command hangs"
        code = int(self._process.stdout.readline())
        (self.folder / "err.pid").unlink()
        return Ended(code, (self.folder / "out").read_text(), (self.folder / "err").read_text())

    @property
    def pid(self) -> int:
        """Of the command that runs; 0 while none does."""
        file = self.folder / "err.pid"
        return int(file.read_text() or 0) if file.exists() else 0

    def close(self) -> None:
        if self.pid:  # the test failed in the middle
            os.kill(self.pid, signal.SIGKILL)
        self._process.communicate(timeout=30)


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def commands(
    project: Project, origin: psycopg.Connection, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Commands]:
    for name in ("first", "second"):
        origin.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, note text)".encode())
        origin.execute(f"INSERT INTO {name} SELECT g, 'n' || g FROM generate_series(1, 1000) g".encode())  # noqa: S608
    (tmp_path / "temporary").mkdir()
    orders = Orders(
        str(tmp_path), ("first", "second"), "duckdb", project.warehouse.credentials, slot=SLOT,
        environment={"SOURCES__SHOP_PG__CREDENTIALS": database}, temporary=str(tmp_path / "temporary"),
    )  # fmt: skip
    receipts = sync(killed_sync.project(orders), SyncOptions(), Silent())
    assert [r.error for r in receipts if r.status != "success"] == []
    started = Commands(orders, tmp_path)
    yield started
    started.close()


def asked(commands: Commands, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(commands.orders.profile["path"])) as connection:
        return connection.execute(sql).fetchall()


def kept(commands: Commands) -> list[tuple[str, str]]:
    """(node, status) of the newest run's verdicts."""
    there = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'parity'"
    newest = "WHERE load_id = (SELECT max(load_id) FROM _dbt_bridge.parity)"
    told = f"SELECT node, status FROM _dbt_bridge.parity {newest} ORDER BY started_at"  # noqa: S608
    return asked(commands, told) if asked(commands, there)[0][0] else []


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.01)


def nothing_is_left(commands: Commands, origin: psycopg.Connection) -> None:
    """At the origin no slot but the source's own, no lock and no connection; no temporary file."""
    others = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    until(lambda: not origin.execute(others.encode()).fetchall())  # the server notices in a moment
    assert origin.execute("SELECT slot_name FROM pg_replication_slots").fetchall() == [(SLOT,)]
    assert origin.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").fetchall() == []
    files = [path for path in Path(str(commands.orders.temporary)).rglob("*") if path.is_file()]
    assert [path.name for path in files if path.name != ".lock"] == []


@pytest.mark.parametrize("step", STEPS)
def test_every_step_to_be_interrupted_at_is_still_one(step: str) -> None:
    """A run of CI takes few of them by chance, and would not tell."""
    assert callable(killed_sync.found(STEPS[step][0])[2])


def test_an_interrupted_verification_tells_what_it_had_compared(commands: Commands, origin: psycopg.Connection) -> None:
    chance = random.Random(SEED)
    asked(commands, "UPDATE landing.first SET note = 'wrong' WHERE id = 7")
    steps = chance.sample(list(VERIFYING), len(VERIFYING))
    for i in range(RUNS):
        step, number = steps[i % len(steps)], chance.choice(["SIGINT", "SIGTERM"])
        told = f"seed {SEED}: {number} when {step}"
        origin.execute("UPDATE second SET note = %s WHERE id = 1", [told])
        before = kept(commands)
        ended = commands.run("verify", "--json", step=step, signal=number, spills=True)
        assert ended.code == 130, (told, ended)
        document = json.loads(ended.out)
        assert document["status"] == "failed" and document["error"]["what"].startswith("interrupted"), told
        found = [(p["node"], p["status"]) for p in document.get("parity", [])]
        late = step in ("a verdict is to be kept", "a verdict is kept", "the second table is compared")
        assert found == [(f"{commands.orders.node}.first", "different")] * late, told
        if step != "a verdict is to be kept":  # the row that was being written: it is there, or not
            assert kept(commands) == (found or before), told
        nothing_is_left(commands, origin)
    ended = commands.run("verify", "--json", spills=True)
    assert ended.code == 1
    assert [p["status"] for p in json.loads(ended.out)["parity"]] == ["different", "equal"]


def test_an_interrupted_reconciliation_tells_what_it_had_compared(
    commands: Commands, origin: psycopg.Connection
) -> None:
    for step, done in (("the first model's turn", 0), ("the second model is compared", 1)):
        ended = commands.run("reconcile", "--json", step=step, signal="SIGTERM", spills=True)
        assert ended.code == 130, (step, ended)
        document = json.loads(ended.out)
        found = [(p["node"], p["status"]) for p in document.get("parity", [])]
        assert (document["status"], found) == ("failed", [("model.shop.first", "equal")] * done)
        assert kept(commands) == found
        nothing_is_left(commands, origin)


def test_a_person_is_told_what_had_been_compared_and_no_verdict_on_the_rest(commands: Commands, tmp_path: Path) -> None:
    ended = commands.run("verify", "--report", str(tmp_path / "p.html"), step="the second table is compared")
    assert ended.code == 130
    assert "landing.first" in ended.out and "All" not in ended.out and "landing.second" not in ended.out
    assert "interrupted after 1 comparison\n" in ended.err
    assert not (tmp_path / "p.html").exists(), "half a report would be taken for a whole one"


def is_stopped(commands: Commands) -> bool:
    told = subprocess.run(["ps", "-o", "state=", "-p", str(commands.pid)], capture_output=True, text=True, check=False)
    return told.stdout.startswith("T")


def test_whoever_waits_for_the_origin_can_be_interrupted(
    commands: Commands, origin: psycopg.Connection, database: str
) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    commands.start("verify", "--json", step="the first table is compared", signal="SIGSTOP")
    until(lambda: is_stopped(commands))
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE second IN ACCESS EXCLUSIVE MODE")
        os.kill(commands.pid, signal.SIGCONT)
        until(lambda: bool(origin.execute(waiting).fetchall()))
        began = time.monotonic()
        os.kill(commands.pid, signal.SIGTERM)
        ended = commands.ended()
        assert (ended.code, time.monotonic() - began < 5) == (130, True), ended
        assert [p["node"] for p in json.loads(ended.out)["parity"]] == [f"{commands.orders.node}.first"]
    nothing_is_left(commands, origin)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_waits_for_the_warehouse_can_be_interrupted(
    commands: Commands, there: tuple[Project, Any], origin: psycopg.Connection, number: int
) -> None:
    """It is read in another thread, which answers no signal while it waits."""
    project, ask = there
    commands.orders = replace(commands.orders, adapter="postgres", profile=project.warehouse.credentials)
    assert commands.run("sync", "--full-refresh").code == 0
    commands.start("verify", "--json", step="the first table is compared", signal="SIGSTOP")
    until(lambda: is_stopped(commands))
    ask("BEGIN")
    ask("LOCK TABLE landing.second IN ACCESS EXCLUSIVE MODE")
    os.kill(commands.pid, signal.SIGCONT)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    until(lambda: bool(ask(waiting)))
    began = time.monotonic()
    os.kill(commands.pid, number)
    ended = commands.ended()
    ask("ROLLBACK")
    assert (ended.code, time.monotonic() - began < 5) == (130, True), ended
    nothing_is_left(commands, origin)


def test_an_interrupted_repair_has_repaired_all_of_a_table_or_nothing(
    commands: Commands, origin: psycopg.Connection
) -> None:
    chance = random.Random(SEED)
    commands.orders = replace(commands.orders, chunk_rows=10)
    steps = chance.sample(list(REPAIRING), len(REPAIRING))
    for i in range(max(2, RUNS // 2)):
        step, number = steps[i % len(steps)], chance.choice(["SIGINT", "SIGTERM"])
        told = f"seed {SEED}: {number} when {step}"
        asked(commands, "UPDATE landing.first SET note = 'wrong' WHERE id % 40 = 0")
        ended = commands.run("repair", "--json", step=step, signal=number)
        assert ended.code == 130, (told, ended)
        whole = step in ("committed", "compared again")
        wrong = asked(commands, "SELECT count(*) FROM landing.first WHERE note = 'wrong'")
        assert wrong == [(0 if whole else 25,)], told
        receipts = asked(commands, "SELECT status FROM _dbt_bridge.receipts WHERE hop = 'repair'")
        asked(commands, "DELETE FROM _dbt_bridge.receipts WHERE hop = 'repair'")
        assert receipts == [("success",)] * whole, told
        assert [r["status"] for r in json.loads(ended.out)["receipts"]] == ["success"] * whole, told
        nothing_is_left(commands, origin)
    assert commands.run("repair").code == 0
    assert commands.run("verify").code == 0


class Pressing(Silent):
    """Presses Ctrl-C once what was started has the processor."""

    def started(self, *_: object) -> None:
        began = time.process_time()

        def press() -> None:
            while time.process_time() - began < 1:
                pass
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press, daemon=True).start()


def test_an_engine_that_is_interrupted_in_a_query_is_no_failure(
    project: Project, origin: psycopg.Connection, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB answers Ctrl-C with an error of its own, which would be told as a bug."""
    duckdb.connect(str(warehouse_file)).close()
    slow = "SELECT sum(a.range * b.range % 7) FROM range(1000000) AS a, range(1000000) AS b"
    model = Reconciliation("model.shop.slow", "slow", "slow", "slow", metrics=(Metric("slow", "SELECT 1", slow),))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted) as interrupted:
            reconcile(replace(project, reconciliations=(model,)), ReconcileOptions(), Pressing())
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted.value.parities == ()
