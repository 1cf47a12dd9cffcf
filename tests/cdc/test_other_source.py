"""An origin that is no Postgres, whose positions have ten bytes, from end to end: only the contract knows it.

The journal of `tests.contracts.journal` is registered as a connector, and everything else is as for any cdc source.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable
from tests.contracts.journal import Journal, JournalSource

from dbt_bridge.cdc import slots
from dbt_bridge.cdc.stream import stream
from dbt_bridge.cdc.stream_connection import StreamOptions
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.contracts.connector import GROUP
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.project import LandingSource, LandingTable, Project, WarehouseProfile
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.observe.stream_progress import Batch, WatchSilent
from dbt_bridge.project import origins
from dbt_bridge.project.connectors import Registry
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.repair import RepairOptions, repair
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions
from dbt_bridge.run.sync import sync as run_sync

NODE = "source.shop.shop."
SLOT = "journal_test"
COLUMNS = {"id": "int64", "note": "string"}
Ask = Callable[[str], list[tuple[Any, ...]]]


def register(patch: Callable[[Any, str, Any], None]) -> None:
    """The connector is found as one of an installed package."""
    point = EntryPoint("journal", f"{JournalSource.__module__}:JOURNAL", GROUP)
    vars(point)["dist"] = SimpleNamespace(name="tests")
    found = Registry([*entry_points(group=GROUP), point])
    patch(origins, "registry", lambda: found)


def project_of(root: Path, *tables: LandingTable, destination: str | None = None) -> Project:
    profile = WarehouseProfile(
        "duckdb", "warehouse", "main", 2, {"type": "duckdb", "path": str(root / "warehouse.duckdb"), "schema": "main"}
    )
    source = LandingSource(
        name="shop", origin="shop_journal", origin_schema=None, landing_schema="landing", landing_database="",
        destination=destination, tables=tables, slot=SLOT,
        defaults=LandingTable(NODE.removesuffix("."), "", "", replication="cdc"),
    )  # fmt: skip
    return Project(root, "shop", profile, (source,), ())


def table(name: str, **given: Any) -> LandingTable:
    return LandingTable(f"{NODE}{name}", name, name, replication="cdc", **given)


def change(kind: str, id_: int, note: str | None = None, name: str = "orders", **more: Any) -> dict[str, Any]:
    return {"table": name, "kind": kind, "row": {"id": id_, "note": note, **more}}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Of one table with three rows."""
    monkeypatch.setenv("SOURCES__SHOP_JOURNAL__CREDENTIALS", f"journal:///{str(tmp_path / 'journal').lstrip('/')}")
    register(monkeypatch.setattr)
    (tmp_path / "journal").mkdir()
    made = Journal(tmp_path / "journal")
    made.commit({"table": "orders", "kind": "create", "columns": COLUMNS, "key": ["id"]})
    made.commit(*(change("insert", id_, f"n{id_}") for id_ in (1, 2, 3)))
    return made


