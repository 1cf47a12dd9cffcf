"""Before a source is followed: a look at every table, its log at the origin, copies of what is not there yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dbt_bridge.cdc.census import Census, Chosen, Tracked, take_census
from dbt_bridge.cdc.checkpoints import read_checkpoints
from dbt_bridge.cdc.followed_source import FollowedSource, make_declared_table
from dbt_bridge.cdc.run_receipts import RunReceipts
from dbt_bridge.cdc.snapshot_copy import Copy, copy_tables
from dbt_bridge.contracts.change_feed import TableFinding
from dbt_bridge.contracts.destination import Warehouse
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.checkpoint import BEGINNING, Checkpoint, HistoryClock
from dbt_bridge.sync.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is followed from here on.

    Attributes:
        identity: of the origin's log, under which checkpoints are kept.
        tracked: the tables that are followed, by node, each at its checkpoint.
        copies: of tables that are joined once the others have come to their snapshot.
        findings: how each table stood at the origin when it was looked at, or copied.
        clock: that histories of the source have come to, also of tables that are copied anew.
    """

    identity: str
    tracked: Mapping[str, Tracked]
    copies: Sequence[Copy]
    findings: Mapping[str, TableFinding]
    clock: HistoryClock = BEGINNING


class Preparation:
    """One look at the tables of a source.

    Args:
        receipts: of the run; tables that have failed in it are not tried again.
    """

    def __init__(self, source: FollowedSource, chosen: Chosen, receipts: RunReceipts) -> None:
        self._source = source
        self._chosen = chosen
        self._receipts = receipts

    def prepare(self) -> Prepared:
        """Look at every table, have the log kept for it where it is not, copy what must be copied.

        Raises:
            UsageError: the destination cannot follow.
            OriginError: the log is gone, lost or not ours, or the checkpoints are of another server.
        """
        source, chosen = self._source, self._chosen
        _ = source.follower  # a destination that cannot follow is refused before the log is touched
        identity = source.changes.read_identity()
        points = read_checkpoints(source, identity, chosen.anew)
        tables = [wanted for wanted in source.tables if wanted.table.node not in self._receipts.failed_nodes]
        census = take_census(source.changes, source.ends, tables, points, chosen)
        self._refuse(census, points)
        source.changes.require_log({node: tracked.position for node, tracked in census.tracked.items()})
        # A lost log is begun anew only where nothing was followed through it.
        begins = not census.tracked
        census = self._ensure_log(census)
        copies = self._copy(census, identity, points, begins=begins)
        memories = [point.memory for point in points.values()]
        clock = HistoryClock.latest_of(memory.clock for memory in memories if memory is not None)
        return Prepared(identity, census.tracked, copies, _as_copied(census.findings, copies), clock)

    def _ensure_log(self, census: Census) -> Census:
        """The log has the changes of every table that is followed or copied; what it missed is copied anew."""
        followed = [make_declared_table(tracked.wanted) for tracked in census.tracked.values()]
        copied = [make_declared_table(wanted) for wanted, _ in census.to_copy.values()]
        missed = self._source.changes.ensure_log(followed, copied)
        return replace(
            census,
            tracked={node: tracked for node, tracked in census.tracked.items() if node not in missed},
            to_copy={**census.to_copy, **{node: (census.tracked[node].wanted, why) for node, why in missed.items()}},
        )

    def _copy(self, census: Census, identity: str, points: Mapping[str, Checkpoint], *, begins: bool) -> Sequence[Copy]:
        """Copy in the snapshot with which the log begins, else in one of its own."""
        source, wanted = self._source, [wanted for wanted, _ in census.to_copy.values()]
        if not wanted:
            return []
        self._forget_where_rows_show(wanted)
        with source.changes.open_snapshot(f"copy_{source.load_id[-6:]}", begins=begins) as snapshot:
            copies = copy_tables(source, snapshot, wanted)
            at = str(snapshot.position)
        failed = []
        for receipt in copies.failures:
            old = points.get(receipt.node)  # what was hidden is remembered
            point = Checkpoint(receipt.node, source.name, "", at, identity, old.shape if old else "")
            failed.append(point.put_aside(receipt.error or "not copied"))
        self._receipts.fail(copies.failures, failed)
        return copies.arrived

    def _forget_where_rows_show(self, wanted: Sequence[Wanted]) -> None:
        """At a destination without stages a copy shows before it is joined: the old checkpoint ends there."""
        ends = self._source.ends
        if isinstance(ends.destination, Warehouse):
            return
        nodes = {item.table.node for item in wanted}
        old = [point for point in ends.ledger.checkpoints() if point.node in nodes and point.stands]
        if old:
            ends.ledger.save([point.copy_anew("a copy broke off") for point in old], [])

    def _refuse(self, census: Census, points: Mapping[str, Checkpoint]) -> None:
        """Tables that cannot be followed have a failed receipt, and those that were followed are set aside."""
        refused = census.refused.items()
        failed = [record.fail_receipt(replace(wanted.receipt, hop="cdc"), error) for _, (wanted, error) in refused]
        aside = [points[node].put_aside(str(error)) for node, (_, error) in refused if node in points]
        self._receipts.fail(failed, aside)


def _as_copied(findings: Mapping[str, TableFinding], copies: Sequence[Copy]) -> Mapping[str, TableFinding]:
    """A table that was copied was looked at in the copy's snapshot, after its log was seen to."""
    copied = {copy.tracked.node: copy.tracked.followed.shape for copy in copies}
    return {
        node: replace(finding, shape=copied[node]) if node in copied else finding for node, finding in findings.items()
    }
