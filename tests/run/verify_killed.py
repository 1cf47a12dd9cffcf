"""`python verify_killed.py`: verifications that kill themselves at a named step, as `cdc_killed` does with syncs."""

from __future__ import annotations

import os

import cdc_killed
from cdc_killed import VERIFYING, Orders

from dbt_bridge import run
from dbt_bridge.progress import Silent


def _verified(orders: Orders) -> list[str | None]:
    """Why tables are not equal."""
    os.environ.update(orders.environment)
    if orders.step:
        cdc_killed._deadly(VERIFYING[orders.step], orders.call)
    parities = run.verify(cdc_killed.project(orders), run.VerifyOptions(), Silent())
    return [parity.error or parity.status for parity in parities if not parity.is_equal]


if __name__ == "__main__":
    cdc_killed._synced = _verified
    cdc_killed.main()