@pytest.fixture
def sync(journal: Journal, tmp_path: Path) -> Callable[..., list[Receipt]]:
    def once(*tables: LandingTable, destination: str | None = None, **options: Any) -> list[Receipt]:
        chosen = project_of(tmp_path, *(tables or (table("orders"),)), destination=destination)
        return run_sync(chosen, SyncOptions(**options), Silent())

    return once


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    def answer(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    return answer


Sync = Callable[..., list[Receipt]]
ORDERS = "SELECT id, note FROM landing.orders ORDER BY id"


def test_the_first_sync_copies_and_the_next_ones_bring_what_changed(journal: Journal, sync: Sync, ask: Ask) -> None:
    (copied,) = sync()
    assert (copied.hop, copied.status, copied.rows_loaded) == ("initial_copy", "success", 3)
    journal.commit(change("insert", 4, "new"), change("update", 1, None))
    journal.commit(change("delete", 2))
    (changed,) = sync()
    assert (changed.hop, changed.rows_loaded, changed.error) == ("cdc", 3, None)
    assert (changed.rows_inserted, changed.rows_updated, changed.rows_deleted) == (1, 1, 1)
    assert (changed.checkpoint_from, changed.checkpoint_to) == (copied.checkpoint_to, journal_end(journal))
    assert ask(ORDERS) == [(1, None), (3, "n3"), (4, "new")]
    assert ask("SELECT value, slot, state FROM _dbt_bridge.checkpoints") == [
        (changed.checkpoint_to, f"journal/{SLOT}", "stands")
    ]
    (unchanged,) = sync()
    assert (unchanged.rows_loaded, unchanged.checkpoint_to) == (0, changed.checkpoint_to)
    journal.commit({"table": "orders", "kind": "truncate"})
    journal.commit(change("insert", 9, "after"))
    sync()
    assert ask(ORDERS) == [(9, "after")]


def journal_end(journal: Journal) -> str:
    """Where a source stands that has everything: each commit is two further."""
    commits = list(journal.commits())
    return f"{commits[-1].next}@{2 * len(commits)}"


def test_a_history_keeps_every_version_under_the_number_of_its_commit(journal: Journal, sync: Sync, ask: Ask) -> None:
    tables = table("orders", history=True), table("log", write_disposition="append")
    journal.commit({"table": "log", "kind": "create", "columns": COLUMNS, "key": ["id"]})
    sync(*tables)
    journal.commit(change("update", 1, "a"), change("insert", 7, "seven", name="log"))
    journal.commit(change("update", 1, "b"), change("delete", 2), change("delete", 7, name="log"))
    sync(*tables)
    versions = "SELECT id, note, _lsn, valid_to IS NULL FROM landing.orders_history WHERE id < 3"
    assert ask(f"{versions} ORDER BY id, _lsn NULLS FIRST") == [
        (1, "n1", None, False),
        (1, "a", 6, False),
        (1, "b", 8, True),
        (2, "n2", None, False),
    ]
    assert ask("SELECT id, _change, _lsn FROM landing.log ORDER BY _lsn, _seq") == [(7, "insert", 6), (7, "delete", 8)]


def test_a_process_that_dies_between_commit_and_acknowledgement_doubles_nothing(
    journal: Journal, sync: Sync, ask: Ask, tmp_path: Path
) -> None:
    tables = table("orders", history=True), table("log", write_disposition="append")
    journal.commit({"table": "log", "kind": "create", "columns": COLUMNS, "key": ["id"]})
    sync(*tables)
    journal.commit(change("update", 1, "a"), change("insert", 7, "seven", name="log"))
    kept = (tmp_path / "journal" / "slots" / f"{SLOT}.json").read_text()
    died = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False, cwd=Path(__file__).parents[2])
    assert died.returncode == -9
    assert (tmp_path / "journal" / "slots" / f"{SLOT}.json").read_text() == kept, "nothing was acknowledged"
    assert ask("SELECT note FROM landing.orders WHERE id = 1") == [("a",)], "and everything was committed"
    journal.commit(change("delete", 7, name="log"))
    assert {receipt.status for receipt in sync(*tables)} == {"success"}
    assert ask("SELECT _change FROM landing.log ORDER BY _lsn, _seq") == [("insert",), ("delete",)]
    assert ask("SELECT note FROM landing.orders_history WHERE id = 1 ORDER BY _lsn NULLS FIRST") == [("n1",), ("a",)]


DYING = """
import os, pathlib, signal, sys
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync
from tests.cdc.test_other_source import project_of, register, table
from tests.contracts.journal import JournalFeed
register(setattr)
JournalFeed.acknowledge = lambda self, position: os.kill(os.getpid(), signal.SIGKILL)
tables = table("orders", history=True), table("log", write_disposition="append")
sync(project_of(pathlib.Path(sys.argv[1]), *tables), SyncOptions(), Silent())
"""


