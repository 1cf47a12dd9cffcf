"""What columns add up to is compared: exactly, in whatever order rows come."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.verify.arrow_sides import ArrowSide
from tests.verify.test_compare import OPENED, ROW, replaced, shop, table

from dbt_bridge.verify.compare import compare
from dbt_bridge.verify.request import Tolerance, VerifyRequest


@settings(max_examples=30, deadline=None, print_blob=True)
@given(rows=st.lists(ROW, max_size=30), order=st.randoms(use_true_random=False))
def test_aggregates_are_those_of_sql_in_whatever_order_rows_come(rows: list[Any], order: Any) -> None:
    shuffled = order.sample(rows, len(rows))
    asked = VerifyRequest(level="aggregates")
    parity = compare(OPENED, ArrowSide("orders", table(rows), 7), ArrowSide("landed", table(shuffled), 3), asked)

    assert parity.status == "equal", [a for a in parity.aggregates if not a.same]
    told = {(a.column, a.what): a.origin for a in parity.aggregates}
    con = duckdb.connect()
    con.register("o", table(rows))
    for name in ("whole", "money", "words", "day"):
        sums = f"CAST(sum({name}) AS VARCHAR)" if name in ("whole", "money") else "NULL"
        least, greatest, total, nulls, distinct = con.execute(
            f"SELECT min({name})::VARCHAR, max({name})::VARCHAR, {sums}, "  # noqa: S608
            f"count(*) - count({name}), count(DISTINCT {name}) FROM o"
        ).fetchall()[0]
        assert (told.get((name, "min")), told.get((name, "max"))) == (least, greatest)
        assert told.get((name, "sum")) == total
        assert (told[name, "nulls"], told[name, "distinct"]) == (str(nulls), str(distinct))
    assert told["", "count"] == str(len(rows))


def test_aggregates_see_one_changed_value_and_tell_how_far_it_is() -> None:
    origin = shop(1_000)
    destination = replaced(origin, "amount", [0], [999])
    parity = compare(
        OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), VerifyRequest(level="aggregates")
    )
    apart = [a for a in parity.aggregates if not a.same]
    assert [(a.column, a.what, a.origin, a.destination) for a in apart if a.what == "sum"] == [
        ("amount", "sum", "499500", "500499")
    ]
    assert next(a for a in apart if a.what == "sum").variance == pytest.approx(999 / 499_500)
    asked = VerifyRequest(level="aggregates", tolerances={"amount": Tolerance(Decimal("0.01"), relative=True)})
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), asked)
    assert {a.tolerance for a in parity.aggregates if a.column == "amount"} == {"", "1%"}
    assert parity.status == "different"  # min is 1 and not 0 any more


@pytest.mark.parametrize(
    ("type_", "apart", "seconds", "same"),
    [
        (pa.date32(), 1, "86400", True),
        (pa.date32(), 1, "86399.9", False),
        (pa.timestamp("us"), 1_000_000, "1", True),
        (pa.timestamp("ns"), 1_000_000_000, "1", True),
        (pa.timestamp("ns"), 1_000_000_001, "1", False),
    ],
)
def test_moments_that_are_just_within_their_tolerance_are_the_same(
    type_: pa.DataType, apart: int, seconds: str, same: bool
) -> None:
    one, other = (pa.table({"v": pa.array([n], pa.int32() if type_ == pa.date32() else pa.int64()).view(type_)})
                  for n in (1, 1 + apart))  # fmt: skip
    asked = VerifyRequest(level="aggregates", tolerances={"v": Tolerance(Decimal(seconds))})
    parity = compare(OPENED, ArrowSide("o", one), ArrowSide("d", other), asked)
    assert [a.same for a in parity.aggregates if a.what in ("min", "max")] == [same, same]


def test_the_number_of_different_values_is_told_within_a_few_percent() -> None:
    rows = pa.table({"v": np.arange(300_000) % 100_000})
    parity = compare(
        OPENED, ArrowSide("o", rows, 50_000), ArrowSide("d", rows, 70_000), VerifyRequest(level="aggregates")
    )
    told = next(a for a in parity.aggregates if a.what == "distinct")
    assert told.same
    assert abs(int(told.origin or 0) - 100_000) < 6_000
