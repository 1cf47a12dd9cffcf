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
from dbt_bridge.nouns.both import ENDS, Both
from dbt_bridge.nouns.parity import Aggregate, Parity
from dbt_bridge.nouns.reconciliation import DeclaredTolerance, Metric
from dbt_bridge.nouns.table import Column

DEFAULT_TOLERANCE = DeclaredTolerance(Decimal("0.0001"), relative=True, text="0.01%")
_SIDES = Both("legacy", "new")
_Values = tuple[Any, ...]
_MOST_ROWS = 10_000  # a metric is a handful of numbers; more are rows, which are compared as rows


@dataclass(frozen=True, slots=True)
class Answer:
    """What the query of a metric gave at one side."""

    columns: tuple[Column, ...]
    rows: pa.Table


def compare_metric(metric: Metric, legacy: Answer, new: Answer) -> tuple[Aggregate, ...]:
    """One aggregate for each number, named `metric.column`; those of several rows `metric.column [label]`.

    Raises:
        UsageError: the answers have no common shape: other columns, no rows, or rows that nothing tells apart.
    """
    answers = Both(legacy, new)
    for side, answer in zip(_SIDES, answers, strict=True):
        if len(answer.rows) > _MOST_ROWS:
            raise UsageError(
                f"metric {metric.name!r}: the {side} query gives {len(answer.rows):,} rows",
                mend="aggregate more, or compare them as rows with `query:`",
            )
    pairs = _pair_columns(metric, answers)
    labels = _select_labels(metric, pairs, answers)
    rows = Both(
        _group_by_label(metric, _SIDES.origin, legacy, [pair.origin for pair in labels]),
        _group_by_label(metric, _SIDES.destination, new, [pair.destination for pair in labels]),
    )
    numbers = [pair for pair in pairs if pair not in labels]
    aggregates = [
        _compare_number(_Number(metric, answers, pair, label, Both(*(side.get(label) for side in rows))))
        for label in dict.fromkeys((*rows.origin, *rows.destination))
        for pair in numbers
    ]
    if not aggregates:
        raise UsageError(f"metric {metric.name!r}: neither query gives a row", mend="compare what has rows")
    return tuple(aggregates)


def apply_tolerances(parity: Parity, tolerances: Mapping[str, DeclaredTolerance]) -> Parity:
    """The parity with its sums compared within a tolerance: the column's own as it was declared, otherwise 0.01%.

    The tolerance of a value is allowed to a sum once for each row: where all rows are within it, so is their sum.
    (For a share this holds where all values have one sign.)
    """
    rows = max(parity.rows_origin or 0, parity.rows_destination or 0)
    aggregates = tuple(
        _apply_tolerance(aggregate, tolerances.get(aggregate.column, DEFAULT_TOLERANCE), rows)
        for aggregate in parity.aggregates
    )
    changed = replace(parity, aggregates=aggregates)
    if parity.level != "aggregates" or parity.status != "different" or parity.rows_origin != parity.rows_destination:
        return changed
    return replace(changed, status="equal" if all(a.same for a in aggregates) else "different")


def _apply_tolerance(aggregate: Aggregate, tolerance: DeclaredTolerance, rows: int) -> Aggregate:
    if aggregate.same or aggregate.what != "sum":
        return replace(aggregate, tolerance=tolerance.text) if aggregate.tolerance else aggregate
    of_all = tolerance if tolerance.relative else replace(tolerance, amount=tolerance.amount * rows)
    one, other = _to_number(aggregate.origin), _to_number(aggregate.destination)
    within = one is not None and other is not None and _is_within(one, other, of_all)
    return replace(aggregate, same=within, tolerance=tolerance.text)


# --- what belongs together -------------------------------------------------------------------------------------------


def _pair_columns(metric: Metric, answers: Both[Answer]) -> list[Both[int]]:
    """The places of the columns that belong together: those of one name, or in order where their names differ."""
    legacy, new = ([column.name.casefold() for column in answer.columns] for answer in answers)
    if sorted(new) == sorted(legacy) and len(set(new)) == len(new):
        return [Both(legacy.index(name), place) for place, name in enumerate(new)]
    if len(new) == len(legacy):
        return [Both(place, place) for place in range(len(new))]
    raise UsageError(
        f"metric {metric.name!r}: the legacy query gives {len(legacy)} columns, and the new one {len(new)}",
        mend="select the same numbers on both sides",
    )


def _select_labels(metric: Metric, pairs: Sequence[Both[int]], answers: Both[Answer]) -> list[Both[int]]:
    """The columns that tell rows apart; none where both answers are one row."""
    if metric.by:
        names = {answers.destination.columns[pair.destination].name.casefold(): pair for pair in pairs}
        missing = [name for name in metric.by if name.casefold() not in names]
        if missing:
            raise UsageError(
                f"metric {metric.name!r}: `by` names {missing[0]!r}, which the new query does not give",
                mend=f"name one of {', '.join(names)}",
            )
        return [names[name.casefold()] for name in metric.by]
    if all(len(answer.rows) <= 1 for answer in answers):
        return []
    return [pair for pair in pairs if not all(_is_number(answers.at(end).columns[pair.at(end)]) for end in ENDS)]


