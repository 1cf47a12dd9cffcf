"""Postgres to Postgres: rows travel as the server's own binary COPY, about half the work of Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from dbt_bridge.contracts.destination import Destination, Load, Staged
from dbt_bridge.contracts.origin import Increment, Origin
from dbt_bridge.nouns.table import TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.observe.watched_reader import report_chunks


@runtime_checkable
class _Sends(Protocol):
    def copy_binary(
        self,
        name: TableName,
        columns: Sequence[str],
        casts: Mapping[str, str],
        increment: Increment | None = None,
        *,
        workers: int = 1,
    ) -> list[Iterator[bytes]]: ...


@runtime_checkable
class _Takes(Protocol):
    def copied_as(self, load: Load) -> dict[str, str] | None: ...

    def stage_copy(self, load: Load, streams: Sequence[Iterator[bytes]]) -> Staged: ...


def staged(
    ends: tuple[Origin, Destination], name: TableName, load: Load, increment: Increment | None, workers: int,
    progress: tuple[Progress, str],
) -> Staged | None:  # fmt: skip
    """The table, staged undecoded; None where an end is no Postgres, or a type override needs decoding.

    Args:
        ends: where the rows come from and where they go.
        progress: what is told of the bytes that pass, and the node that they belong to.
    """
    origin, destination = ends
    if not isinstance(origin, _Sends) or not isinstance(destination, _Takes):
        return None
    casts = destination.copied_as(load)
    if casts is None:
        return None
    # Of several rows with one key the last one stays: only one stream has an order.
    workers = 1 if load.keeps_last else workers
    columns = [column.name for column in load.table.columns]
    watching, node = progress
    streams = origin.copy_binary(name, columns, casts, increment, workers=workers)
    return destination.stage_copy(load, [report_chunks(stream, node, watching) for stream in streams])
