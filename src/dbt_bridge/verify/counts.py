"""The level of counts: how many rows each side has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dbt_bridge.contracts.side import Side
from dbt_bridge.nouns.both import ENDS, Both
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.column_pairs import ColumnPairs
from dbt_bridge.verify.rows.comparison import Comparison, prepare_comparison
from dbt_bridge.verify.rows.match import find_suspects, partition_both, stream_meetings
from dbt_bridge.verify.rows.sender import KEY, LATE, Numbers
from dbt_bridge.verify.rows.workspace import Workspace


@dataclass(frozen=True, slots=True)
class InFlight:
    """What the bound of a comparison leaves out.

    Attributes:
        digests: of the keys in flight.
        rows: how many rows of each side are not in flight.
    """

    digests: Numbers
    rows: Both[int]


def compare_counts(blank: Parity, sides: Both[Side], request: VerifyRequest, workspace: Workspace) -> Parity:
    """The parity of the numbers of rows, without those in flight."""
    if request.bound is None:
        return replace(blank, rows_origin=sides.origin.count(), rows_destination=sides.destination.count())
    comparison = prepare_comparison(sides, request, workspace)
    in_flight = find_in_flight(comparison)
    return replace(
        blank,
        rows_origin=in_flight.rows.origin,
        rows_destination=in_flight.rows.destination,
        in_flight=len(in_flight.digests),
        bytes=comparison.bytes,
    )


def find_in_flight(comparison: Comparison) -> InFlight:
    """Which rows the bound leaves out; both sides are read for it."""
    pairs = comparison.pairs
    if pairs.key:
        pairs = ColumnPairs(pairs.key, (), tuple(replace(pair, is_compared=False) for pair in pairs.carried))
    senders = comparison.senders.map(lambda sender: replace(sender, pairs=pairs))
    partitions = partition_both(
        senders.map(lambda sender: sender.stream_values),
        comparison.workspace.inside("in_flight"),
        KEY,
        senders.destination.cancel,
    )
    digests = find_suspects(partitions, pairs, comparison.workspace.engine).in_flight
    rows = dict.fromkeys(ENDS, 0)
    for meeting in stream_meetings(partitions):
        for end in ENDS:
            if (table := meeting.at(end)) is None:
                continue
            late = np.asarray(table.column(LATE).to_numpy() == 1)
            if pairs.key:
                late = np.isin(table.column(KEY).to_numpy(), digests)
            rows[end] += len(late) - int(late.sum())
    return InFlight(digests, ENDS.map(lambda end: rows[end]))
