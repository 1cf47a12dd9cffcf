"""A cdc source of one run, and the feed of its changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from dbt_bridge.cdc.census import Tracked
from dbt_bridge.connectors.postgres.changes.feed import Feed, Pace
from dbt_bridge.connectors.postgres.changes.followed import Following
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.connectors.postgres.changes.values.columns import decodes_binary
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.connectors.postgres.origin.catalog import resolve_columns
from dbt_bridge.connectors.postgres.origin.column_types import OriginType
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.contracts.destination import Follows, Warehouse
from dbt_bridge.nouns.table import Column
from dbt_bridge.observe.progress import Progress
from dbt_bridge.sync.landing import Ends, Wanted
from dbt_bridge.system.temporary_files import shared_folder

T = TypeVar("T")
_FORGOTTEN = 30.0  # seconds without a look, after which a connection may be gone without our knowing
_LARGE = 512 << 20  # bytes of values that a destination gets at once where each time costs much


@dataclass(frozen=True, slots=True)
class Source:
    """One cdc source and its ends, for one run.

    Attributes:
        tables: every declared cdc table of it, needed by the selection or not.
        asked: unique_ids of those that the selection needs.
        anew: unique_ids of those that are copied whatever their checkpoints say (full refresh).
    """

    url: str
    ends: Ends
    slot: str
    tables: Sequence[Wanted]
    asked: frozenset[str]
    anew: frozenset[str]
    threads: int
    progress: Progress
    load_id: str
    max_wal: int | None = None

    @property
    def name(self) -> str:
        return self.ends.origin.name

    def pace(self, seconds: float | None = None) -> Pace:
        """How large the pieces are that the destination gets.

        Where it can stage, a piece costs little beside its rows, and small ones keep it busy while the origin sends;
        elsewhere (Delta) each rewrites files.

        Args:
            seconds: between two of them, at most; None for what suits a catch-up.
        """
        destination = self.ends.destination
        assert isinstance(destination, Follows), "checked before anything moves"
        rows = destination.chunk_rows
        if isinstance(destination, Warehouse):
            return Pace(rows, least=rows // 4, seconds=seconds or 5)
        return Pace(rows, least=rows, bytes=_LARGE, seconds=seconds or 60)


@contextmanager
def opened(
    source: Source,
    publications: Sequence[str],
    start: int,
    tables: Sequence[Tracked],
    barriers: Sequence[int | None],
    pace: Pace,
) -> Iterator[tuple[Feed, Callable[[int], None]]]:
    """The feed of these tables from an LSN on, and what acknowledges an LSN to the slot."""
    with closing(Connections(source.name, source.url)) as now:
        binary = all(_travels_binary(now, tracked) for tracked in tables)
    with (
        ReplicationStream(
            source.name,
            source.url,
            source.slot,
            publications,
            start,
            binary=binary,
            spool_folder=shared_folder("spool"),
        ) as stream,
        following(source, tables, start, binary=binary) as followed,
        Feed(stream, followed, barriers, pace) as feed,
    ):
        yield feed, stream.acknowledge


@contextmanager
def following(source: Source, tables: Sequence[Tracked], start: int, *, binary: bool) -> Iterator[Following]:
    """What the feed knows of the tables; changes of transactions that committed below `start` are passed over."""
    with closing(_Catalog(source)) as catalog:
        yield Following(
            [replace(t.followed, position=max(t.followed.position, start)) for t in tables],
            catalog.shape,
            catalog.types,
            binary=binary,
        )


def _travels_binary(now: Connections, tracked: Tracked) -> bool:
    _, types = resolve_columns(now, [column.wire_column for column in tracked.followed.shape.columns])
    return all(decodes_binary(types[column.name], column.type) for column in tracked.followed.columns)


class _Catalog:
    """The origin's catalog at the moment of each look. One connection serves looks that follow each other closely:
    the tables of a source come with their Relation messages all at once, and then hardly ever again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._connections: Connections | None = None
        self._looked = 0.0

    def shape(self, oid: int) -> Shape | None:
        return self._looking(lambda now: shapes.describe_shape(now, oid))

    def types(self, columns: Sequence[tuple[str, int, int]]) -> tuple[tuple[Column, ...], Mapping[str, OriginType]]:
        return self._looking(lambda now: resolve_columns(now, columns))

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()
            self._connections = None

    def _looking(self, look: Callable[[Connections], T]) -> T:
        if time.monotonic() - self._looked > _FORGOTTEN:
            self.close()
        now = self._connections = self._connections or Connections(self._source.name, self._source.url)
        try:
            answer = look(now)
            now.let_go()
        except BaseException:
            self.close()
            raise
        self._looked = time.monotonic()
        return answer
