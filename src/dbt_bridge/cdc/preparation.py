"""Before a source is followed: a look at every table, its slot and publications, copies of what is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from dbt_bridge.cdc.census import (
    ANEW,
    Census,
    Tracked,
    census,
    declared_name,
)
from dbt_bridge.cdc.checkpoints import checkpoints_of
from dbt_bridge.cdc.followed_source import Source
from dbt_bridge.cdc.snapshot_copy import Copied, copied
from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.publication import Publishable
from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.connectors.postgres.changes.slot_health import check_ours, check_slot
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.contracts.destination import Checkpoint, Follows, Warehouse
from dbt_bridge.errors import OriginError, UsageError
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.selector import selector
from dbt_bridge.nouns.table import TableName
from dbt_bridge.sync.landing import Wanted


@dataclass(frozen=True, slots=True)
class Chosen:
    """Tables by node.

    Attributes:
        asked: that are copied where they have not landed.
        anew: that are copied whether or not they have.
        told: that failed in this run, and are not tried again.
    """

    asked: frozenset[str]
    anew: frozenset[str]
    told: frozenset[str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is followed from here on.

    Attributes:
        identity: `system identifier/slot`, under which checkpoints are kept.
        tracked: the tables that are followed, by node, each at its checkpoint.
        copies: of tables that are joined once the others have come to their snapshot.
        shapes: of every table when it was looked at.
        late: tables whose columns are others than when they stood at their checkpoint: (then, now).
    """

    identity: str
    tracked: Mapping[str, Tracked]
    copies: Sequence[Copied]
    publications: tuple[str, ...]
    shapes: Mapping[str, Shape]
    late: Mapping[str, tuple[Shape, Shape]]


class Preparation:
    """One look at the tables of a source.

    Args:
        fail: keeps and tells failed receipts, with checkpoints to save.
    """

    def __init__(
        self,
        source: Source,
        replication: Replication,
        chosen: Chosen,
        fail: Callable[[Sequence[Receipt], Sequence[Checkpoint]], None],
    ) -> None:
        self._source = source
        self._replication = replication
        self._chosen = chosen
        self._fail = fail
        self._identity = ""
        self._publications: tuple[str, ...] = ()
        self._seen: Mapping[str, str] = {}  # shapes in the checkpoints: what was hidden is remembered

    def prepared(self) -> Prepared:
        """Look at every table, make slot and publications where they are missing, copy what must be copied.

        Raises:
            UsageError: the destination cannot follow.
            OriginError: the slot is gone, lost or not ours, or the checkpoints are of another server.
        """
        source, chosen = self._source, self._chosen
        if not isinstance(source.ends.destination, Follows):
            raise UsageError(
                f"the destination {source.ends.destination.name!r} cannot follow changes",
                mend="land the source in the warehouse or in a Delta destination, or `replication: incremental`",
            )
        self._identity = f"{self._replication.identity().system_identifier}/{source.slot}"
        points = checkpoints_of(source, self._identity, chosen.anew)
        self._seen = {node: point.shape for node, point in points.items()}
        check_ours(self._replication, source.slot)
        with closing(Connections(source.name, source.url)) as now:
            tables = [wanted for wanted in source.tables if wanted.table.node not in chosen.told]
            names = [declared_name(now, wanted) for wanted in tables]
            known = publication.publishable(self._replication, names)
            both = chosen.asked, chosen.anew
            taken = census(now, source.ends.destination, tables, points, both, known)
            self._refuse(taken, points)
            check_slot(self._replication, source.slot, list(taken.tracked.values()))
            taken = self._published(now, taken, known)
        pairs = {node: (t.followed.shape, taken.shapes[node]) for node, t in taken.tracked.items()}
        late = {node: pair for node, pair in pairs.items() if pair[0].relation != pair[1].relation}
        copies = self._copied([wanted for wanted, _ in taken.to_copy.values()], taken)
        return Prepared(self._identity, taken.tracked, copies, self._publications, taken.shapes, late)

    def _published(self, now: Connections, taken: Census, known: Mapping[TableName, Publishable]) -> Census:
        """Every table that is followed or copied is in a publication, and none that is neither."""
        wanted = [*(t.wanted for t in taken.tracked.values()), *(item for item, _ in taken.to_copy.values())]
        names = [declared_name(now, item) for item in wanted]
        everything = [name for name in names if known[name].identifies]
        inserts = [name for name in names if not known[name].identifies]
        if not names:
            return taken
        found = publication.ensure(self._replication, self._source.slot, everything, inserts)
        self._publications = found.names
        if found.is_new:
            self._begin_anew(taken)
        # What happened to a table while it was not published, or not whole, was not sent.
        missed = [node for node, t in taken.tracked.items() if t.followed.declared in found.added]
        why = "it was taken out of its publication, or published in part"
        return replace(
            taken,
            tracked={node: t for node, t in taken.tracked.items() if node not in missed},
            to_copy={**taken.to_copy, **{node: (taken.tracked[node].wanted, why) for node in missed}},
        )

    def _begin_anew(self, taken: Census) -> None:
        """A slot cannot be read across the time before its publication: pgoutput looks it up as of each change.

        Raises:
            OriginError: tables are followed through the slot, and the publication was dropped.
        """
        slot = self._source.slot
        if taken.tracked:
            tables = " ".join(selector(node) for node in taken.tracked)
            raise OriginError(
                f"the publication {slot!r} of origin {self._source.name!r} was dropped, and its slot cannot be read"
                " without it",
                mend=f"dbt-bridge slots drop {slot}, then dbt-bridge sync --full-refresh --select {tables}",
            )
        self._replication.drop_slot(slot)

    def _copied(self, wanted: Sequence[Wanted], taken: Census) -> list[Copied]:
        """Copy under the snapshot of the slot where it is new, else of a temporary one."""
        if not wanted:
            return []
        source = self._source
        self._forget_where_rows_show(wanted)
        state = self._replication.slot(source.slot)
        if state is not None and state.is_lost and not taken.tracked:  # nobody can read it, and nobody needs it
            self._replication.drop_slot(source.slot)
            state = None
        is_new = state is None
        name = source.slot if is_new else f"{source.slot[:40]}_copy_{source.load_id[-6:]}"
        with self._replication.create_slot(name, temporary=not is_new, on_wait=source.progress.message) as exported:
            copies, failures = copied(source.url, source.ends, exported, wanted, source.threads, source.progress)
        at = lsn.spelled(exported.consistent_point)
        points = [
            Checkpoint(r.node, source.name, "", at, self._identity, self._seen.get(r.node, ""), r.error or "not copied")
            for r in failures
        ]
        self._fail(failures, points)
        return copies

    def _forget_where_rows_show(self, wanted: Sequence[Wanted]) -> None:
        """At a destination without stages a copy shows before it is joined: the old checkpoint ends there."""
        source = self._source
        if isinstance(source.ends.destination, Warehouse):
            return
        nodes = {item.table.node for item in wanted}
        old = [point for point in source.ends.ledger.checkpoints() if point.node in nodes and not point.set_aside]
        if old:
            source.ends.ledger.save([replace(point, set_aside=f"{ANEW}: a copy broke off") for point in old], [])

    def _refuse(self, taken: Census, points: Mapping[str, Checkpoint]) -> None:
        """Tables that cannot be followed have a failed receipt, and those that were followed are set aside."""
        refused = taken.refused.items()
        failed = [record.failed(replace(wanted.receipt, hop="cdc"), error) for _, (wanted, error) in refused]
        aside = [replace(points[node], set_aside=str(error)) for node, (_, error) in refused if node in points]
        self._fail(failed, aside)
