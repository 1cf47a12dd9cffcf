"""The true, durable record of one hop, from its start to its end, and the rows of `_dbt_bridge.receipts`."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import pyarrow as pa

from dbt_bridge.errors import scrubbed
from dbt_bridge.nouns.table import Column, Table, TableName

AUDIT_SCHEMA = "_dbt_bridge"

Status = Literal["success", "failed", "skipped"]
Hop = Literal["initial_copy", "incremental", "cdc", "transfer", "deliver", "repair"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one hop did to one table. Counts are None where the engine that holds the rows cannot tell.

    Attributes:
        load_id: shared by all receipts of one run; sorts by time.
        node: dbt's unique_id of the source table, model or exposure.
        rows_loaded: rows that the hop brought to the destination.
        rows_inserted, rows_updated, rows_deleted: what they did there.
        bytes: size of the rows in Arrow's memory format; of Postgres's binary COPY where they travel as that.
        checkpoint_from, checkpoint_to: cursor value or LSN before and after; None where there is none.
        started_at, finished_at: UTC.
        error: why the hop failed or was skipped; after a dry run, that nothing was written.
        last_commit_at: for changes: when the last of their transactions committed, by the origin's clock.
        lag_seconds: for changes: from there to `finished_at`.
        note: for deliveries: what was (or, after a dry run, would be) done to the table itself: created, columns added
            or altered; what the model has and was left out; why nothing was sent.
        without: columns of the origin that did not land although nobody left them out, and why; None for none.
    """

    load_id: str
    hop: Hop
    node: str
    origin: str
    destination: str
    table_name: str
    write_disposition: str
    status: Status
    rows_loaded: int | None
    rows_inserted: int | None
    rows_updated: int | None
    rows_deleted: int | None
    bytes: int | None
    checkpoint_from: str | None
    checkpoint_to: str | None
    started_at: datetime
    finished_at: datetime
    duration_seconds: float
    error: str | None
    last_commit_at: datetime | None = None
    lag_seconds: float | None = None
    note: str | None = None
    without: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_json(self) -> dict[str, Any]:
        """JSON values only: times in ISO 8601 with offset."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}


_ARROW: dict[str, pa.DataType] = {
    **dict.fromkeys(("rows_loaded", "rows_inserted", "rows_updated", "rows_deleted", "bytes"), pa.int64()),
    "started_at": pa.timestamp("us", "UTC"),
    "finished_at": pa.timestamp("us", "UTC"),
    "duration_seconds": pa.float64(),
    "last_commit_at": pa.timestamp("us", "UTC"),
    "lag_seconds": pa.float64(),
}

RECEIPTS = Table(
    TableName(AUDIT_SCHEMA, "receipts"),
    tuple(Column(f.name, _ARROW.get(f.name, pa.string())) for f in fields(Receipt)),
)


def as_arrow(receipts: list[Receipt] | tuple[Receipt, ...]) -> pa.Table:
    """The receipts as rows of `_dbt_bridge.receipts`."""
    return pa.Table.from_pylist([r.as_dict() for r in receipts], schema=RECEIPTS.arrow_schema)


def new_load_id() -> str:
    """Sorts by time, unique across processes: `20261121T015503123456-9f2c41`."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"


def now() -> datetime:
    return datetime.now(UTC)


class Counts(Protocol):
    """What a destination answers (`contracts.destination.Loaded`)."""

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


def start_receipt(load_id: str, hop: Hop, node: str, **known: Any) -> Receipt:
    """The receipt of a hop that begins now; failed until it is `finish_receipt`."""
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


def finish_receipt(receipt: Receipt, counts: Counts) -> Receipt:
    """The hop arrived."""
    return _end(
        receipt,
        "success",
        rows_loaded=counts.rows_loaded,
        rows_inserted=counts.rows_inserted,
        rows_updated=counts.rows_updated,
        rows_deleted=counts.rows_deleted,
        bytes=counts.bytes,
    )


def finish_dry_run(receipt: Receipt, counts: Counts) -> Receipt:
    """The hop would have arrived with these counts; `error` says to people and programs that nothing was written."""
    return replace(finish_receipt(receipt, counts), error="dry run: nothing was written")


def fail_receipt(receipt: Receipt, error: BaseException | str) -> Receipt:
    """The hop did not arrive: nothing of it is at the destination."""
    return _end(receipt, "failed", **_nothing(receipt), error=scrubbed(str(error) or type(error).__name__))


def skip_receipt(receipt: Receipt, why: str) -> Receipt:
    """The hop was not begun, and this is why."""
    return _end(receipt, "skipped", **_nothing(receipt), error=why)


def _nothing(receipt: Receipt) -> dict[str, Any]:
    return {
        **dict.fromkeys(("rows_loaded", "rows_inserted", "rows_updated", "rows_deleted", "bytes"), 0),
        "checkpoint_to": receipt.checkpoint_from,
    }


def _end(receipt: Receipt, status: Status, **changes: Any) -> Receipt:
    finished = now()
    return replace(
        receipt,
        status=status,
        finished_at=finished,
        duration_seconds=(finished - receipt.started_at).total_seconds(),
        **changes,
    )
