"""Rows that travel undecoded, where origin and destination speak one format (Postgres to Postgres: binary COPY).

About half the work of Arrow batches.
"""

from __future__ import annotations

from dataclasses import dataclass

from dbt_bridge.contracts.capabilities import SendsRawCopy, TakesRawCopy
from dbt_bridge.contracts.destination import Destination, Load, Staged
from dbt_bridge.contracts.origin import Increment, Origin
from dbt_bridge.nouns.table import TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.observe.watched_reader import report_chunks


@dataclass(frozen=True, slots=True)
class TableCopy:
    """One table that is copied.

    Attributes:
        node: dbt's unique_id, for the progress.
        name: at the origin.
        workers: streams that are read at once.
    """

    node: str
    name: TableName
    load: Load
    increment: Increment | None
    workers: int


def stage_raw_copy(origin: Origin, destination: Destination, copy: TableCopy, progress: Progress) -> Staged | None:
    """The table, staged undecoded; None where the ends share no format, or a type override needs decoding."""
    if not isinstance(origin, SendsRawCopy) or not isinstance(destination, TakesRawCopy):
        return None
    if origin.raw_format != destination.raw_format:
        return None
    load = copy.load
    casts = destination.find_raw_casts(load)
    if casts is None:
        return None
    # Of several rows with one key the last one stays: only one stream has an order.
    workers = 1 if load.keeps_last else copy.workers
    columns = [column.name for column in load.table.columns]
    streams = origin.copy_raw(copy.name, columns, casts, copy.increment, workers=workers)
    return destination.stage_raw(load, [report_chunks(stream, copy.node, progress) for stream in streams])
