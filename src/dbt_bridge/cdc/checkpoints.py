"""The checkpoints of a cdc source's tables: whose positions they are, and which of them still stand."""

from __future__ import annotations

from collections.abc import Collection

from dbt_bridge.cdc.followed_source import FollowedSource
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.checkpoint import Checkpoint


def read_checkpoints(source: FollowedSource, identity: str, anew: Collection[str]) -> dict[str, Checkpoint]:
    """Where the source's tables stand, by unique_id. Tables that are not declared any more are not followed on.

    Args:
        identity: of the origin's log now.
        anew: tables that are copied whatever their checkpoints say.

    Raises:
        OriginError: one is of another server or slot.
    """
    nodes = {wanted.table.node for wanted in source.tables}
    every = source.ends.ledger.checkpoints()
    # The log moves on without a table that is not declared any more.
    gone = [p for p in every if p.slot == identity and p.node not in nodes and p.stands]
    if gone:
        left = [point.copy_anew("it is no cdc table of this dbt source any more") for point in gone]
        source.ends.ledger.save(left, [])
    points = {p.node: p for p in every if p.node in nodes and p.slot}
    for point in points.values():
        if point.slot != identity and point.stands and point.node not in anew:
            raise OriginError(
                f"the checkpoint of {point.node} is of slot {point.slot}, and the origin {source.name!r} is"
                f" {identity}: another server, a restored one, or another `slot:`",
                mend=f"check [sources.{source.name}]; if it is right: dbt-bridge sync --full-refresh",
            )
    return points


def any_stands(ledger: Ledger, identity: str) -> bool:
    """Whether a table goes on from where it stands, in this run or in a later one."""
    return any(point.slot == identity and point.stands for point in ledger.checkpoints())
