"""`tables: "*"` means what is there: tables come and go, and what landed of those that went is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from tests.projects import landing_source

from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.plan import make_plan
from dbt_bridge.run.sync import SyncOptions, sync

Ask = Callable[[str], list[tuple[object, ...]]]
EVERY = landing_source(origin_schema="app", every_table=True, slot="dbt_bridge_left")


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def run(project: Project, replication: str = "cdc") -> tuple[list[Receipt], str]:
    """The receipts of a sync of every table, and what it told, which a plan tells after it."""
    told = Told()
    source = replace(EVERY, defaults=replace(EVERY.defaults, replication=replication))
    if replication == "incremental":
        source = replace(source, defaults=replace(source.defaults, cursor="id"))
    chosen = replace(project, sources=(source,), target_path=Path("target"))
    receipts = sync(chosen, SyncOptions(), told)
    notes = make_plan(chosen).notes
    assert [f"{note.what}\n  -> {note.mend}" for note in notes] == told.lines
    return receipts, "\n".join(told.lines)


@pytest.fixture
def app(origin: psycopg.Connection) -> psycopg.Connection:
    origin.execute(
        "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.u (id int PRIMARY KEY)"
    )
    origin.execute("INSERT INTO app.t VALUES (1); INSERT INTO app.u VALUES (1)")
    return origin


def test_a_followed_table_that_is_dropped_is_told_while_its_landing_stands(
    app: psycopg.Connection, project: Project, landed: Ask
) -> None:
    confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_left'"
    assert run(project)[1] == ""
    app.execute("DROP TABLE app.u; INSERT INTO app.t VALUES (2)")
    for _ in range(2):
        receipts, told = run(project)
        assert [(r.node, r.status) for r in receipts] == [("source.shop.shop.t", "success")], "`*` is what is there"
        assert "shop_landing.u is not kept any more: origin 'shop_pg' has no table app.u any more" in told
    aside = landed("SELECT state FROM _dbt_bridge.checkpoints WHERE node LIKE '%.u'")
    assert (landed("SELECT * FROM shop_landing.u"), aside) == ([(1,)], [("set_aside",)])

    app.execute("DROP TABLE app.t")
    (failed,), told = run(project)
    assert (failed.node, failed.status) == ("source.shop.shop", "failed")
    assert "source shop is empty: schema 'app' of origin 'shop_pg' has no table" in (failed.error or "")
    assert "shop_landing.t is not kept any more" in told
    before = app.execute(confirmed).fetchall()
    app.execute("CREATE TABLE public.other (id int); INSERT INTO public.other VALUES (1)")
    run(project)
    assert app.execute(confirmed).fetchall() > before, "the origin may let go of its log"

    app.execute("CREATE TABLE app.u (id int PRIMARY KEY); INSERT INTO app.u VALUES (7)")
    receipts, told = run(project)
    assert [(r.node, r.hop, r.status) for r in receipts] == [("source.shop.shop.u", "initial_copy", "success")]
    assert "shop_landing.u" not in told and "shop_landing.t" in told
    assert landed("SELECT * FROM shop_landing.u") == [(7,)]


def test_a_landing_that_is_dropped_too_is_forgotten(app: psycopg.Connection, project: Project, landed: Ask) -> None:
    run(project, "incremental")
    app.execute("DROP TABLE app.u")
    assert "shop_landing.u is not kept any more" in run(project, "incremental")[1]
    with duckdb.connect(str(project.warehouse.credentials["path"])) as warehouse:
        warehouse.execute("DROP TABLE shop_landing.u")
    assert run(project, "incremental")[1] == ""
    assert landed("SELECT node FROM _dbt_bridge.checkpoints") == [("source.shop.shop.t",)]


def test_another_programs_slot_stays_where_it_stands(app: psycopg.Connection, project: Project) -> None:
    app.execute("DROP TABLE app.t, app.u")
    app.execute("SELECT pg_create_logical_replication_slot('dbt_bridge_left', 'test_decoding')")
    confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'dbt_bridge_left'"
    before = app.execute(confirmed).fetchall()
    app.execute("CREATE TABLE public.other (id int); INSERT INTO public.other VALUES (1)")
    source = replace(EVERY, defaults=replace(EVERY.defaults, replication="cdc"))
    receipts = sync(replace(project, sources=(source,)), SyncOptions(), Told())
    assert any("another program's" in (receipt.error or "") for receipt in receipts)
    assert app.execute(confirmed).fetchall() == before
