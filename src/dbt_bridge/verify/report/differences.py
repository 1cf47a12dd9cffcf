"""Differences and aggregates in words, for the terminal and the report alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dbt_bridge.nouns.both import ENDS, Both
from dbt_bridge.nouns.parity import Aggregate, Difference, Parity
from dbt_bridge.verify.report.display import MASKED, format_both, format_name, format_row


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """One column of a row that differs; `kind` and `key` are empty beyond the row's first line."""

    kind: str
    key: str
    column: str
    values: Both[str]


def words_of(parity: Parity) -> Both[str]:
    """What the two sides are called."""
    return Both(*parity.words)


def format_difference(difference: Difference, words: Both[str], width: int) -> Iterator[DifferenceLine]:
    """One line for each column that differs, or one for a row that has no counterpart.

    Args:
        width: characters of a value that are shown.
    """
    kind, key = _format_kind(difference, words), format_row(difference.key, width)
    if difference.kind != "different" or not difference.columns:
        yield DifferenceLine(kind, key, "", _format_rows(difference, width))
        return
    for column in difference.columns:
        is_known = column in difference.origin or column in difference.destination
        values = Both(difference.origin.get(column), difference.destination.get(column))
        yield DifferenceLine(
            kind, key, format_name(column), format_both(values, width) if is_known else Both(MASKED, MASKED)
        )
        kind = key = ""


def format_column(aggregate: Aggregate) -> str:
    """The column; empty for metrics, which have a name of their own."""
    return format_name(aggregate.column) or ("(rows)" if aggregate.what == "count" else "")


def format_percent(variance: float | None) -> str:
    """`+0.1 %`; small ones with as many digits as it takes."""
    if variance is None:
        return "-"
    return f"{variance * 100:+.3g} %" if abs(variance) < 10 else f"{variance * 100:+,.0f} %"


def is_exact(aggregate: Aggregate) -> bool:
    """Both sides have the same value, which engines may write with more or fewer zeros."""
    return aggregate.origin == aggregate.destination or aggregate.variance == 0


def _format_kind(difference: Difference, words: Both[str]) -> str:
    return {
        "only_in_origin": f"only in {words.origin}",
        "only_in_destination": f"only in {words.destination}",
        "different": "different",
        "duplicate": "duplicate",
    }[difference.kind]


def _format_rows(difference: Difference, width: int) -> Both[str]:
    """Both sides of a row that only one of them has, or that one has several times."""
    counts, values = Both(*difference.rows), Both(difference.origin, difference.destination)
    if difference.key and difference.kind == "only_in_origin":
        counts = Both(counts.origin, 0)
    if difference.key and difference.kind == "only_in_destination":
        counts = Both(0, counts.destination)
    return ENDS.map(lambda end: _format_side(counts.at(end), values.at(end), width))


def _format_side(count: int, values: Mapping[str, str | None], width: int) -> str:
    rows = "no row" if not count else "1 row" if count == 1 else f"{count:,} rows"
    return f"{rows}: {format_row(values, width)}" if count and values else rows
