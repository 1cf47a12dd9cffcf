"""`python killed_repair.py`: repairs that kill themselves at a named step, as `killed_sync` does with syncs."""

from __future__ import annotations

import os

import killed_sync
from killed_sync import REPAIRING, Orders

from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove import repair_changes
from dbt_bridge.prove.repair import RepairOptions, repair


def _repaired(orders: Orders) -> list[str | None]:
    """The errors of one repair."""
    os.environ.update(orders.environment)
    repair_changes._PIECE = orders.chunk_rows
    if orders.step:
        killed_sync._deadly(REPAIRING[orders.step], orders.call)
    done = repair(killed_sync.project(orders), RepairOptions(), Silent())
    return [None] * (not done.ok) + [receipt.error for receipt in done.receipts if receipt.status != "success"]


if __name__ == "__main__":
    killed_sync._synced = _repaired
    killed_sync.main()
