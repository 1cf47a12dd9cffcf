"""Columns are compared by what they add up to: fast where a difference need only be noticed, not found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.nouns.parity import Aggregate
from dbt_bridge.verify.column_sums import Summed
from dbt_bridge.verify.request import Tolerance
from dbt_bridge.verify.rows.column_pairs import ColumnPair
from dbt_bridge.verify.rows.digest_batches import Numbers, Sender
from dbt_bridge.verify.rows.in_parallel import side_by_side

_FLOAT_SUMS = 1e-9  # of the sum of the absolute values: rows come in any order, and sums of floats depend on it
_PER_SECOND = {"timestamp": Fraction(1_000_000), "date": Fraction(1, 86_400)}


def summed(senders: Sequence[Sender], in_flight: Numbers) -> tuple[list[Summed], list[Summed]]:
    """Of both sides, each compared column in the order of `paired.compared`; the origin is read in this thread.

    Args:
        in_flight: sorted digests of the keys that are left out.
    """
    return side_by_side(
        lambda stopped: _summed(senders[0], in_flight, stopped),
        lambda stopped: _summed(senders[1], in_flight, stopped),
        senders[1].cancel,
    )


def _summed(sender: Sender, in_flight: Numbers, stopped: Event) -> list[Summed]:
    columns = [Summed(pair.canon, pair.is_real) for pair in sender.paired.compared]
    for batch in _in_time(sender, in_flight):
        if stopped.is_set():
            break
        for column, array in zip(columns, batch.columns, strict=False):
            column.add(array)
    return columns


def _in_time(sender: Sender, in_flight: Numbers) -> Iterator[pa.RecordBatch]:
    """The rows that are not in flight; the compared columns come first."""
    compared = sender.paired.compared
    pairs = (*compared, *(pair for pair in sender.paired if not pair.compared))
    for batch in sender.rows(pairs):
        if sender.late is None:
            yield batch
            continue
        arrays = dict(zip(pairs, batch.columns, strict=True))
        if sender.paired.key:
            mask = ~np.isin(sender.digest(arrays), in_flight)
        else:
            mask = sender.late.of(arrays).to_numpy() == 0
        yield batch.filter(pa.array(mask))


def aggregates(pairs: Sequence[ColumnPair], origin: Sequence[Summed], destination: Sequence[Summed]) -> list[Aggregate]:
    """What was added up on both sides, side by side. Of masked columns no value is told or compared."""
    told = [_number("", "count", origin[0].rows, destination[0].rows)] if pairs else []
    for pair, one, other in zip(pairs, origin, destination, strict=True):
        told.append(_number(pair.name, "nulls", one.nulls, other.nulls))
        if not pair.masked:
            told += _of_values(pair, one, other)
        if pair.tolerance is None:
            told.append(_number(pair.name, "distinct", one.distinct, other.distinct))
    return told


def _of_values(pair: ColumnPair, one: Summed, other: Summed) -> Iterator[Aggregate]:
    if one.greatest is not None or other.greatest is not None:
        yield _of_ends(pair, "min", one, other, (one.least, other.least))
        yield _of_ends(pair, "max", one, other, (one.greatest, other.greatest))
    if one.total is None and other.total is None:
        return
    magnitude = max(one.magnitude, other.magnitude)
    slack = magnitude * _FLOAT_SUMS if math.isfinite(magnitude) else 0.0
    same = _same(one.total, other.total, pair.tolerance) or (
        pair.canon.kind == "float" and None not in (one.total, other.total) and abs(one.total - other.total) <= slack
    )
    yield Aggregate(
        pair.name,
        "sum",
        _sum_in_words(one.total),
        _sum_in_words(other.total),
        same,
        _variance(one.total, other.total),
        _declared(pair),
    )


def _sum_in_words(total: Any) -> str | None:
    if total is None:
        return None
    return f"{total:f}" if isinstance(total, Decimal) else str(total)


def _of_ends(pair: ColumnPair, what: str, one: Summed, other: Summed, ends: tuple[Any, Any]) -> Aggregate:
    unit = _PER_SECOND.get(pair.canon.kind, Fraction(1))
    is_number = pair.canon.kind in ("int", "float", "decimal")
    return Aggregate(
        pair.name,
        what,
        one.in_words(ends[0]),
        other.in_words(ends[1]),
        _same(*ends, pair.tolerance, unit),
        _variance(*ends) if is_number else None,
        _declared(pair),
    )


def _number(column: str, what: str, origin: int, destination: int) -> Aggregate:
    same = origin == destination
    return Aggregate(column, what, str(origin), str(destination), same, _variance(origin, destination))


def _declared(pair: ColumnPair) -> str:
    return str(pair.tolerance or "")


def _same(origin: Any, destination: Any, tolerance: Tolerance | None, unit: Fraction = Fraction(1)) -> bool:
    if origin is None or destination is None:
        return origin is destination
    if origin == destination or (_is_nan(origin) and _is_nan(destination)):
        return True
    if tolerance is None or _is_nan(origin) or _is_nan(destination):
        return False
    try:
        one, other = _exact(origin), _exact(destination)
    except (ValueError, OverflowError):  # infinity, or a moment before Christ
        return False
    return abs(one - other) <= Fraction(tolerance.amount) * (abs(one) if tolerance.relative else unit)


def _exact(value: Any) -> Fraction:
    """A number; the text of a moment with nanoseconds as microseconds."""
    if not isinstance(value, str):
        return Fraction(value)
    second, _, beyond = value.partition(".")
    seconds = int(datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000 + Fraction(int(beyond.ljust(9, "0")), 1000)


def _is_nan(value: Any) -> bool:
    return (isinstance(value, float) and math.isnan(value)) or (isinstance(value, Decimal) and value.is_nan())


def _variance(origin: Any, destination: Any) -> float | None:
    if origin is None or destination is None or not origin or _is_nan(origin) or _is_nan(destination):
        return None
    if not (math.isfinite(origin) and math.isfinite(destination)):
        return None
    return float((Decimal(destination) - Decimal(origin)) / abs(Decimal(origin)))
