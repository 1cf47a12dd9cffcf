"""A/B metrics: the same question asked of two systems, and how far their numbers are apart.

Whole numbers must be the same; others may differ by 0.01% of the legacy one, unless a tolerance is declared; moments
only where it is a time. NULL is equal to NULL alone, and NaN to NaN alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.parity import Aggregate, Parity
from dbt_bridge.nouns.reconciliation import DeclaredTolerance, Metric
from dbt_bridge.nouns.table import Column

DEFAULT_TOLERANCE = DeclaredTolerance(Decimal("0.0001"), relative=True, text="0.01%")
_MOST_ROWS = 10_000  # a metric is a handful of numbers; more are rows, which are compared as rows


@dataclass(frozen=True, slots=True)
class Answer:
    """What one side's query of a metric gave."""

    columns: tuple[Column, ...]
    rows: pa.Table


def compare_metric(metric: Metric, legacy: Answer, new: Answer) -> tuple[Aggregate, ...]:
    """One aggregate for each number, named `metric.column`; those of several rows `metric.column [label]`.

    Raises:
        UsageError: the answers have no common shape: other columns, no rows, or rows that nothing tells apart.
    """
    for side, answer in (("legacy", legacy), ("new", new)):
        if len(answer.rows) > _MOST_ROWS:
            raise UsageError(
                f"metric {metric.name!r}: the {side} query gives {len(answer.rows):,} rows",
                mend="aggregate more, or compare them as rows with `query:`",
            )
    pairs = _columns(metric, legacy, new)
    labels = _labels(metric, pairs, legacy, new)
    numbers = [pair for pair in pairs if pair not in labels]
    before = _by_label(metric, "legacy", legacy, [one for one, _ in labels])
    after = _by_label(metric, "new", new, [other for _, other in labels])
    found: list[Aggregate] = []
    for label in dict.fromkeys((*before, *after)):
        shown = f" [{', '.join(_shown(part) for part in label)}]" if label else ""
        for one, other in numbers:
            what = f"{metric.name}.{new.columns[other].name}{shown}"
            values = (before[label][one] if label in before else None, after[label][other] if label in after else None)
            both = label in before and label in after
            whole = _is_whole(legacy.columns[one], values[0]) and _is_whole(new.columns[other], values[1])
            numeric = _is_number(legacy.columns[one]) or _is_number(new.columns[other])
            allowed = metric.tolerance
            if allowed is None or (allowed.time and numeric):
                allowed = None if whole or not numeric else DEFAULT_TOLERANCE
            found.append(_compared(what, values, allowed, both=both, numeric=numeric))
    if not found:
        raise UsageError(f"metric {metric.name!r}: neither query gives a row", mend="compare what has rows")
    return tuple(found)


def apply_tolerances(parity: Parity, tolerances: Mapping[str, DeclaredTolerance]) -> Parity:
    """The parity with its sums within their tolerance, which is 0.01% or the column's own, told as it was declared.

    What a value may be apart, a sum may be for each row: where all rows are within their tolerance, so is their sum
    (of a share: where all values have one sign).
    """
    rows = max(parity.rows_origin or 0, parity.rows_destination or 0)
    aggregates = tuple(_tolerated(aggregate, tolerances, rows) for aggregate in parity.aggregates)
    changed = replace(parity, aggregates=aggregates)
    if parity.level != "aggregates" or parity.status != "different" or parity.rows_origin != parity.rows_destination:
        return changed
    return replace(changed, status="equal" if all(a.same for a in aggregates) else "different")


def _tolerated(aggregate: Aggregate, tolerances: Mapping[str, DeclaredTolerance], rows: int) -> Aggregate:
    allowed = tolerances.get(aggregate.column, DEFAULT_TOLERANCE)
    if aggregate.same or aggregate.what != "sum":
        return replace(aggregate, tolerance=allowed.text) if aggregate.tolerance else aggregate
    each = allowed if allowed.relative else replace(allowed, amount=allowed.amount * rows)
    one, other = _number(aggregate.origin), _number(aggregate.destination)
    within = one is not None and other is not None and _within(one, other, each)
    return replace(aggregate, same=within, tolerance=allowed.text)


def _columns(metric: Metric, legacy: Answer, new: Answer) -> list[tuple[int, int]]:
    """Which columns belong together: those of one name, or in order where their names differ."""
    ours, theirs = ([c.name.casefold() for c in answer.columns] for answer in (new, legacy))
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        return [(theirs.index(name), place) for place, name in enumerate(ours)]
    if len(ours) == len(theirs):
        return [(place, place) for place in range(len(ours))]
    raise UsageError(
        f"metric {metric.name!r}: the legacy query gives {len(theirs)} columns, and the new one {len(ours)}",
        mend="select the same numbers on both sides",
    )


