"""The level of aggregates: what columns add up to. Fast where a difference need only be noticed, not found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.contracts.side import Side
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import Aggregate, Parity
from dbt_bridge.verify.column_sums import ColumnSums
from dbt_bridge.verify.counts import find_in_flight
from dbt_bridge.verify.request import Tolerance, VerifyRequest
from dbt_bridge.verify.rows.column_pairs import ColumnPair
from dbt_bridge.verify.rows.comparison import prepare_comparison
from dbt_bridge.verify.rows.in_parallel import run_side_by_side
from dbt_bridge.verify.rows.sender import Numbers, Sender
from dbt_bridge.verify.rows.workspace import Workspace

_FLOAT_SUMS = 1e-9  # of the sum of the absolute values: rows come in any order, and sums of floats depend on it
_PER_SECOND = {"timestamp": Fraction(1_000_000), "date": Fraction(1, 86_400)}
_NONE = np.empty(0, np.int64)


def compare_aggregates(blank: Parity, sides: Both[Side], request: VerifyRequest, workspace: Workspace) -> Parity:
    """The parity of what the columns add up to, without rows in flight."""
    comparison = prepare_comparison(sides, request, workspace)
    in_flight = _NONE if request.bound is None else find_in_flight(comparison).digests
    sums = _sum_both(comparison.senders, np.sort(in_flight))
    return replace(
        blank,
        rows_origin=sums.origin[0].rows,
        rows_destination=sums.destination[0].rows,
        in_flight=len(in_flight),
        bytes=comparison.bytes,
        aggregates=tuple(_compare_sums(comparison.pairs.to_compare, sums)),
    )


def _sum_both(senders: Both[Sender], in_flight: Numbers) -> Both[list[ColumnSums]]:
    """For each side, each compared column in the order of `ColumnPairs.to_compare`.

    Args:
        in_flight: sorted digests of the keys that are left out.
    """
    sums = senders.map(lambda sender: partial(_sum_side, sender, in_flight))
    return run_side_by_side(sums, senders.destination.cancel)


def _sum_side(sender: Sender, in_flight: Numbers, stop: Event) -> list[ColumnSums]:
    columns = [ColumnSums(pair.canon, pair.is_real) for pair in sender.pairs.to_compare]
    for batch in _stream_in_time(sender, in_flight):
        if stop.is_set():
            break
        for column, array in zip(columns, batch.columns, strict=False):
            column.add(array)
    return columns


def _stream_in_time(sender: Sender, in_flight: Numbers) -> Iterator[pa.RecordBatch]:
    """The rows that are not in flight; the compared columns come first."""
    pairs = (*sender.pairs.to_compare, *(pair for pair in sender.pairs if not pair.is_compared))
    for batch in sender.stream_rows(pairs):
        if sender.limit is None:
            yield batch
            continue
        arrays = dict(zip(pairs, batch.columns, strict=True))
        if sender.pairs.key:
            mask = ~np.isin(sender.digest_identity(arrays), in_flight)
        else:
            mask = sender.limit.mark_above(arrays).to_numpy() == 0
        yield batch.filter(pa.array(mask))


def _compare_sums(pairs: Sequence[ColumnPair], sums: Both[list[ColumnSums]]) -> Iterator[Aggregate]:
    """The sums of both sides beside each other. The values of masked columns are neither compared nor reported."""
    if pairs:
        yield _compare_counts("", "count", sums.map(lambda columns: columns[0].rows))
    for pair, origin, destination in zip(pairs, *sums, strict=True):
        both = Both(origin, destination)
        yield _compare_counts(pair.name, "nulls", both.map(lambda column: column.nulls))
        if not pair.masked:
            yield from _compare_values(pair, both)
        if pair.tolerance is None:
            yield _compare_counts(pair.name, "distinct", both.map(lambda column: column.distinct))


def _compare_counts(column: str, what: str, counts: Both[int]) -> Aggregate:
    same = counts.origin == counts.destination
    return Aggregate(column, what, str(counts.origin), str(counts.destination), same, _variance(counts))


def _compare_values(pair: ColumnPair, sums: Both[ColumnSums]) -> Iterator[Aggregate]:
    if any(column.greatest is not None for column in sums):
        yield _compare_extremes(pair, "min", sums, sums.map(lambda column: column.least))
        yield _compare_extremes(pair, "max", sums, sums.map(lambda column: column.greatest))
    totals = sums.map(lambda column: column.total)
    if any(total is not None for total in totals):
        yield _compare_totals(pair, totals, max(column.magnitude for column in sums))


def _compare_extremes(pair: ColumnPair, what: str, sums: Both[ColumnSums], values: Both[Any]) -> Aggregate:
    unit = _PER_SECOND.get(pair.canon.kind, Fraction(1))
    is_number = pair.canon.kind in ("int", "float", "decimal")
    return Aggregate(
        pair.name,
        what,
        sums.origin.format_value(values.origin),
        sums.destination.format_value(values.destination),
        _are_same(values, pair.tolerance, unit),
        _variance(values) if is_number else None,
        str(pair.tolerance or ""),
    )


def _compare_totals(pair: ColumnPair, totals: Both[Any], magnitude: float) -> Aggregate:
    slack = magnitude * _FLOAT_SUMS if math.isfinite(magnitude) else 0.0
    same = _are_same(totals, pair.tolerance) or (
        pair.canon.kind == "float" and None not in totals and abs(totals.origin - totals.destination) <= slack
    )
    texts = totals.map(_format_total)
    variance = _variance(totals)
    return Aggregate(pair.name, "sum", texts.origin, texts.destination, same, variance, str(pair.tolerance or ""))


def _format_total(total: Any) -> str | None:
    if total is None:
        return None
    return f"{total:f}" if isinstance(total, Decimal) else str(total)


def _are_same(values: Both[Any], tolerance: Tolerance | None, unit: Fraction = Fraction(1)) -> bool:
    """Args: unit: how many of the values' own unit the tolerance's is (for moments: a second)."""
    origin, destination = values
    if origin is None or destination is None:
        return origin is destination
    if origin == destination or all(map(_is_nan, values)):
        return True
    if tolerance is None or any(map(_is_nan, values)):
        return False
    try:
        one, other = map(_as_fraction, values)
    except (ValueError, OverflowError):  # infinity, or a moment before Christ
        return False
    return abs(one - other) <= Fraction(tolerance.amount) * (abs(one) if tolerance.relative else unit)


def _as_fraction(value: Any) -> Fraction:
    """A number; the text of a moment with nanoseconds as microseconds."""
    if not isinstance(value, str):
        return Fraction(value)
    second, _, beyond = value.partition(".")
    seconds = int(datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000 + Fraction(int(beyond.ljust(9, "0")), 1000)


def _is_nan(value: Any) -> bool:
    return (isinstance(value, float) and math.isnan(value)) or (isinstance(value, Decimal) and value.is_nan())


def _variance(values: Both[Any]) -> float | None:
    """(destination - origin) / |origin|; None where that is no number."""
    origin, destination = values
    if origin is None or destination is None or not origin or any(map(_is_nan, values)):
        return None
    if not all(map(math.isfinite, values)):
        return None
    return float((Decimal(destination) - Decimal(origin)) / abs(Decimal(origin)))
