"""How far the numbers of two systems may be apart."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.parity import Aggregate, Parity
from dbt_bridge.nouns.receipt import now
from dbt_bridge.nouns.reconciliation import DeclaredTolerance, Metric
from dbt_bridge.nouns.table import Table, TableName
from dbt_bridge.verify.ab_metrics import Answer, apply_tolerances, compare_metric

FIVE = DeclaredTolerance(Decimal(5), False, "5")
PERCENT = DeclaredTolerance(Decimal("0.01"), True, "1%")
SECONDS = DeclaredTolerance(Decimal(2), False, "2 seconds", time=True)


def answer(**columns: list[Any]) -> Answer:
    rows = pa.table(columns)
    return Answer(Table.of_schema(TableName("", "q"), rows.schema).columns, rows)


def asked(tolerance: DeclaredTolerance | None = None, *by: str) -> Metric:
    return Metric("m", "", "", tolerance, by)


@pytest.mark.parametrize(
    ("legacy", "new", "tolerance", "same"),
    [
        (100, 100, None, True),
        (100, 101, None, False),
        (10_000_000, 10_000_001, None, False),  # counts are exact
        (10_000_000, Decimal("10000001"), None, False),  # also where another engine calls them decimals
        (10_000_000.0, 10_000_999.0, None, True),
        (10_000_000.0, 10_001_001.0, None, False),
        (Decimal("100.00"), Decimal("100.010"), None, True),
        (Decimal("100.00"), Decimal("100.011"), None, False),
        (100, 105, FIVE, True),
        (100, 106, FIVE, False),
        (-100.0, -101.0, PERCENT, True),
        (-100.0, -101.1, PERCENT, False),
        (0, 1, PERCENT, False),
        (None, None, None, True),
        (None, 0, FIVE, False),
        (0.0, None, FIVE, False),
        (float("nan"), float("nan"), None, True),
        (float("nan"), 1.0, PERCENT, False),
        (float("inf"), float("inf"), PERCENT, True),
        (float("inf"), 1.0, PERCENT, False),
        ("paid", "paid", None, True),
        ("paid", "Paid", None, False),
        (date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), None, True),
        (date(2026, 1, 1), datetime(2026, 1, 1, 1), None, False),
        ("1.0", 1, None, True),
        ("007", "7", FIVE, False),
        (datetime(2026, 1, 1, 0, 0, 2), datetime(2026, 1, 1), SECONDS, True),
        (datetime(2026, 1, 1, 0, 0, 2, 1), datetime(2026, 1, 1), SECONDS, False),
        (datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC), date(2026, 1, 1), SECONDS, True),
        (datetime(2026, 1, 1, 0, 0, 2), datetime(2026, 1, 1), FIVE, False),
        (None, datetime(2026, 1, 1), SECONDS, False),
        (100, 101, SECONDS, False),
        ("2026-01-01 00:00:00.5", datetime(2026, 1, 1, 0, 0, 0, 500_000), None, True),
        (datetime(2026, 1, 1), "2026-01-01 00:00:03", None, False),
        (datetime(2026, 1, 1), "2026-01-01 00:00:02", SECONDS, True),
        (datetime(2026, 1, 1), "soon", SECONDS, False),
    ],
)
def test_two_numbers(legacy: Any, new: Any, tolerance: DeclaredTolerance | None, same: bool) -> None:
    (found,) = compare_metric(asked(tolerance), answer(x=[legacy]), answer(x=[new]))
    assert found.same is same


def test_variance_is_of_the_legacy_number() -> None:
    (found,) = compare_metric(asked(), answer(x=[-200]), answer(x=[-150]))
    assert (found.variance, found.origin, found.destination, found.what) == (0.25, "-200", "-150", "m.x")


def test_columns_belong_together_by_name_or_else_by_place() -> None:
    by_name = compare_metric(asked(), answer(A=[1], b=[2]), answer(B=[2], a=[1]))
    by_place = compare_metric(asked(), answer(x=[1], y=[2]), answer(p=[1], q=[2]))
    assert [(a.what, a.same) for a in by_name] == [("m.B", True), ("m.a", True)]
    assert [(a.what, a.same) for a in by_place] == [("m.p", True), ("m.q", True)]


def test_rows_are_told_apart_by_what_holds_no_numbers_or_by_name() -> None:
    months = compare_metric(
        asked(),
        answer(month=[date(2026, 1, 1), date(2026, 2, 1)], n=[1, 2]),
        answer(month=[datetime(2026, 2, 1), datetime(2026, 3, 1)], n=[2, 3]),
    )
    assert [(a.what, a.origin, a.destination, a.same) for a in months] == [
        ("m.n [2026-01-01]", "1", None, False),
        ("m.n [2026-02-01]", "2", "2", True),
        ("m.n [2026-03-01]", None, "3", False),
    ]
    years = compare_metric(
        asked(None, "Year"), answer(year=[2025, 2026], n=[1, 2]), answer(year=[2026.0, 2025.0], n=[2, 1])
    )
    assert [(a.what, a.same) for a in years] == [("m.n [2025]", True), ("m.n [2026]", True)]


def test_labels_are_shown_as_they_are_and_meet_whatever_their_type() -> None:
    texts = compare_metric(asked(), answer(code=["007", "7"], n=[1, 2]), answer(code=["007", "7"], n=[1, 2]))
    assert [found.what for found in texts] == ["m.n [007]", "m.n [7]"]
    tens = compare_metric(asked(None, "year"), answer(year=["2020", "10"], n=[1, 2]), answer(year=[2020, 10], n=[1, 2]))
    assert [(found.what, found.same) for found in tens] == [("m.n [2020]", True), ("m.n [10]", True)]


def test_a_group_whose_number_is_null_on_one_side_and_absent_on_the_other_differs() -> None:
    null = pa.array([None, 1], pa.int64())
    found = compare_metric(asked(), answer(g=["a", "b"], n=null), answer(g=["b", "c"], n=null.take([1, 0])))
    assert [(a.what, a.same) for a in found] == [("m.n [a]", False), ("m.n [b]", True), ("m.n [c]", False)]


@pytest.mark.parametrize(
    ("legacy", "new", "by", "what"),
    [
        (answer(n=[1, 2]), answer(n=[1]), (), "several rows that nothing tells apart"),
        (answer(g=["a", "a"], n=[1, 2]), answer(g=["a"], n=[1]), (), r"\[a\] twice"),
        (answer(n=[1]), answer(n=[1], m=[2]), (), "1 columns, and the new one 2"),
        (answer(n=[1]), answer(n=[1]), ("year",), "`by` names 'year'"),
        (answer(n=[]), answer(n=[]), (), "neither query gives a row"),
        (answer(n=list(range(10_001))), answer(n=[1]), (), "gives 10,001 rows"),
    ],
)
def test_what_has_no_common_shape_is_refused(legacy: Answer, new: Answer, by: tuple[str, ...], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        compare_metric(asked(None, *by), legacy, new)


def test_sums_may_be_a_little_apart_and_counts_may_not() -> None:
    ended = now()
    told = [
        Aggregate("", "count", "10", "10", same=True),
        Aggregate("usual", "sum", "10000", "10001", same=False),
        Aggregate("each", "sum", "100", "150", same=False),
        Aggregate("share", "sum", "100", "101", same=False),
        Aggregate("at", "max", "2026-01-01 00:00:00", "2026-01-01 00:00:02", same=True, tolerance="2"),
    ]
    parity = Parity(
        "l", "n", "o", "d", "aggregates", "different", "now", ended, ended, 0.0,
        rows_origin=10, rows_destination=10, aggregates=tuple(told),
    )  # fmt: skip

    within = apply_tolerances(parity, {"each": FIVE, "share": PERCENT, "at": SECONDS})
    beyond = apply_tolerances(
        parity, {"each": DeclaredTolerance(Decimal("4.9"), False, "4.9"), "share": PERCENT, "at": SECONDS}
    )

    assert (within.status, [a.tolerance for a in within.aggregates]) == ("equal", ["", "0.01%", "5", "1%", "2 seconds"])
    assert (beyond.status, [a.same for a in beyond.aggregates]) == ("different", [True, True, False, True, True])
