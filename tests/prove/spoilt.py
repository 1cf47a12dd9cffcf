"""A landed source that tests spoil behind the bridge's back, and repair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
from tests.projects import landing_source

from dbt_bridge.nouns.project import LandingTable, Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.repair import RepairOptions, repair
from dbt_bridge.run.sync import SyncOptions, sync

SLOT = "dbt_bridge_repair_test"


class Shop:
    """The source `shop` of a project, landed."""

    def __init__(self, project: Project, file: Path, *tables: LandingTable, **keys: str | None) -> None:
        self.file = file
        source = landing_source(*tables, slot=SLOT, **keys)
        self.project = replace(project, sources=(source,))
        self.sync()

    def sync(self) -> None:
        failed = [r.error for r in sync(self.project, SyncOptions(), Silent()) if r.status != "success"]
        assert failed == [], failed  # pytest explains assertions of files of tests alone

    def repair(self, *, equal: bool = True, **options: object) -> list[Receipt]:
        """The receipts; everything is equal after it, or as `equal` says."""
        done = repair(self.project, RepairOptions(**options), Silent())  # type: ignore[arg-type]
        assert done.ok == equal, ([p.error for p in done.parities], [r.error for r in done.receipts])
        return list(done.receipts)

    def spoil(self, *statements: str) -> None:
        with duckdb.connect(str(self.file)) as connection:
            for statement in statements:
                assert connection.execute(statement).fetchall() != [(0,)], statement
