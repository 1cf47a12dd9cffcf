"""`python repair_killed.py`: repairs that kill themselves at a named step, as `cdc_killed` does with syncs."""

from __future__ import annotations

import os

import cdc_killed
from cdc_killed import REPAIRING, Orders

from dbt_bridge import run
from dbt_bridge.progress import Silent
from dbt_bridge.run import mending


def _repaired(orders: Orders) -> list[str | None]:
    """The errors of one repair."""
    os.environ.update(orders.environment)
    mending._PIECE = orders.chunk_rows
    if orders.step:
        cdc_killed._deadly(REPAIRING[orders.step], orders.call)
    done = run.repair(cdc_killed.project(orders), run.RepairOptions(), Silent())
    return [None] * (not done.ok) + [receipt.error for receipt in done.receipts if receipt.status != "success"]


if __name__ == "__main__":
    cdc_killed._synced = _repaired
    cdc_killed.main()