def _labels(metric: Metric, pairs: Sequence[tuple[int, int]], legacy: Answer, new: Answer) -> list[tuple[int, int]]:
    """The columns that tell rows apart; none where both answers are one row."""
    if metric.by:
        names = {new.columns[other].name.casefold(): (one, other) for one, other in pairs}
        missing = [name for name in metric.by if name.casefold() not in names]
        if missing:
            raise UsageError(
                f"metric {metric.name!r}: `by` names {missing[0]!r}, which the new query does not give",
                mend=f"name one of {', '.join(names)}",
            )
        return [names[name.casefold()] for name in metric.by]
    if len(legacy.rows) <= 1 and len(new.rows) <= 1:
        return []
    return [
        (one, other)
        for one, other in pairs
        if not _is_number(legacy.columns[one]) or not _is_number(new.columns[other])
    ]


def _by_label(
    metric: Metric, side: str, answer: Answer, labels: Sequence[int]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    columns = [column.to_pylist() for column in answer.rows.columns]
    for row in zip(*columns, strict=True):
        label = tuple(_alike(row[place]) for place in labels)
        if label in found:
            told = f"[{', '.join(map(_shown, label))}] twice" if label else "several rows that nothing tells apart"
            raise UsageError(
                f"metric {metric.name!r}: the {side} query gives {told}",
                mend="name the columns that tell rows apart with `by: [...]`",
            )
        found[label] = row
    return found


def _compared(
    what: str, values: tuple[Any, Any], allowed: DeclaredTolerance | None, *, both: bool, numeric: bool
) -> Aggregate:
    """One number, or text, of both sides.

    Args:
        both: both sides have this row.
        numeric: one of the columns holds numbers: a text on the other side may be one too, but '007' is no 7.
    """
    one, other = values
    if not numeric and isinstance(one, date) != isinstance(other, date):
        one, other = _as_moment(one), _as_moment(other)
    first, second = (_number(one), _number(other)) if numeric else (None, None)
    if allowed is not None and allowed.time and isinstance(one, date) and isinstance(other, date):
        first, second = _seconds(one), _seconds(other)
    variance: float | None = None
    if numeric and first is not None and second is not None and first.is_finite() and second.is_finite() and first:
        variance = float((second - first) / abs(first))
    if first is None or second is None:  # texts, moments, NULL
        same = both and _alike(one) == _alike(other)
    else:
        same = both and _within(first, second, allowed)
    said = allowed.text if allowed is not None and first is not None and second is not None else ""
    return Aggregate("", what, _told(values[0]), _told(values[1]), same, variance, said)


def _within(one: Decimal, other: Decimal, allowed: DeclaredTolerance | None) -> bool:
    if not one.is_finite() or not other.is_finite():
        return str(one) == str(other)
    if allowed is None:
        return one == other
    return abs(one - other) <= (allowed.amount * abs(one) if allowed.relative else allowed.amount)


def _is_number(column: Column) -> bool:
    kind = column.type
    typed = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(typed or (column.origin_type or "").startswith("numeric"))


def _is_whole(column: Column, value: Any) -> bool:
    """A number of a type without fractions. What Postgres calls `numeric` is whole where its value is."""
    kind = column.type
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return True
    number = _number(value) if (column.origin_type or "").startswith("numeric") else None
    return number is not None and number.is_finite() and number == number.to_integral_value()


def _number(value: Any) -> Decimal | None:
    """None for NULL and for what is no number. Of text, which is how a numeric without digits travels, its number."""
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int | float | str | Decimal):
        return None
    try:
        return Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError):
        return None


def _as_moment(value: Any) -> Any:
    """The moment that a text is: SQLite has no other form of them."""
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _seconds(moment: date) -> Decimal:
    """A moment since 1970; a date is its midnight."""
    at = moment if isinstance(moment, datetime) else datetime.combine(moment, time())
    return Decimal((at.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(microseconds=1)).scaleb(-6)


def _alike(value: Any) -> Any:
    """What both engines may have of one value: a date as its midnight, a number whatever its type."""
    number = None if isinstance(value, str) else _number(value)
    if number is not None:
        return _plain(number) if number.is_finite() else str(number)
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None)
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    return value.isoformat() if hasattr(value, "isoformat") else value


def _plain(number: Decimal) -> str:
    """Of all ways to write a number the shortest one without an exponent: `10` of 1E+1, 10.0 and 10."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _shown(part: Any) -> str:
    """A part of a label, as `_alike` has it: a text 007 is no number 7."""
    return "NULL" if part is None else str(part)


def _told(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:f}" if isinstance(value, Decimal) and value.is_finite() else str(value)
