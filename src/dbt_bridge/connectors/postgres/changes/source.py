"""A Postgres database as a change source: a slot, its publications, and pgoutput's messages as chunks of changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from typing import TypeVar

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.feed import Feed
from dbt_bridge.connectors.postgres.changes.following import Following
from dbt_bridge.connectors.postgres.changes.landing_lock import LandingLease, lock_landing, share_landing
from dbt_bridge.connectors.postgres.changes.lsn import parse_lsn, position_of
from dbt_bridge.connectors.postgres.changes.past.proof import Log, require_same_past
from dbt_bridge.connectors.postgres.changes.past.witness import Past
from dbt_bridge.connectors.postgres.changes.publication import Publishable
from dbt_bridge.connectors.postgres.changes.readiness import Wish, check_readiness
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.slot_health import (
    WalGuard,
    advance_slot,
    check_ours,
    check_slot,
    describe_health,
    list_kept,
    refuse_foreign,
)
from dbt_bridge.connectors.postgres.changes.slot_reader import remember_reader, wait_until_free
from dbt_bridge.connectors.postgres.changes.snapshot import SlotSnapshot
from dbt_bridge.connectors.postgres.changes.stream import ReplicationStream
from dbt_bridge.connectors.postgres.changes.table_census import Look, examine_tables, is_cut_off, resolve_name
from dbt_bridge.connectors.postgres.changes.values.columns import is_binary_decodable
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.connectors.postgres.origin.catalog import ResolvedColumns, resolve_columns
from dbt_bridge.connectors.postgres.origin.column_types import WireColumn
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.connectors.postgres.origin.shape_changes import find_rewrite
from dbt_bridge.contracts.change_feed import (
    DeclaredTable,
    FollowedTable,
    Pace,
    TableEvents,
    TableFinding,
    Unreadable,
)
from dbt_bridge.contracts.change_source import DroppedLog, KeptLog, LogHealth, Readiness
from dbt_bridge.contracts.settings import ChangeSourceSettings
from dbt_bridge.errors import BridgeError, OriginError
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.table import TableName
from dbt_bridge.system.temporary_files import find_shared_folder

T = TypeVar("T")
_FORGOTTEN = 30.0  # seconds without a look, after which a connection is not trusted: it may be gone unnoticed


class PostgresChangeSource:
    """The `ChangeSource` of a Postgres origin; see there for every method.

    Args:
        name: the origin's.
        url: of the origin, as libpq takes it.
    """

    beginning = position_of(0)
    position_name = "LSN"

    def __init__(self, name: str, url: str, settings: ChangeSourceSettings) -> None:
        self.name = name
        self.slot = settings.slot
        self._url = url
        self._settings = settings
        self._replication = Replication(name, url)
        self._guard = WalGuard(self._replication, settings.slot, settings.max_wal, settings.tell)
        self._publications: tuple[str, ...] = ()
        self._published_by = (settings.slot, publication.inserts_name(settings.slot))
        self._names: dict[str, TableName] = {}  # node -> as the last census found it
        self._publishable: dict[TableName, Publishable] = {}
        self._is_unreadable = False
        self._is_cut_off = False  # as the last census found it

    def __enter__(self) -> PostgresChangeSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._replication.close()

    # --- positions -------------------------------------------------------------------------------------------------

    def parse_position(self, text: str) -> Position:
        return position_of(parse_lsn(text))

    def read_identity(self) -> str:
        """`system identifier/slot`."""
        return f"{self._replication.identity().system_identifier}/{self.slot}"

    def find_end(self) -> Position:
        return position_of(self._replication.current_lsn())

    # --- how the tables stand --------------------------------------------------------------------------------------

    def take_census(self, tables: Sequence[DeclaredTable]) -> Mapping[str, TableFinding | BridgeError]:
        check_ours(self._replication, self.slot)
        with self._catalog() as now:
            self._names = {table.node: resolve_name(now, table) for table in tables}
            self._publishable = publication.describe_publishable(self._replication, list(self._names.values()))
            look = Look(self.slot, self._published_by, self._publishable)
            self._is_cut_off = is_cut_off(now, tables, look)
            return examine_tables(now, tables, look, is_cut_off=self._is_cut_off)

    def has_news(self, seen: Sequence[str]) -> bool:
        """Of a column with a default or of a dropped partition the log says nothing, or not yet."""
        with self._catalog() as now:
            known = {shape.oid: shape for shape in map(Shape.from_json, seen)}
            return shapes.describe_shapes(now, known, self._published_by) != known

    def find_stale(self, standing: Mapping[str, str]) -> Mapping[str, str]:
        """The catalog of now, beside that of the census or of a copy's snapshot."""
        known = {node: Shape.from_json(text) for node, text in standing.items()}
        with self._catalog() as now:
            there = shapes.describe_shapes(now, {shape.oid for shape in known.values()}, self._published_by)
        stale = {node: find_rewrite(was, there[was.oid]) for node, was in known.items() if was.oid in there}
        return {node: why for node, why in stale.items() if why}

    def settle(self, tables: Sequence[tuple[FollowedTable, TableFinding]]) -> TableEvents:
        late = [
            (table, Shape.from_json(finding.shape).relation)
            for table, finding in tables
            if Shape.from_json(table.shape).relation == Shape.from_json(finding.version.shape).relation
        ]
        if not late:
            return TableEvents()
        with closing(_Catalog(self.name, self._url, self._published_by)) as catalog:
            following = Following([table for table, _ in late], catalog)
            for _, relation in late:
                following.relation(relation)
                following.take_up(relation.oid)
            return following.take_events()

    # --- the log ---------------------------------------------------------------------------------------------------

    def require_log(self, positions: Mapping[str, Position]) -> None:
        check_slot(self._replication, self.slot, positions)
        if not positions:
            return
        branches = self._replication.identity().branches
        log = Log(self.name, self.slot, branches, self._find_confirmed(), self._open_commits)
        require_same_past(log, positions)

    def _find_confirmed(self) -> int:
        """Where the slot stands; 0 without one."""
        state = self._replication.slot(self.slot)
        return (state.confirmed_flush_lsn or 0) if state is not None else 0

    @contextmanager
    def _open_commits(self, start: int) -> Iterator[ReplicationStream]:
        """What the slot sends from an LSN on, whole transactions in the order of their commits; confirms nothing."""
        wait_until_free(self._replication, self.slot, self.read_identity())
        names = publication.list_existing(self._replication, self._published_by)
        with ReplicationStream(
            self.name, self._url, self.slot, names, start, binary=False, spool_folder=None
        ) as stream:
            yield stream

    def ensure_log(self, followed: Sequence[DeclaredTable], copied: Sequence[DeclaredTable]) -> Mapping[str, str]:
        """Every table is in a publication, and none that is neither followed nor copied."""
        names = [self._names[table.node] for table in [*followed, *copied]]
        if not names:
            return {}
        everything = [name for name in names if self._publishable[name].identifies]
        inserts = [name for name in names if not self._publishable[name].identifies]
        found = publication.ensure(self._replication, self.slot, everything, inserts, self._settings.owner)
        self._publications = found.names
        if found.is_new:
            self._begin_anew(followed)
        # What happened to a table while it was not published, or not whole, was not sent.
        why = "it was taken out of its publication, or published in part"
        return {table.node: why for table in followed if self._names[table.node] in found.added}

    def _begin_anew(self, followed: Sequence[DeclaredTable]) -> None:
        """A slot cannot be read across the time before its publication: pgoutput looks it up as of each change.

        Raises:
            OriginError: tables are followed through the slot, and the publication was dropped since the census.
        """
        if followed:  # the census finds them cut off, and copies them
            raise OriginError(
                f"the publication {self.slot!r} of origin {self.name!r} was dropped in this moment, and its slot cannot"
                " be read without it",
                mend="dbt-bridge sync",
            )
        self._replication.drop_slot(self.slot)

    @contextmanager
    def open_snapshot(self, label: str, *, begins: bool = False) -> Iterator[SlotSnapshot]:
        """The snapshot of the slot where that is new, else of a temporary one."""
        is_new = begins and self._begins_here()
        name = self.slot if is_new else f"{self.slot[:40]}_{label}"
        branches, stood = self._replication.identity().branches, self._find_confirmed()
        with self._replication.create_slot(name, temporary=not is_new, on_wait=self._settings.tell) as exported:
            past = Past(branches, since=exported.consistent_point, slot=stood)
            with closing(SlotSnapshot(self.name, self._url, exported, self._published_by, past)) as snapshot:
                yield snapshot

    def _begins_here(self) -> bool:
        """Whether there is no slot, or none any more: a lost one can be read by nobody, and nobody needs it. Nor can
        one that is older than its publication."""
        state = self._replication.slot(self.slot)
        if state is not None and (state.is_lost or self._is_cut_off):
            self._replication.drop_slot(self.slot)
            return True
        return state is None

    @contextmanager
    def follow(
        self, tables: Sequence[FollowedTable], start: Position, barriers: Sequence[Position | None], pace: Pace
    ) -> Iterator[Feed]:
        identity = self.read_identity()
        wait_until_free(self._replication, self.slot, identity)
        with self._catalog() as now:
            binary = all(_travels_binary(now, table) for table in tables)
        before = Past.of_text(start.past) or Past(since=start.ordinal, slot=start.ordinal)
        past = replace(before, branches=self._replication.identity().branches)
        with (
            ReplicationStream(
                self.name,
                self._url,
                self.slot,
                self._publications,
                start.ordinal,
                binary=binary,
                spool_folder=None if self._is_unreadable else find_shared_folder("spool"),
            ) as stream,
            closing(_Catalog(self.name, self._url, self._published_by)) as catalog,
            Feed(
                stream,
                Following(tables, catalog, binary=binary),
                barriers,
                pace,
                past,
                is_whole=self._is_unreadable,
            ) as feed,
        ):
            remember_reader(self._replication, self.slot, identity)
            try:
                yield feed
            except Unreadable as error:  # read again, one whole transaction after the other, until it is known of what
                self._is_unreadable = not error.suspects
                raise

    def check_backlog(self, *, is_caught_up: bool) -> None:
        if is_caught_up:
            self._guard.check()
        else:
            self._guard.check_progress()

    def release_log(self, upto: Position) -> None:
        check_ours(self._replication, self.slot)
        advance_slot(self._replication, self.slot, upto)

    # --- the lock on the landing -----------------------------------------------------------------------------------

    def lock_landing(self) -> AbstractContextManager[None]:
        return lock_landing(self.name, self._url, self.slot, self._settings.tell)

    def share_landing(self) -> AbstractContextManager[None]:
        return share_landing(self.name, self._url, self.slot, self._settings.tell)

    def lease_landing(self) -> LandingLease:
        return LandingLease(self._settings.source, self.name, self._url, self.slot)

    # --- operation -------------------------------------------------------------------------------------------------

    def check_health(self, sync: str) -> LogHealth:
        return describe_health(self._replication, self._settings, sync)

    def check_readiness(self, tables: Sequence[DeclaredTable]) -> Iterator[Readiness]:
        logs = frozenset(table.name for table in tables if table.log_only)
        return check_readiness(
            self._replication, Wish(self.slot, tuple(t.name for t in tables), logs, self._settings.max_wal)
        )

    def list_logs(self) -> Sequence[KeptLog]:
        return list_kept(self._replication)

    def drop_log(self) -> DroppedLog:
        """Drop the slot, and the publications that dbt-bridge made for it."""
        refuse_foreign(self._replication, self._settings)
        existed = self._replication.drop_slot(self.slot)
        return DroppedLog(existed, tuple(publication.drop(self._replication, self.slot)))

    def _catalog(self) -> closing[Connections]:
        """The catalog of this moment."""
        return closing(Connections(self.name, self._url))


