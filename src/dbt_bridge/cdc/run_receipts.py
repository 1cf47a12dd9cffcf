"""The receipts of one run of capture: written to the ledger, reported to whoever watches, and remembered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from dbt_bridge.cdc.census import Tracked
from dbt_bridge.cdc.followed_source import FollowedSource
from dbt_bridge.contracts.destination import Loaded
from dbt_bridge.errors import BridgeError, OriginError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.receipt import Receipt


class RunReceipts:
    """Receipts of everything that ended, in order.

    Attributes:
        all: of them; a stream, which runs for months, empties it after each commit.
        failed_nodes: tables that have a failed receipt of this run.
    """

    def __init__(self, source: FollowedSource) -> None:
        self.all: list[Receipt] = []
        self.failed_nodes: set[str] = set()
        self._source = source

    def add(self, receipts: Iterable[Receipt]) -> None:
        """Those of a commit, which has written and reported them."""
        self.all += receipts

    def fail(self, receipts: Sequence[Receipt], points: Sequence[Checkpoint]) -> None:
        """Write and report failed receipts, with the checkpoints that say why their tables do not go on."""
        if receipts:
            self._source.ends.ledger.save(points, receipts)
        self.all += receipts
        self.failed_nodes |= {receipt.node for receipt in receipts}
        for receipt in receipts:
            self._source.progress.finished(receipt)

    def fail_all(self, error: BridgeError) -> None:
        """A failed receipt for each table that the selection needs."""
        self._fail_blank(self._source.needed, error)

    def fail_unjoined(self, tracked: Collection[str]) -> None:
        """Tables that the selection needs and are not followed: nothing may be built on them."""
        why = OriginError(
            "it could not join the others before --max-seconds were over, or the run was stopped, or its columns"
            " changed again and again",
            mend="dbt-bridge sync, with more time",
        )
        self._fail_blank(self._source.needed - self.failed_nodes - set(tracked), why)

    def add_unchanged(self, tracked: Collection[Tracked], position: Position) -> None:
        """Tables that the selection needs and did not change have a receipt too, which says where they stand."""
        ended = {receipt.node for receipt in self.all}
        receipts = [
            record.finish_receipt(
                replace(
                    table.wanted.receipt,
                    hop="cdc",
                    destination=self._source.ends.destination.name,
                    write_disposition="append" if table.replica.change_log else "merge",
                    checkpoint_from=str(position),
                    checkpoint_to=str(position),
                    without=table.without or None,
                ),
                Loaded(0, 0, 0, 0, 0),
            )
            for table in tracked
            if table.node in self._source.needed and table.node not in ended
        ]
        if receipts:
            self._source.ends.ledger.record(receipts)
        self.all += receipts
        for receipt in receipts:
            self._source.progress.finished(receipt)

    def _fail_blank(self, nodes: Collection[str], error: BridgeError) -> None:
        blank = [wanted.receipt for wanted in self._source.tables if wanted.table.node in nodes]
        self.fail([record.fail_receipt(replace(receipt, hop="cdc"), error) for receipt in blank], [])
