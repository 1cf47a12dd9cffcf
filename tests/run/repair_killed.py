"""`python repair_killed.py`: repairs that kill themselves at a named step, as `cdc_killed` does with syncs."""

from __future__ import annotations

import os

import cdc_killed
from cdc_killed import Orders, Step

from dbt_bridge import run
from dbt_bridge.progress import Silent
from dbt_bridge.run import mending

STEPS = {
    "compared": Step("dbt_bridge.run.mending:wounds", after=True),
    "read": Step("dbt_bridge.run.mending:_of", after=True),
    "applied in part": Step("dbt_bridge.run.repairing:_sum", after=True),
    "applied, not committed": Step("dbt_bridge.run.repairing:_refuse_moved", after=True),
    "inside of the commit": Step("dbt_bridge.load.duckdb_audit:append_receipts", after=True),
    "a step of Delta's commit": Step("dbt_bridge.load.delta_table:FollowedTable._committed", after=True),
    "committed": Step("dbt_bridge.run.repairing:_again"),
    "compared again": Step("dbt_bridge.run.repairing:_healed", after=True),
}


def _repaired(orders: Orders) -> list[str | None]:
    """The errors of one repair."""
    os.environ.update(orders.environment)
    mending._PIECE = orders.chunk_rows
    if orders.step:
        cdc_killed._deadly(STEPS[orders.step], orders.call)
    done = run.repair(cdc_killed.project(orders), run.RepairOptions(), Silent())
    return [None] * (not done.ok) + [receipt.error for receipt in done.receipts if receipt.status != "success"]


if __name__ == "__main__":
    cdc_killed._synced = _repaired
    cdc_killed.main()
