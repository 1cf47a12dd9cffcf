"""A receipt from its hop's start to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from dbt_bridge.errors import scrubbed
from dbt_bridge.progress import Progress
from dbt_bridge.receipt import Hop, Receipt, Status, now


class Counts(Protocol):
    """What a destination answers (`load.destination.Loaded`)."""

    @property
    def rows_loaded(self) -> int: ...
    @property
    def rows_inserted(self) -> int | None: ...
    @property
    def rows_updated(self) -> int | None: ...
    @property
    def rows_deleted(self) -> int | None: ...
    @property
    def bytes(self) -> int: ...


def opened(load_id: str, hop: Hop, node: str, **known: Any) -> Receipt:
    """The receipt of a hop that begins now; failed until it is `closed`."""
    started = now()
    blank: dict[str, Any] = dict.fromkeys(
        ("rows_loaded", "rows_inserted", "rows_updated", "rows_deleted", "bytes", "checkpoint_from", "checkpoint_to")
    )
    return Receipt(
        **{
            **blank,
            "load_id": load_id,
            "hop": hop,
            "node": node,
            "status": "failed",
            "started_at": started,
            "finished_at": started,
            "duration_seconds": 0.0,
            "error": None,
            **known,
        }
    )


def closed(receipt: Receipt, counts: Counts) -> Receipt:
    """The hop arrived."""
    return _ended(
        receipt,
        "success",
        rows_loaded=counts.rows_loaded,
        rows_inserted=counts.rows_inserted,
        rows_updated=counts.rows_updated,
        rows_deleted=counts.rows_deleted,
        bytes=counts.bytes,
    )


def failed(receipt: Receipt, error: BaseException | str) -> Receipt:
    """The hop did not arrive: nothing of it is at the destination."""
    return _ended(receipt, "failed", **_nothing(receipt), error=scrubbed(str(error) or type(error).__name__))


def skipped(receipt: Receipt, why: str) -> Receipt:
    """The hop was not begun, and this is why."""
    return _ended(receipt, "skipped", **_nothing(receipt), error=why)


def _nothing(receipt: Receipt) -> dict[str, Any]:
    return {
        **dict.fromkeys(("rows_loaded", "rows_inserted", "rows_updated", "rows_deleted", "bytes"), 0),
        "checkpoint_to": receipt.checkpoint_from,
    }


def _ended(receipt: Receipt, status: Status, **changes: Any) -> Receipt:
    finished = now()
    return replace(
        receipt,
        status=status,
        finished_at=finished,
        duration_seconds=(finished - receipt.started_at).total_seconds(),
        **changes,
    )


def watched(batches: pa.RecordBatchReader, node: str, progress: Progress) -> pa.RecordBatchReader:
    """The same batches, told to the progress as they pass."""

    def passing() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                progress.advanced(node, batch.num_rows, batch.nbytes)
                yield batch
        finally:
            batches.close()

    return pa.RecordBatchReader.from_batches(batches.schema, passing())
