"""The rows of `_dbt_bridge.parity`: what each comparison of two relations found, as plain columns to query and chart.

No value of a compared row is kept here, neither examples nor a column's least and greatest value: they may be
personal data, and an audit table is kept longer, and read by more people, than a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from dbt_bridge.nouns.receipt import AUDIT_SCHEMA
from dbt_bridge.nouns.table import Column, Table, TableName


@dataclass(frozen=True, slots=True)
class ParityRow:
    """One comparison. Counts are None where it did not get so far, or does not count them at its level.

    Attributes:
        load_id: shared by all comparisons of one run; sorts by time.
        node: dbt's unique_id of the source table, model or exposure.
        origin, destination: for people: `shop_pg: shop.orders`, `duckdb: shop_landing.orders`.
        level: counts, aggregates or rows.
        method: how rows were compared; empty at the other levels.
        status: equal, different or failed.
        state: that was compared: `LSN 0/16B3748`, `now`. (`at` is a keyword of DuckDB.)
        rows_origin, rows_destination: how many each side has.
        only_in_origin, only_in_destination, different, duplicates: rows (keys) of each kind.
        allowed: rows that are only in the destination and may be.
        in_flight: rows that the bound left out.
        columns: JSON text: column -> in how many rows it differs.
        aggregates: JSON text: those that differ, as a list of {column, what, variance}.
        bytes: read over the wires.
        started_at, finished_at: UTC.
        error: why it could not be compared.
        without: columns of the origin that do not land, and so were not compared, and why; None for none.
    """

    load_id: str
    node: str
    origin: str
    destination: str
    level: str
    method: str
    status: str
    state: str
    rows_origin: int | None
    rows_destination: int | None
    only_in_origin: int | None
    only_in_destination: int | None
    different: int | None
    duplicates: int | None
    allowed: int
    in_flight: int
    columns: str
    aggregates: str
    bytes: int | None
    started_at: datetime
    finished_at: datetime
    duration_seconds: float
    error: str | None
    without: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_COUNTS = (
    *("rows_origin", "rows_destination", "only_in_origin", "only_in_destination"),
    *("different", "duplicates", "allowed", "in_flight", "bytes"),
)
_ARROW: dict[str, pa.DataType] = {
    **dict.fromkeys(_COUNTS, pa.int64()),
    **dict.fromkeys(("started_at", "finished_at"), pa.timestamp("us", "UTC")),
    "duration_seconds": pa.float64(),
}

PARITY = Table(
    TableName(AUDIT_SCHEMA, "parity"), tuple(Column(f.name, _ARROW.get(f.name, pa.string())) for f in fields(ParityRow))
)


def as_arrow(rows: Sequence[ParityRow]) -> pa.Table:
    """The comparisons as rows of `_dbt_bridge.parity`."""
    return pa.Table.from_pylist([row.as_dict() for row in rows], schema=PARITY.arrow_schema)
