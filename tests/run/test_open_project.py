"""The public Python API: the same as the commands, on a real Postgres and real dbt; silent, frozen, and as rows."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from tests.cli import test_commands

import dbt_bridge
from dbt_bridge.cli import run_command
from dbt_bridge.errors import BridgeError, MissingExtra, OriginError, UsageError
from dbt_bridge.nouns.parity_row import PARITY
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.receipt import RECEIPTS, Receipt, start_receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.observe.stream_progress import Batch, WatchSilent, as_watch
from dbt_bridge.project.invoke import BuildResult
from dbt_bridge.run.doctor import Findings
from dbt_bridge.run.outcomes import BuildOutcome, DeliverOutcome, Parities, Receipts, SlotReports, SyncOutcome
from dbt_bridge.run.plan import Plan
from dbt_bridge.run.surroundings import Finding

shop = test_commands.shop


def receipt(**known: object) -> Receipt:
    names = {"origin": "pg", "destination": "duckdb", "table_name": "landing.orders", "write_disposition": "replace"}
    return replace(start_receipt("load-1", "initial_copy", "source.shop.shop.orders", **names), **known)  # type: ignore[arg-type]


def test_a_project_is_synced_built_delivered_and_verified_without_a_word(
    each_dbt: str, shop: Path, origin: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    project = dbt_bridge.open_project()

    landed = project.sync(select="source:shop.orders")
    assert (landed.ok, [r.table_name for r in landed.receipts]) == (True, ["landing.orders"])
    built = project.build()
    assert [(r.hop, r.status) for r in built.require_ok().receipts][-1] == ("deliver", "success"), built.receipts
    assert built.dbt is not None and built.dbt_ok
    counted = project.deliver(dry_run=True)
    assert [r.rows_updated for r in counted.receipts] == [2]
    verified = project.verify()
    assert verified.ok
    assert {p.node: p.status for p in verified.parities}["exposure.shop.crm"] == "equal"
    assert origin.execute("SELECT count(*) FROM crm.big").fetchall() == [(2,)]
    printed = capsys.readouterr()
    assert (printed.out.strip(), printed.err) == ("", "")


def test_a_plan_and_findings_are_the_documents_of_the_commands(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = dbt_bridge.open_project(shop)
    for outcome, command in ((project.plan(), "plan"), (project.doctor(), "doctor"), (project.slots(), "slots")):
        capsys.readouterr()
        assert run_command([command, "--json"]) == (0 if outcome.ok else 1)
        assert json.loads(capsys.readouterr().out) == json.loads(outcome.to_json())


def test_a_calls_own_selection_stands_in_place_of_the_projects(shop: Path) -> None:
    project = dbt_bridge.open_project(shop, select="source:shop.orders", vars={"least": 1})
    assert [landing.node for landing in project.plan().landings] == ["source.shop.shop.orders"]
    assert [landing.node for landing in project.plan(select="source:shop.customers").landings] == [
        "source.shop.shop.customers"
    ]
    assert len(project.plan(select=(), exclude="big").landings) == 2
    assert project.options.vars == {"least": 1}


def test_nothing_is_touched_or_read_before_the_first_call_and_errors_are_of_one_tree(tmp_path: Path) -> None:
    nowhere = dbt_bridge.open_project(tmp_path)
    assert pickle.loads(pickle.dumps(nowhere)) == nowhere, "an orchestrator hands it to other processes"
    with pytest.raises(dbt_bridge.BridgeError, match=r"there is no dbt_project\.yml") as refused:
        nowhere.plan()
    assert isinstance(refused.value, dbt_bridge.UsageError)
    findings = nowhere.doctor()
    assert [finding.status for finding in findings] == ["ok", "fault"]
    with pytest.raises(BridgeError, match=r"dbt project: there is no dbt_project\.yml"):
        findings.require_ok()
    with pytest.raises(FrozenInstanceError):
        nowhere.progress = print  # type: ignore[misc]


def test_a_comparison_of_nothing_is_refused(shop: Path) -> None:
    with pytest.raises(UsageError, match="--select tag:none selects nothing"):
        dbt_bridge.open_project(shop).verify(select="tag:none")
    with pytest.raises(UsageError, match=r"the project has no model with config\.meta\.bridge\.reconcile"):
        dbt_bridge.open_project(shop).reconcile()
    with pytest.raises(UsageError, match="the selection needs no table with `replication: cdc`"):
        dbt_bridge.open_project(shop).stream(max_seconds=1)


def test_a_function_hears_lines_and_an_object_events(shop: Path) -> None:
    class Ends(Silent):
        def __init__(self) -> None:
            self.receipts: list[Receipt] = []

        def finished(self, receipt: Receipt) -> None:
            self.receipts.append(receipt)

    lines: list[str] = []
    dbt_bridge.open_project(shop, progress=lines.append).sync()
    assert any(line.startswith("landing.orders: success, 3 rows") for line in lines)
    ends = Ends()
    outcome = dbt_bridge.open_project(shop, progress=ends).sync(select="source:shop.orders", full_refresh=True)
    assert tuple(ends.receipts) == outcome.receipts


def test_who_hears_of_runs_alone_hears_of_a_stream_in_lines() -> None:
    class Messages(Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def message(self, text: str) -> None:
            self.said.append(text)

    at = Position(16, "0/10")
    batch = Batch("shop", 3, at, at, 0.5, None, 1.0)
    messages, lines = Messages(), list[str]()
    for progress in (messages, lines.append, None, WatchSilent()):
        watch = as_watch(progress)
        watch.batch(batch)
        watch.retrying("shop", OriginError("gone"), 2)
    assert messages.said == lines == ["shop: 3 changes, lag 0.5 s, at 0/10", "shop: gone\nshop: trying again in 2 s"]


def test_outcomes_are_rows_also_where_there_are_none() -> None:
    assert Receipts().to_arrow().schema == RECEIPTS.arrow_schema
    assert Parities().to_arrow().schema == PARITY.arrow_schema
    assert SyncOutcome(Receipts([receipt(status="success")])).to_arrow().column("table_name").to_pylist() == [
        "landing.orders"
    ]
    assert Findings([Finding("versions", "ok", "1")]).to_arrow().to_pylist() == [
        {"subject": "versions", "status": "ok", "what": "1", "mend": ""}
    ]
    assert SlotReports().to_arrow().schema.field("lag_bytes").type == pa.int64()
    assert Plan("shop", (), (), ()).to_arrow().column_names == ["step", "node", "what"]


def test_a_data_frame_keeps_what_is_not_known_apart_from_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = Receipts([receipt(rows_loaded=2**53 + 1), receipt(rows_loaded=None)])
    frame = receipts.to_pandas()
    assert frame["rows_loaded"].isna().tolist() == [False, True]
    assert int(frame["rows_loaded"][0]) == 2**53 + 1
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="to_pandas needs an optional part"):
        receipts.to_pandas()


def test_problems_name_what_failed_and_what_only_a_delivery_may_skip() -> None:
    whole, skipped = receipt(status="success"), receipt(status="skipped", error="not built")
    failed = receipt(status="failed", error="no such table")
    assert SyncOutcome(Receipts([whole])).ok
    assert SyncOutcome(Receipts([whole, failed])).problems == ("landing.orders: no such table",)
    assert not DeliverOutcome(Receipts([skipped])).ok
    assert BuildOutcome(Receipts([whole, skipped])).ok
    assert not BuildOutcome(Receipts([skipped]), dbt=BuildResult(True, (), partial="--empty")).ok
    assert BuildOutcome(Receipts(), dbt=BuildResult(False, (), error="boom")).problems == ("dbt build: boom",)
    assert BuildOutcome(Receipts(), dbt=BuildResult(False, ())).as_document()["dbt"] == {
        "success": False, "error": None, "nodes": [],
    }  # fmt: skip
