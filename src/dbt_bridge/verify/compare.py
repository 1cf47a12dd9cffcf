"""Two sides are compared: counts, aggregates, or every value of every row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import BridgeError, is_interruption
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.receipt import now
from dbt_bridge.system.temporary_files import full, temporary_folder
from dbt_bridge.verify.counts import compared_aggregates, compared_counts
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.compare_rows import compared_rows
from dbt_bridge.verify.rows.engine import connect, engine_errors

_LEVELS = {"counts": compared_counts, "aggregates": compared_aggregates, "rows": compared_rows}


def compare(opened: Parity, origin: Side, destination: Side, asked: VerifyRequest) -> Parity:
    """What the comparison of both sides found.

    Both sides are read side by side: the origin in this thread, the destination in another one.

    Args:
        opened: what is known before: names, `at`, when it began.

    Raises:
        BridgeError: it could not be compared: that is a failure, never a match.
    """
    with _folder() as folder, closing(connect(asked.memory_mb, str(folder))) as engine:
        try:
            found = _LEVELS[asked.level](opened, (origin, destination), asked, engine, folder)
        except (engine_errors(), OSError, pa.ArrowException) as error:
            what = f"{origin.name} and {destination.name} could not be compared"
            mend = f"if memory or disk ran out, free some (TMPDIR names the disk, now {folder.parent}) and run it again"
            raise full(folder.parent, error, what) or BridgeError(f"{what}: {error}", mend=mend) from error
        except BaseException as error:
            if is_interruption(error):  # DuckDB 1.5.5 would go on with its query, and closing would wait for it
                engine.interrupt()
            raise
    ended = now()
    return replace(
        found,
        level=asked.level,
        status="equal" if _is_equal(found, asked) else "different",
        error=None,
        key=asked.key,
        finished_at=ended,
        duration_seconds=(ended - found.started_at).total_seconds(),
    )


@contextmanager
def _folder() -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder("verify"))
        except OSError as error:
            raise BridgeError(
                f"there is no room for temporary files: {error}", mend="set TMPDIR to a folder that you can write to"
            ) from error
        yield folder


def _is_equal(found: Parity, asked: VerifyRequest) -> bool:
    if asked.level == "rows":
        return found.differences == 0
    if asked.level == "aggregates":
        return all(aggregate.same for aggregate in found.aggregates)
    origin, destination = found.rows_origin or 0, found.rows_destination or 0
    return origin <= destination if asked.extra == "allowed" else origin == destination
