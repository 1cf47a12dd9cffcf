"""`python killed_verify.py`: verifications that kill themselves at a named step, as `killed_sync` does with syncs."""

from __future__ import annotations

import os

import killed_sync
from killed_sync import VERIFYING, Orders

from dbt_bridge import run
from dbt_bridge.observe.progress import Silent


def _verified(orders: Orders) -> list[str | None]:
    """Why tables are not equal."""
    os.environ.update(orders.environment)
    if orders.step:
        killed_sync._deadly(VERIFYING[orders.step], orders.call)
    parities = run.verify(killed_sync.project(orders), run.VerifyOptions(), Silent())
    return [parity.error or parity.status for parity in parities if not parity.is_equal]


if __name__ == "__main__":
    killed_sync._synced = _verified
    killed_sync.main()
