"""Two sides are compared: counts, aggregates, or every value of every row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import BridgeError, is_interruption
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import Parity, Status
from dbt_bridge.nouns.receipt import now
from dbt_bridge.system.memory_room import measure_room
from dbt_bridge.system.temporary_files import full
from dbt_bridge.verify.aggregates import compare_aggregates
from dbt_bridge.verify.counts import compare_counts
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.compare_rows import compare_rows
from dbt_bridge.verify.rows.workspace import engine_errors, open_workspace

_LEVELS = {"counts": compare_counts, "aggregates": compare_aggregates, "rows": compare_rows}


def compare(blank: Parity, origin: Side, destination: Side, request: VerifyRequest) -> Parity:
    """Compare both sides; the origin is read in this thread, the destination at the same time in another one.

    Args:
        blank: what is known before: names, `at`, when it began.

    Returns:
        `blank` with what was found: equal or different.

    Raises:
        BridgeError: the sides could not be compared: that is a failure, never a match.
    """
    while True:
        try:
            found = _compare_once(blank, Both(origin, destination), request)
            break
        except _OutOfMemory as error:
            more = 2 * request.memory_mb
            if more << 20 > measure_room():
                raise error.told from error
            request = replace(request, memory_mb=more)
    status: Status = "equal" if _is_equal(found, request) else "different"
    return finish_parity(found, level=request.level, status=status, error=None, key=request.key)


class _OutOfMemory(Exception):
    """The engine had too little memory.

    Attributes:
        told: what is said of it where there is no more.
    """

    def __init__(self, told: BridgeError) -> None:
        super().__init__(str(told))
        self.told = told


def _compare_once(blank: Parity, sides: Both[Side], request: VerifyRequest) -> Parity:
    with open_workspace(request.memory_mb) as workspace:
        try:
            return _LEVELS[request.level](blank, sides, request, workspace)
        except (engine_errors(), OSError, pa.ArrowException) as error:
            parent = workspace.folder.parent
            what = f"{sides.origin.name} and {sides.destination.name} could not be compared"
            mend = f"if memory or disk ran out, free some (TMPDIR names the disk, now {parent}) and run it again"
            told = full(parent, error, what) or BridgeError(f"{what}: {error}", mend=mend)
            if isinstance(error, engine_errors()) and "out of memory" in str(error).lower():
                raise _OutOfMemory(told) from error
            raise told from error
        except BaseException as error:
            if is_interruption(error):  # DuckDB 1.5.5 would go on with its query, and closing would wait for it
                workspace.engine.interrupt()
            raise


def finish_parity(parity: Parity, **changes: Any) -> Parity:
    """The parity with these fields changed, finished now."""
    ended = now()
    seconds = (ended - parity.started_at).total_seconds()
    return replace(parity, finished_at=ended, duration_seconds=seconds, **changes)


def _is_equal(found: Parity, request: VerifyRequest) -> bool:
    if request.level == "rows":
        return found.differences == 0
    if request.level == "aggregates":
        return all(aggregate.same for aggregate in found.aggregates)
    origin, destination = found.rows_origin or 0, found.rows_destination or 0
    return origin <= destination if request.extra == "allowed" else origin == destination
