"""The checkpoints of a cdc source's tables: whose LSNs they are, and which of them still stand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dbt_bridge.cdc.census import ANEW
from dbt_bridge.cdc.followed_source import Source
from dbt_bridge.contracts.destination import Checkpoint, Ledger
from dbt_bridge.errors import OriginError


def checkpoints_of(source: Source, identity: str, anew: Collection[str]) -> dict[str, Checkpoint]:
    """The LSNs of the source's tables, by unique_id. Tables that are not declared any more are set aside.

    Args:
        identity: `system identifier/slot` of the origin now.
        anew: tables that are copied whatever their checkpoints say.

    Raises:
        OriginError: one is of another server or slot.
    """
    nodes = {wanted.table.node for wanted in source.tables}
    every = source.ends.ledger.checkpoints()
    # The slot moves on without a table that is not declared any more.
    gone = [p for p in every if p.slot == identity and p.node not in nodes and not p.set_aside]
    if gone:
        left = [replace(p, set_aside=f"{ANEW}: it is no cdc table of this dbt source any more") for p in gone]
        source.ends.ledger.save(left, [])
    points = {p.node: p for p in every if p.node in nodes and p.slot}
    for point in points.values():
        if point.slot != identity and not point.set_aside and point.node not in anew:
            raise OriginError(
                f"the checkpoint of {point.node} is of slot {point.slot}, and the origin {source.name!r} is"
                f" {identity}: another server, a restored one, or another `slot:`",
                mend=f"check [sources.{source.name}]; if it is right: dbt-bridge sync --full-refresh",
            )
    return points


def any_stands(ledger: Ledger, identity: str) -> bool:
    """Whether a table goes on from where it stands, in this run or in a later one."""
    return any(point.slot == identity and not point.set_aside for point in ledger.checkpoints())
