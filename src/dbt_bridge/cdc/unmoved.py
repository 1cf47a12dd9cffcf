"""Receipts of the tables of a cdc source that nothing happened to: without changes, or without having joined."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dbt_bridge.cdc.census import Tracked
from dbt_bridge.cdc.followed_source import Source
from dbt_bridge.contracts.destination import Loaded
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.receipt import Receipt


def unchanged(source: Source, tracked: Collection[Tracked], position: int) -> list[Receipt]:
    """Tables that were asked for and did not change have a receipt too, which says where they stand."""
    at = lsn.spelled(position)
    return [
        record.closed(
            replace(
                table.wanted.receipt,
                hop="cdc",
                destination=source.ends.destination.name,
                write_disposition="append" if table.replica.change_log else "merge",
                checkpoint_from=at,
                checkpoint_to=at,
            ),
            Loaded(0, 0, 0, 0, 0),
        )
        for table in tracked
    ]


def unjoined(source: Source, nodes: Collection[str]) -> list[Receipt]:
    """Tables that were asked for and are not followed: nothing may be built on them."""
    why = OriginError(
        "it could not join the others before --max-seconds were over, or the run was stopped, or its columns changed"
        " again and again",
        mend="dbt-bridge sync, with more time",
    )
    blank = [wanted.receipt for wanted in source.tables if wanted.table.node in nodes]
    return [record.failed(replace(receipt, hop="cdc"), why) for receipt in blank]
