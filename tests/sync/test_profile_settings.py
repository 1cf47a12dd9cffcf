"""`settings` of a dbt-duckdb profile, which dbt sets on each of its cursors, hold for the bridge's too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import psycopg
from tests.projects import MakeSource, table

from dbt_bridge.contracts.capabilities import AnswersQueries
from dbt_bridge.nouns.project import Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions, sync

SETTINGS = {"TimeZone": "America/Sao_Paulo", "enable_progress_bar": False, "memory_limit": "300MB"}


def test_a_time_zone_of_the_profile_opens_the_warehouse_and_changes_no_value(
    origin: psycopg.Connection, project: Project, source: MakeSource, landed: Callable[[str], list[tuple[object, ...]]]
) -> None:
    origin.execute("CREATE TABLE a (id int PRIMARY KEY, moment timestamptz, local timestamp)")
    origin.execute("INSERT INTO a VALUES (1, '2018-02-18 01:30+00', '2018-02-17 23:30')")
    profile = project.warehouse
    settings = {**profile.credentials, "settings": SETTINGS}
    chosen = replace(
        project, warehouse=replace(profile, credentials=settings), sources=(source(table("a", "initial_copy")),)
    )
    [receipt] = sync(chosen, SyncOptions(), Silent())
    assert receipt.status == "success"
    assert landed("SELECT epoch(moment)::bigint, epoch(local)::bigint FROM shop_landing.a") == [
        (1518917400, 1518910200)
    ]
    [parity] = verify(chosen, VerifyOptions(level="rows"), Silent())
    assert parity.is_equal
    with closing(open_warehouse(chosen.warehouse, project_root=chosen.root)) as warehouse:
        assert isinstance(warehouse, AnswersQueries)
        with closing(warehouse.queries("main")) as queries:
            _, rows = queries.result("SELECT current_setting('TimeZone') AS zone")
    assert rows.to_pylist() == [{"zone": "America/Sao_Paulo"}]
