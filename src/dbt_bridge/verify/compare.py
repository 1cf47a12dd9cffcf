"""Two sides are compared: counts, aggregates, or every value of every row."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from dbt_bridge.errors import UsageError
from dbt_bridge.receipt import now
from dbt_bridge.verify.asked import Asked, Bound, Tolerance
from dbt_bridge.verify.engine import connect
from dbt_bridge.verify.parity import Parity
from dbt_bridge.verify.rows import compared_rows
from dbt_bridge.verify.side import Side

__all__ = ["Asked", "Bound", "Tolerance", "compare"]


def compare(opened: Parity, origin: Side, destination: Side, asked: Asked) -> Parity:
    """What the comparison of both sides found.

    Args:
        opened: what is known before: names, `at`, when it began.

    Raises:
        BridgeError: it could not be compared: that is a failure, never a match.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dbt_bridge_verify_") as folder,
        closing(connect(asked.memory_mb, folder)) as engine,
    ):
        if asked.level == "rows":
            found = compared_rows(opened, (origin, destination), asked, engine, Path(folder))
        else:
            raise UsageError(f"the level {asked.level} is not there yet")
    ended = now()
    return replace(
        found,
        status="equal" if not found.differences else "different",
        error=None,
        key=asked.key,
        finished_at=ended,
        duration_seconds=(ended - found.started_at).total_seconds(),
    )
