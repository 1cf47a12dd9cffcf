"""The true, durable record of one hop: a frozen value, and the rows of `_dbt_bridge.receipts`."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from dbt_bridge.table import Column, Table, TableName

AUDIT_SCHEMA = "_dbt_bridge"

Status = Literal["success", "failed", "skipped"]
Hop = Literal["initial_copy", "incremental", "cdc", "transfer", "deliver"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one hop did to one table. Counts are None where the engine that holds the rows cannot tell.

    Attributes:
        load_id: shared by all receipts of one run; sorts by time.
        node: dbt's unique_id of the source table, model or exposure.
        rows_loaded: rows that the hop brought to the destination.
        rows_inserted, rows_updated, rows_deleted: what they did there.
        bytes: size of the rows in Arrow's memory format.
        checkpoint_from, checkpoint_to: cursor value or LSN before and after; None where there is none.
        started_at, finished_at: UTC.
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
