"""A cdc source of one run, and its ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbt_bridge.contracts.change_feed import DeclaredTable, Pace
from dbt_bridge.contracts.change_source import ChangeSource
from dbt_bridge.contracts.destination import Follows, Warehouse
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.checkpoint import Checkpoint
from dbt_bridge.nouns.table import TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.wanted import Wanted
from dbt_bridge.system.memory_room import share_memory

# Bytes of values that a destination gets at once: where each time costs little, and where it costs much. Four times as
# many are on their way (one is applied, two wait, one grows), beside what the destination makes of them.
_SMALL, _LARGE = 128 << 20, 512 << 20
_PART = 16


@dataclass(frozen=True, slots=True)
class FollowedSource:
    """One cdc source and its ends, for one run.

    Attributes:
        changes: the origin's log.
        tables: every declared cdc table of it, needed by the selection or not: they all move together, as the log
            passes each change once.
        needed: unique_ids of those that the selection needs.
        anew: unique_ids of those that are copied whatever their checkpoints say (full refresh).
    """

    changes: ChangeSource
    ends: Ends
    tables: Sequence[Wanted]
    needed: frozenset[str]
    anew: frozenset[str]
    threads: int
    progress: Progress
    load_id: str

    @property
    def name(self) -> str:
        """The origin's."""
        return self.ends.origin.name

    @property
    def follower(self) -> Follows:
        """The destination, as what applies changes.

        Raises:
            UsageError: it does not.
        """
        destination = self.ends.destination
        if not isinstance(destination, Follows):
            raise UsageError(
                f"the destination {destination.name!r} cannot follow changes",
                mend="land the source in the warehouse or in a Delta destination, or `replication: incremental`",
            )
        return destination

    def pace(self, seconds: float | None = None) -> Pace:
        """How large the pieces are that the destination gets.

        Where it can stage, a piece costs little beside its rows, and small ones keep it busy while the origin sends;
        elsewhere (Delta) each rewrites files.

        Args:
            seconds: between two of them, at most; None for what suits a catch-up.
        """
        rows = self.follower.chunk_rows
        if isinstance(self.ends.destination, Warehouse):
            return Pace(rows, least=rows // 4, bytes=share_memory(_SMALL, _PART), seconds=seconds or 5)
        return Pace(rows, least=rows, bytes=share_memory(_LARGE, _PART), seconds=seconds or 60)


def make_declared_table(wanted: Wanted, point: Checkpoint | None = None, *, asks_latest: bool = False) -> DeclaredTable:
    """A table as the change source is asked about it."""
    memory = point.memory if point is not None else None
    return DeclaredTable(
        wanted.table.node,
        TableName(wanted.source.origin_schema or "", wanted.table.identifier),
        tuple(wanted.table.primary_key),
        wanted.table.write_disposition == "append",
        memory.shape if memory is not None else "",
        asks_latest,
    )
