"""Logs that no source uses: which of them count for a source's `max_wal`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.projects import landing_source

from dbt_bridge.cdc.unused_logs import UnusedLog, UnusedLogs
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.project import Project, WarehouseProfile

PROJECT = Project(Path(), "shop", WarehouseProfile("duckdb", "w", "main", 1, {}), (), (), target="dev")
SOURCE = landing_source("orders", max_wal=1000)


@pytest.mark.parametrize(
    ("unused", "counts"),
    [
        (UnusedLog("shop_pg", "old", 2000, ("source.shop.old.t",)), True),
        (UnusedLog("shop_pg", "old", 2000, made_for="shop/dev"), True),
        (UnusedLog("shop_pg", "old", 2000), True),
        (UnusedLog("shop_pg", "old", 500, made_for="shop/dev"), False),
        (UnusedLog("shop_pg", "old", None, ("source.shop.old.t",)), False),
        (UnusedLog("shop_pg", "other", 2000, made_for="shop/prod"), False),
    ],
)
def test_only_the_logs_of_this_target_are_bounded_by_it(unused: UnusedLog, counts: bool) -> None:
    logs = UnusedLogs(PROJECT, (), {"shop_pg": [unused]})
    if not counts:
        logs.refuse_beyond(SOURCE)
        return
    with pytest.raises(OriginError, match="max_wal is 1"):
        logs.refuse_beyond(SOURCE)
