"""kill -9 in the middle of a comparison: what was found before it is kept, and nothing that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psycopg
import pytest
from tests.killed import killed_sync
from tests.killed.killed_sync import Orders, Step

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.project import Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions, sync

Ask = Callable[[str], list[tuple[object, ...]]]
SLOT = "dbt_bridge_verify_kill"
KEPT = "SELECT node, status FROM _dbt_bridge.parity ORDER BY started_at"


@pytest.fixture
def orders(project: Project, origin: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> Orders:
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    for name in ("first", "second"):
        origin.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)".encode())
        origin.execute(f"INSERT INTO {name} SELECT generate_series(1, 100)".encode())
    orders = Orders(
        str(project.root), ("first", "second"), "duckdb", project.warehouse.credentials, slot=SLOT,
        environment={"SOURCES__SHOP_PG__CREDENTIALS": database},
    )  # fmt: skip
    receipts = sync(killed_sync.project(orders), SyncOptions(), Silent())
    assert [r.error for r in receipts if r.status != "success"] == []
    return orders


def killed(orders: Orders, step: str, call: int) -> int:
    """The exit code of one verification, in a process of its own."""
    told = json.dumps({**asdict(orders), "step": step, "call": call})
    script = str(Path(killed_sync.__file__).with_name("killed_verify.py"))
    done = subprocess.run([sys.executable, script], input=told, capture_output=True, text=True, timeout=300, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("step", killed_sync.VERIFYING.values(), ids=lambda step: step.function)
def test_every_step_to_die_at_is_still_one(step: Step) -> None:
    assert callable(killed_sync.found(step)[2])


@pytest.mark.parametrize("step", killed_sync.VERIFYING)
def test_the_verdict_of_the_first_table_is_kept_when_the_second_one_is_killed(
    orders: Orders, step: str, landed: Ask
) -> None:
    assert killed(orders, step, call=2) == -signal.SIGKILL
    assert landed(KEPT) == [(f"{orders.node}.first", "equal")]
    parities = verify(killed_sync.project(orders), VerifyOptions(), Silent())
    assert [p.status for p in parities] == ["equal", "equal"]
    assert landed(KEPT) == [(f"{orders.node}.{name}", "equal") for name in ("first", "first", "second")]


def test_a_verdict_that_the_warehouse_refused_once_is_kept_with_the_next(
    orders: Orders, landed: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, refusals = DuckDBWarehouse.record_parity, iter([True])

    def refused_once(self: DuckDBWarehouse, rows: object) -> None:
        if next(refusals, False):
            raise DestinationError("no room", mend="free some")
        keep(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(DuckDBWarehouse, "record_parity", refused_once)
    parities = verify(killed_sync.project(orders), VerifyOptions(), Silent())
    assert [p.status for p in parities] == ["equal", "equal"]
    assert landed(KEPT) == [(f"{orders.node}.{name}", "equal") for name in ("first", "second")]


def test_verdicts_that_cannot_be_kept_are_an_error(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: DuckDBWarehouse, rows: object) -> None:
        raise DestinationError("no room", mend="free some")

    monkeypatch.setattr(DuckDBWarehouse, "record_parity", refused)
    with pytest.raises(DestinationError, match="no room"):
        verify(killed_sync.project(orders), VerifyOptions(), Silent())
