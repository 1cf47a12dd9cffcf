"""The levels below rows: how many there are, and what their columns add up to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dbt_bridge.contracts.side import Side
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.verify.aggregates import aggregates, summed
from dbt_bridge.verify.request import VerifyRequest
from dbt_bridge.verify.rows.column_pairs import ColumnPairs
from dbt_bridge.verify.rows.comparison import Comparison, between
from dbt_bridge.verify.rows.digest_batches import KEY, LATE, Numbers
from dbt_bridge.verify.rows.match import both_kept, parts, suspects

_NONE = np.empty(0, np.int64)


def compared_counts(opened: Parity, ends: tuple[Side, Side], asked: VerifyRequest, engine: Any, folder: Path) -> Parity:
    """The parity of the numbers of rows, without those in flight."""
    if asked.bound is None:
        return replace(opened, rows_origin=ends[0].count(), rows_destination=ends[1].count())
    comparison = between(ends, asked, engine, folder)
    in_flight, rows = _in_flight(comparison)
    return replace(
        opened, rows_origin=rows[0], rows_destination=rows[1], in_flight=len(in_flight), bytes=comparison.bytes
    )


def compared_aggregates(
    opened: Parity, ends: tuple[Side, Side], asked: VerifyRequest, engine: Any, folder: Path
) -> Parity:
    """The parity of what the columns add up to, without rows in flight."""
    comparison = between(ends, asked, engine, folder)
    in_flight = _NONE if asked.bound is None else _in_flight(comparison)[0]
    origin, destination = summed(comparison.senders, np.sort(in_flight))
    told = aggregates(comparison.paired.compared, origin, destination)
    return replace(
        opened,
        rows_origin=origin[0].rows,
        rows_destination=destination[0].rows,
        in_flight=len(in_flight),
        bytes=comparison.bytes,
        aggregates=tuple(told),
    )


def _in_flight(comparison: Comparison) -> tuple[Numbers, tuple[int, int]]:
    """(digests of the keys in flight, how many rows of each side are not)."""
    paired = comparison.paired
    if paired.key:
        paired = ColumnPairs(paired.key, (), tuple(replace(pair, compared=False) for pair in paired.carried))
    senders = [replace(sender, paired=paired) for sender in comparison.senders]
    both, folder = (senders[0].values, senders[1].values), comparison.folder / "in_flight"
    kept = both_kept(both, folder, KEY, comparison.asked.memory_mb, senders[1].cancel)
    in_flight = suspects(kept, paired, comparison.engine).in_flight
    rows = [0, 0]
    for sides in parts(kept):
        for side, table in enumerate(sides):
            if table is None:
                continue
            late = (
                np.isin(table.column(KEY).to_numpy(), in_flight) if paired.key else table.column(LATE).to_numpy() == 1
            )
            rows[side] += len(late) - int(late.sum())
    return in_flight, (rows[0], rows[1])