def test_a_destination_that_guards_itself_finds_the_same_commits_again(
    journal: Journal, sync: Sync, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta commits by itself: its tables remember a number, which must mean the same commit the next time."""
    monkeypatch.setenv("DESTINATION__LAKE__DESTINATION_TYPE", "filesystem")
    monkeypatch.setenv("DESTINATION__LAKE__BUCKET_URL", str(tmp_path / "lake"))
    tables = (table("orders", history=True),)
    assert {r.status for r in sync(*tables, destination="lake")} == {"success"}
    journal.commit(change("update", 1, "a"))

    def lost(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # the tables are written, their checkpoints are not
        patched.setattr(DuckDBWarehouse, "save", lost)
        with pytest.raises(KeyboardInterrupt):
            sync(*tables, destination="lake")
    journal.commit(change("update", 1, "b"))
    assert {r.status for r in sync(*tables, destination="lake")} == {"success"}
    history = DeltaTable(str(tmp_path / "lake" / "landing" / "orders_history")).to_pyarrow_table()
    versions = [(row["note"], row["_lsn"]) for row in history.to_pylist() if row["id"] == 1]
    assert sorted(versions, key=lambda one: one[1] or 0) == [("n1", None), ("a", 4), ("b", 6)]


def test_a_position_bounds_a_sync_and_another_text_is_none(journal: Journal, sync: Sync, ask: Ask) -> None:
    sync()
    journal.commit(change("update", 1, "a"))
    between = journal_end(journal)
    journal.commit(change("update", 1, "b"))
    sync(until_lsn=between)
    assert ask("SELECT note FROM landing.orders WHERE id = 1") == [("a",)]
    assert ask("SELECT value FROM _dbt_bridge.checkpoints") == [(between,)]
    with pytest.raises(UsageError, match="'0/16B3748' is no place in a journal"):
        sync(until_lsn="0/16B3748")


def test_columns_that_come_and_types_that_change(journal: Journal, sync: Sync, ask: Ask) -> None:
    sync()
    journal.commit({"table": "orders", "kind": "alter", "columns": {**COLUMNS, "tag": "string"}})
    journal.commit(change("insert", 4, "n4", tag="new"))
    sync()
    assert ask("SELECT id, tag FROM landing.orders WHERE id > 2 ORDER BY id") == [(3, None), (4, "new")]
    journal.commit({"table": "orders", "kind": "alter", "columns": {"id": "int64", "note": "string", "tag": "int64"}})
    journal.commit({"table": "orders", "kind": "truncate"}, change("insert", 1, "n1", tag=5))
    (again,) = sync()
    assert (again.hop, again.error) == ("initial_copy", None)
    assert ask("SELECT id, tag FROM landing.orders") == [(1, 5)]


def test_a_value_that_does_not_fit_sets_its_table_aside_and_the_others_go_on(
    journal: Journal, sync: Sync, ask: Ask
) -> None:
    tables = table("orders"), table("more")
    journal.commit({"table": "more", "kind": "create", "columns": COLUMNS, "key": ["id"]})
    sync(*tables)
    journal.commit(change("insert", 8, "m", name="more"), change("insert", None, "keyless"))  # type: ignore[arg-type]
    receipts = {receipt.node.rsplit(".", 1)[1]: receipt for receipt in sync(*tables)}
    assert (receipts["orders"].status, receipts["more"].status) == ("failed", "success")
    states = "SELECT node LIKE '%orders', state, set_aside <> '' FROM _dbt_bridge.checkpoints ORDER BY 1"
    assert ask(states) == [(False, "stands", False), (True, "set_aside", True)]


def test_it_is_verified_at_one_position_and_repaired_there(
    journal: Journal, sync: Sync, ask: Ask, tmp_path: Path
) -> None:
    sync(table("orders", history=True))
    journal.commit(change("update", 3, "later"))
    project = project_of(tmp_path, table("orders", history=True))
    (parity,) = verify(project, VerifyOptions(), Silent())
    assert (parity.status, parity.at) == ("equal", f"journal position {journal_end(journal)}")
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("UPDATE landing.orders SET note = 'spoilt' WHERE id = 1")
    done = repair(project, RepairOptions(), Silent())
    assert [p.status for p in done.parities] == ["equal"]
    assert ask(ORDERS) == [(1, "n1"), (2, "n2"), (3, "later")]


def test_people_see_its_log_and_drop_it(journal: Journal, sync: Sync, tmp_path: Path) -> None:
    project = project_of(tmp_path, table("orders"))
    assert [report.problem for report in slots.list_reports(project)] == ["there is no slot of this name yet"]
    sync()
    journal.commit(change("update", 3, "later"))
    (report,) = slots.list_reports(project)
    assert (report.is_fault, report.wal_status, (report.lag_bytes or 0) > 0) == (False, "kept", True)
    (dropped,) = slots.drop_slots(project, list(project.sources))
    assert (dropped.slot, dropped.nodes) == (SLOT, (f"{NODE}orders",))
    assert sync()[0].hop == "initial_copy"


def test_a_journal_of_another_folder_is_another_origin(
    journal: Journal, sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync()
    monkeypatch.setattr(JournalSource, "read_identity", lambda self: f"another/{SLOT}")
    (receipt,) = sync()
    assert "another server" in (receipt.error or "")
    (again,) = sync(full_refresh=True)
    assert again.hop == "initial_copy"


class Seen(WatchSilent):
    """Keeps what the stream tells."""

    def __init__(self) -> None:
        self.changes = 0
        self.caught_up_at: list[Position] = []
        self.paused_at: list[str] = []

    def batch(self, batch: Batch) -> None:
        self.changes += batch.changes

    def caught_up(self, source: str, at: Position) -> None:
        self.caught_up_at.append(at)

    def paused(self, source: str) -> None:
        self.paused_at.append(source)


def test_a_stream_follows_it_and_lets_go_while_it_is_verified(journal: Journal, tmp_path: Path, ask: Ask) -> None:
    project, seen, stop = project_of(tmp_path, table("orders")), Seen(), threading.Event()

    def until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 180
        while not condition() and not running.done() and time.monotonic() < end:
            time.sleep(0.02)
        assert condition(), running.exception(timeout=0) if running.done() else "it did not come to that"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, project, StreamOptions(every=0.1), seen, stop)
        try:
            until(lambda: bool(seen.caught_up_at))  # with the copy
            journal.commit(change("insert", 4, "n4"))
            until(lambda: seen.changes == 1)
            (parity,) = verify(project, VerifyOptions(), Silent())
            journal.commit(change("delete", 1))
            until(lambda: seen.changes == 2)
        finally:
            stop.set()
    assert (parity.status, seen.paused_at, running.result()) == ("equal", ["shop"], None)
    assert ask(ORDERS) == [(2, "n2"), (3, "n3"), (4, "n4")]
