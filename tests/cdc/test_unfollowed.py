"""Columns whose values are not in the log: each receipt, doctor and verify tell that the table landed without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from tests.projects import SyncTables, cdc_source, table

from dbt_bridge.nouns.bridge_keys import Columns
from dbt_bridge.nouns.project import Project
from dbt_bridge.observe.progress import Silent, print_summary
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.doctor import stream_findings
from dbt_bridge.verify.report.verdict import format_finding, list_caveats

NODE = "source.shop.landing.g"
TOLD = "s (generated as (a * 2): not in the log)"


@pytest.fixture
def generated(origin: psycopg.Connection) -> psycopg.Connection:
    kind = "VIRTUAL" if origin.info.server_version >= 180000 else "STORED"
    origin.execute(f"CREATE TABLE g (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 2) {kind})".encode())
    origin.execute("INSERT INTO g (id, a) VALUES (1, 1), (2, 2)")
    return origin


def test_a_generated_column_is_told_wherever_its_table_is(
    generated: psycopg.Connection,
    project: Project,
    sync_sources: SyncTables,
    warehouse_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = cdc_source("g")
    copied = sync_sources(source)["g"]
    unchanged = sync_sources(source)["g"]
    generated.execute("UPDATE g SET a = 7 WHERE id = 1")
    changed = sync_sources(source)["g"]
    assert [receipt.without for receipt in (copied, unchanged, changed)] == [TOLD] * 3
    print_summary([changed])
    assert f"landing.g: landed without {TOLD}" in capsys.readouterr().out
    with duckdb.connect(str(warehouse_file), read_only=True) as connection:
        kept = connection.execute("SELECT DISTINCT without FROM _dbt_bridge.receipts").fetchall()
    assert kept == [(TOLD,)]

    chosen = replace(project, sources=(source,))
    (parity,) = verify(chosen, VerifyOptions(), Silent())
    assert (parity.status, parity.without) == ("equal", TOLD)
    assert format_finding(parity) == f"equal, without {TOLD}: 2 rows"
    assert any(TOLD in sentence for sentence in list_caveats([parity]))

    (finding,) = [found for found in stream_findings(lambda: chosen) if found.what.startswith("lands without")]
    assert (finding.subject, finding.status, finding.what) == (NODE, "note", f"lands without {TOLD}")
    assert finding.mend == "in a model: SELECT *, (a * 2) AS \"s\" FROM {{ source('shop', 'g') }}"
    query = finding.mend.removeprefix("in a model: ").replace("{{ source('shop', 'g') }}", "landing.g")
    with duckdb.connect(str(warehouse_file), read_only=True) as connection:
        assert connection.execute(f"{query} ORDER BY id").fetchall() == [(1, 7, 14), (2, 2, 4)]


def test_a_column_that_was_left_out_on_purpose_is_not_told(
    generated: psycopg.Connection, sync_sources: SyncTables
) -> None:
    chosen = table("g", node="source.shop.landing.", columns=Columns(exclude=("s",)))
    assert sync_sources(cdc_source(chosen))["g"].without is None


def test_a_generated_key_is_refused_as_what_it_is_before_anything_lands(
    each_database: str, sync_sources: SyncTables, warehouse_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", each_database)
    with psycopg.connect(each_database, autocommit=True) as origin:
        if origin.info.server_version >= 180000:
            pytest.skip("PostgreSQL 18 sends stored columns, and has no keys of virtual ones")
        origin.execute("CREATE TABLE g (a int NOT NULL UNIQUE, b int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)")
        origin.execute("INSERT INTO g VALUES (1), (2)")
        refused = sync_sources(cdc_source("g"))["g"]
        assert refused.status == "failed" and "b (generated as (a * 2)" in (refused.error or "")
        mend = (refused.error or "").partition("-> ")[2].partition(";")[0]
        assert mend == 'ALTER TABLE "public"."g" REPLICA IDENTITY USING INDEX "g_a_key"'
        origin.execute(mend.encode())
        assert sync_sources(cdc_source("g"))["g"].error is None
        origin.execute("UPDATE g SET a = 10 WHERE a = 1; DELETE FROM g WHERE a = 2; INSERT INTO g VALUES (3)")
        assert sync_sources(cdc_source("g"))["g"].error is None
    with duckdb.connect(str(warehouse_file), read_only=True) as connection:
        assert connection.execute("SELECT * FROM landing.g ORDER BY 1").fetchall() == [(3,), (10,)]
