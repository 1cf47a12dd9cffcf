"""`python killed_verify.py`: verifications that kill themselves at a named step, as `killed_sync` does with syncs."""

from __future__ import annotations

import os

import killed_sync
from killed_sync import VERIFYING, Orders

from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify


def _verified(orders: Orders) -> list[str | None]:
    """Why tables are not equal."""
    os.environ.update(orders.environment)
    if orders.step:
        killed_sync._deadly(VERIFYING[orders.step], orders.call)
    parities = verify(killed_sync.project(orders), VerifyOptions(), Silent())
    return [parity.error or parity.status for parity in parities if not parity.is_equal]


if __name__ == "__main__":
    killed_sync._synced = _verified
    killed_sync.main()
