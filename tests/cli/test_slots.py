"""`dbt-bridge slots`: what an origin keeps for a project, and its removal; on a real Postgres and real dbt."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbt_bridge.cli import run_command
from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.lsn import format_lsn
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.nouns.table import TableName
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.project.load import load_project

SOURCES = """
sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public, replication: cdc, slot: %s, max_wal: 1GB}}}
    tables: [{name: orders}, {name: events, config: {meta: {bridge: {write_disposition: append}}}}]
  - name: copied
    schema: landing_copied
    config: {meta: {bridge: {origin: shop_pg, schema: public}}}
    tables: [{name: orders}]
"""
Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def slot(origin: psycopg.Connection, database: str) -> str:
    """Names are of the whole server: this one is the test's own."""
    return f"slots_{database.rsplit('/', 1)[1]}"


@pytest.fixture
def shop(dbt_root: Path, origin: psycopg.Connection, database: str, slot: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    origin.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    origin.execute("CREATE TABLE events (what text)")
    (dbt_root / "models" / "sources.yml").write_text(SOURCES % slot)
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", database)
    monkeypatch.chdir(dbt_root)
    return dbt_root


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run_command([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def followed(shop: Path, database: str, slot: str) -> Path:
    """As a sync leaves it: publications, the slot, a checkpoint per table."""
    with Replication("shop_pg", database) as replication:
        publication.ensure(replication, slot, [TableName("public", "orders")], [TableName("public", "events")])
        with replication.create_slot(slot) as exported:
            position = exported.consistent_point
        identity = replication.identity().system_identifier
    project = load_project(DbtOptions(shop))
    warehouse = open_warehouse(project.warehouse, project_root=shop)
    try:
        points = [
            Checkpoint(f"source.shop.shop.{name}", "shop_pg", "", format_lsn(position), f"{identity}/{slot}")
            for name in ("orders", "events")
        ]
        warehouse.save([*points, Checkpoint("source.shop.copied.orders", "shop_pg", "id", "7")], [])
    finally:
        warehouse.close()
    return shop


def remembered(root: Path) -> set[str]:
    project = load_project(DbtOptions(root))
    warehouse = open_warehouse(project.warehouse, project_root=root)
    try:
        return {point.node for point in warehouse.checkpoints()}
    finally:
        warehouse.close()


def test_a_source_that_was_never_synced_has_no_slot_and_that_is_no_fault(
    shop: Path, command: Command, slot: str
) -> None:
    code, document = command("slots")
    (report,) = document["slots"]
    assert (code, document["status"], report["slot"], report["wal_status"]) == (0, "success", slot, None)
    assert (report["problem"], report["mend"]) == ("there is no slot of this name yet", "dbt-bridge sync")
    assert not (shop / "warehouse.duckdb").exists(), "looking makes nothing"


def test_the_log_that_a_slot_retains_is_shown(
    followed: Path, command: Command, origin: psycopg.Connection, slot: str, capsys: pytest.CaptureFixture[str]
) -> None:
    origin.execute("INSERT INTO events SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    code, document = command("slots")
    (report,) = document["slots"]
    assert (code, report["source"], report["active"], report["wal_status"]) == (0, "shop", False, "reserved")
    assert 2_000_000 <= report["lag_bytes"] <= report["retained_bytes"] < 1 << 30
    assert report["lag_seconds"] is not None and 0 <= report["lag_seconds"] < 600
    assert (report["problem"], report["max_wal"]) == ("", 1 << 30)

    capsys.readouterr()
    assert run_command(["slots"]) == 0
    shown = capsys.readouterr().out
    assert slot in shown and "reserved" in shown and "1.1 GB" in shown


def test_too_much_log_is_a_fault_with_its_mend(
    followed: Path, command: Command, origin: psycopg.Connection, slot: str
) -> None:
    sources = followed / "models" / "sources.yml"
    sources.write_text(sources.read_text().replace("1GB", "8kB"))
    origin.execute("INSERT INTO events SELECT repeat('x', 1000) FROM generate_series(1, 100)")
    code, document = command("slots")
    (report,) = document["slots"]
    assert (code, document["status"]) == (1, "failed")
    assert "retains more than max_wal" in report["problem"]
    assert f"dbt-bridge slots drop {slot}" in report["mend"]


def test_a_dropped_slot_leaves_nothing_at_the_origin_and_its_tables_start_anew(
    followed: Path, command: Command, origin: psycopg.Connection, slot: str
) -> None:
    assert origin.execute("SELECT count(*) FROM pg_publication").fetchall() == [(2,)]
    code, document = command("slots", "drop", slot, "--yes")
    (dropped,) = document["dropped"]
    assert (code, dropped["slot"], dropped["publications"]) == (0, slot, [slot, f"{slot}_inserts"])
    assert set(dropped["nodes"]) == {"source.shop.shop.orders", "source.shop.shop.events"}
    assert origin.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchall() == []
    assert origin.execute("SELECT count(*) FROM pg_publication").fetchall() == [(0,)]
    assert remembered(followed) == {"source.shop.copied.orders"}, "other sources go on from where they are"

    code, document = command("slots", "drop", "--yes")
    assert (code, document["dropped"][0]["slot"]) == (0, None)


def test_dropping_asks_first(
    followed: Path,
    origin: psycopg.Connection,
    slot: str,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    assert run_command(["slots", "drop"]) == 1
    assert capsys.readouterr().err == "nothing was touched\n  -> answer yes, or add --yes\n"
    monkeypatch.setattr("click.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_command(["slots", "drop"]) == 130
    assert origin.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchall() == [(1,)]
    code, document = command("slots", "drop")
    assert (code, document["error"]["mend"]) == (2, "add --yes")


def test_a_slot_that_somebody_reads_is_not_dropped(
    followed: Path, command: Command, origin: psycopg.Connection, database: str, slot: str
) -> None:
    with closing(psycopg.connect(f"{database}?replication=database", autocommit=True)) as reader:
        options = f"(proto_version '1', publication_names '{slot}')"
        reader.pgconn.send_query(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 {options}".encode())
        while not origin.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchall()[0][
            0
        ]:
            assert reader.pgconn.status == psycopg.pq.ConnStatus.OK
        pid = reader.pgconn.backend_pid
        code, document = command("slots")
        (report,) = document["slots"]
        assert (code, report["active"], report["active_pid"]) == (0, True, pid)
        code, document = command("slots", "drop", "--yes")
    assert code == 1
    assert f"server process {pid}" in document["error"]["what"]
    assert remembered(followed) >= {"source.shop.shop.orders"}, "nothing was forgotten"


def test_a_slot_that_is_gone_is_a_fault(
    followed: Path, command: Command, origin: psycopg.Connection, slot: str
) -> None:
    origin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    code, document = command("slots")
    (report,) = document["slots"]
    assert (code, document["status"]) == (1, "failed")
    assert report["problem"].startswith("the slot is gone")
    assert report["mend"] == "dbt-bridge sync --full-refresh --select source:shop"


def test_another_name_is_refused_with_the_nearest(followed: Path, command: Command, slot: str) -> None:
    code, document = command("slots", "drop", f"{slot}x", "--yes")
    assert code == 2
    assert f"has the slot '{slot}x'" in document["error"]["what"]
    assert f"did you mean '{slot}'?" in document["error"]["mend"]


def test_an_origin_that_cannot_be_reached_is_told_beside_the_slot(
    shop: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", "postgresql://u:p@127.0.0.1:1/x")
    code, document = command("slots")
    assert code == 1
    assert "shop_pg" in document["slots"][0]["problem"]


@pytest.fixture
def synced(shop: Path, command: Command, origin: psycopg.Connection) -> Path:
    """After a sync, with some log behind it."""
    code, document = command("sync", "--select", "source:shop")
    assert code == 0, document
    origin.execute("INSERT INTO events SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    return shop


def rewrite(root: Path, old: str, new: str) -> None:
    sources = root / "models" / "sources.yml"
    assert old in sources.read_text()
    sources.write_text(sources.read_text().replace(old, new))


@pytest.mark.parametrize("how", ["another replication", "renamed", "removed", "another target"])
def test_a_slot_that_no_source_uses_any_more_is_told_until_it_is_dropped(
    how: str, synced: Path, command: Command, origin: psycopg.Connection, slot: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "another replication":
        rewrite(synced, "replication: cdc", "replication: initial_copy")
        rewrite(synced, f", slot: {slot}, max_wal: 1GB", "")
        rewrite(synced, ", config: {meta: {bridge: {write_disposition: append}}}", "")
    elif how == "renamed":
        rewrite(synced, f"slot: {slot}", f"slot: {slot}_2")
    elif how == "removed":
        text = (synced / "models" / "sources.yml").read_text()
        rewrite(synced, text[: text.index("  - name: copied")], "sources:\n")
    else:  # the warehouse of the target is gone, too
        rewrite(synced, f"slot: {slot}", f"slot: {slot}_2")
        profiles = synced / "profiles.yml"
        profiles.write_text(profiles.read_text().replace("warehouse.duckdb", "other.duckdb"))
    for _ in range(2):
        capsys.readouterr()
        assert run_command(["sync", "--select", "source:copied", "--full-refresh"]) == 0
        said = capsys.readouterr().err
        assert f"slot '{slot}' of origin 'shop_pg' retains" in said and f"-> dbt-bridge slots drop {slot}" in said
    code, document = command("slots")
    (unused,) = [report for report in document["slots"] if report["slot"] == slot]
    assert (code, unused["source"], unused["mend"]) == (1, "", f"dbt-bridge slots drop {slot}")
    assert unused["retained_bytes"] > 2_000_000 and "no source uses it any more" in unused["problem"]
    assert ("(made for " in unused["problem"]) == (how == "another target"), "another warehouse may read it"
    code, document = command("doctor")
    (finding,) = [check for check in document["checks"] if f"'{slot}'" in check["what"] and check["mend"]]
    assert finding["mend"] == unused["mend"]

    code, document = command(*unused["mend"].split()[1:], "--yes")
    assert (code, document["dropped"][0]["slot"]) == (0, slot)
    assert document["dropped"][0]["publications"] == [slot, f"{slot}_inserts"]
    assert origin.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchall() == []
    assert slot not in {report["slot"] for report in command("slots")[1]["slots"]}


def test_max_wal_counts_a_slot_that_no_source_uses_any_more(synced: Path, command: Command, slot: str) -> None:
    rewrite(synced, f"slot: {slot}", f"slot: {slot}_2")
    rewrite(synced, "1GB", "1MB")
    code, document = command("sync", "--select", "source:shop", "--full-refresh")
    assert code == 1
    (error,) = {receipt["error"] for receipt in document["receipts"] if receipt["status"] == "failed"}
    assert f"slot '{slot}'" in error and "max_wal is" in error and f"dbt-bridge slots drop {slot}" in error


def test_a_slot_of_another_project_or_of_a_target_that_is_there_is_left_alone(
    synced: Path, command: Command, origin: psycopg.Connection, slot: str
) -> None:
    rewrite(synced, f"slot: {slot}", f"slot: {slot}_2")
    (synced / "warehouse.duckdb").unlink()
    for owner in ("other/dev", "shop/prod"):
        origin.execute(f"COMMENT ON PUBLICATION {slot} IS 'made by dbt-bridge for {owner}'".encode())
        if owner == "shop/prod":
            profiles = json.loads((synced / "profiles.yml").read_text())
            profiles["shop"]["outputs"]["prod"] = {"type": "duckdb", "path": "prod.duckdb"}
            (synced / "profiles.yml").write_text(json.dumps(profiles))
        assert slot not in {report["slot"] for report in command("slots")[1]["slots"]}