def _travels_binary(now: Connections, table: FollowedTable) -> bool:
    types = resolve_columns(now, [column.wire_column for column in Shape.from_json(table.shape).columns]).types
    return all(is_binary_decodable(types[column.name], column.type) for column in table.columns)


class _Catalog:
    """The origin's catalog at the moment of each look. One connection serves looks that follow each other closely:
    the tables of a source come with their Relation messages all at once, and then hardly ever again."""

    def __init__(self, name: str, url: str, publications: Sequence[str]) -> None:
        self._name = name
        self._url = url
        self._publications = publications
        self._connections: Connections | None = None
        self._looked = 0.0

    def shape(self, oid: int) -> Shape | None:
        return self._look(lambda now: shapes.describe_shape(now, oid, self._publications))

    def types(self, columns: Sequence[WireColumn]) -> ResolvedColumns:
        return self._look(lambda now: resolve_columns(now, columns))

    def close(self) -> None:
        if self._connections is not None:
            self._connections.close()
            self._connections = None

    def _look(self, look: Callable[[Connections], T]) -> T:
        if time.monotonic() - self._looked > _FORGOTTEN:
            self.close()
        now = self._connections = self._connections or Connections(self._name, self._url)
        try:
            answer = look(now)
            now.end_snapshot()
        except BaseException:
            self.close()
            raise
        self._looked = time.monotonic()
        return answer