def _group_by_label(metric: Metric, side: str, answer: Answer, labels: Sequence[int]) -> dict[_Values, _Values]:
    """The label of each row -> the row."""
    rows: dict[_Values, _Values] = {}
    columns = [column.to_pylist() for column in answer.rows.columns]
    for row in zip(*columns, strict=True):
        label = tuple(_to_comparable(row[place]) for place in labels)
        if label in rows:
            what = f"[{_format_label(label)}] twice" if label else "several rows that nothing tells apart"
            raise UsageError(
                f"metric {metric.name!r}: the {side} query gives {what}",
                mend="name the columns that tell rows apart with `by: [...]`",
            )
        rows[label] = row
    return rows


# --- one number of both sides ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Number:
    """One number, or text, of a metric.

    Attributes:
        places: of its column in each answer.
        label: of its row, which tells it apart from the metric's others.
        rows: the row at each side; None where a side does not have it.
    """

    metric: Metric
    answers: Both[Answer]
    places: Both[int]
    label: _Values
    rows: Both[_Values | None]

    @property
    def name(self) -> str:
        column = self.columns.destination.name
        return f"{self.metric.name}.{column}" + (f" [{_format_label(self.label)}]" if self.label else "")

    @property
    def columns(self) -> Both[Column]:
        return ENDS.map(lambda end: self.answers.at(end).columns[self.places.at(end)])

    @property
    def values(self) -> Both[Any]:
        return ENDS.map(lambda end: None if (row := self.rows.at(end)) is None else row[self.places.at(end)])

    @property
    def is_numeric(self) -> bool:
        """One of the columns holds numbers: a text on the other side may be one too, but '007' is no 7."""
        return any(map(_is_number, self.columns))

    @property
    def tolerance(self) -> DeclaredTolerance | None:
        """The metric's own; otherwise 0.01% for numbers that are not whole."""
        declared = self.metric.tolerance
        if declared is not None and not (declared.time and self.is_numeric):
            return declared
        is_whole = all(_is_whole(column, value) for column, value in zip(self.columns, self.values, strict=True))
        return None if is_whole or not self.is_numeric else DEFAULT_TOLERANCE


def _compare_number(number: _Number) -> Aggregate:
    tolerance, is_numeric = number.tolerance, number.is_numeric
    one, other = number.values
    if not is_numeric and isinstance(one, date) != isinstance(other, date):
        one, other = _to_moment(one), _to_moment(other)
    first, second = (_to_number(one), _to_number(other)) if is_numeric else (None, None)
    if tolerance is not None and tolerance.time and isinstance(one, date) and isinstance(other, date):
        first, second = _to_seconds(one), _to_seconds(other)
    variance: float | None = None
    if is_numeric and first is not None and second is not None and first.is_finite() and second.is_finite() and first:
        variance = float((second - first) / abs(first))
    if first is None or second is None:  # texts, moments, NULL
        same, text = _to_comparable(one) == _to_comparable(other), ""
    else:
        same, text = _is_within(first, second, tolerance), tolerance.text if tolerance is not None else ""
    in_both = all(row is not None for row in number.rows)
    values = number.values.map(_format_value)
    return Aggregate("", number.name, values.origin, values.destination, in_both and same, variance, text)


def _is_within(one: Decimal, other: Decimal, allowed: DeclaredTolerance | None) -> bool:
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
    number = _to_number(value) if (column.origin_type or "").startswith("numeric") else None
    return number is not None and number.is_finite() and number == number.to_integral_value()


def _to_number(value: Any) -> Decimal | None:
    """None for NULL and for what is no number. A text is read too: a numeric without digits travels as text."""
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int | float | str | Decimal):
        return None
    try:
        return Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError):
        return None


def _to_moment(value: Any) -> Any:
    """The moment that a text is: SQLite has no other form of them."""
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _to_seconds(moment: date) -> Decimal:
    """A moment since 1970; a date is its midnight."""
    at = moment if isinstance(moment, datetime) else datetime.combine(moment, time())
    return Decimal((at.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(microseconds=1)).scaleb(-6)


def _to_comparable(value: Any) -> Any:
    """One form for all that engines make of one value: a date is its midnight, a number has no type."""
    number = None if isinstance(value, str) else _to_number(value)
    if number is not None:
        return _format_plain(number) if number.is_finite() else str(number)
    if isinstance(value, datetime):
        value = value.replace(tzinfo=None)
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    return value.isoformat() if hasattr(value, "isoformat") else value


def _format_plain(number: Decimal) -> str:
    """The shortest way to write a number without an exponent: `10` for 1E+1, 10.0 and 10."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _format_label(label: _Values) -> str:
    """Its parts, as `_to_comparable` has them: a text 007 is no number 7."""
    return ", ".join("NULL" if part is None else str(part) for part in label)


def _format_value(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:f}" if isinstance(value, Decimal) and value.is_finite() else str(value)
