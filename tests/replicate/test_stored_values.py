"""What a destination gives back in another type than it holds: exactly, or not at all. Arrow's safe casts round."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from dbt_bridge.replicate.stored_values import Keys, cast_exactly

NAN, INFINITY = float("nan"), float("inf")
KEPT = [
    (pa.array([1.5, 0.1, None]), pa.decimal128(12, 2), [Decimal("1.50"), Decimal("0.10"), None]),
    (pa.array([Decimal("0.1"), None]), pa.float64(), [0.1, None]),
    (pa.array([0.5, INFINITY, None]), pa.float32(), [0.5, INFINITY, None]),
    (pa.nulls(2, pa.float64()), pa.float32(), [None, None]),
    (pa.array([0, 1, None]), pa.bool_(), [False, True, None]),
    (pa.array([datetime(2024, 1, 1), None]), pa.date32(), [date(2024, 1, 1), None]),
]
CHANGED = [
    (pa.array([1.104]), pa.decimal128(12, 2)),
    (pa.array([NAN]), pa.decimal128(12, 2)),
    (pa.array([Decimal("0.1000000000000000055")]), pa.float64()),
    (pa.array([0.1]), pa.float32()),
    (pa.array([2]), pa.bool_()),
    (pa.array([datetime(2024, 1, 1, 12)]), pa.date32()),
    (pa.array([datetime(2024, 1, 1, 12)]), pa.time64("us")),
]


@pytest.mark.parametrize(("held", "wanted", "given"), KEPT, ids=str)
def test_a_value_that_fits_is_given_back_as_it_is(held: pa.Array, wanted: pa.DataType, given: list[object]) -> None:
    assert cast_exactly(held, wanted).to_pylist() == given


@pytest.mark.parametrize(("held", "wanted"), CHANGED, ids=str)
def test_a_value_that_would_change_is_refused(held: pa.Array, wanted: pa.DataType) -> None:
    with pytest.raises(ValueError):
        cast_exactly(held, wanted)


UUIDS = pa.array([b"a" * 16, b"b" * 16], pa.binary(16)).cast(pa.uuid())
FOUND = [
    (pa.array([0.0, 1.0]), pa.array([-0.0])),  # prove's own way of looking rows up took them for two values
    (pa.array([-0.0, 1.0]), pa.array([0.0])),
    (pa.array([NAN, 1.0]), pa.array([NAN])),
    (pa.array([None, 1.0]), pa.array([None], pa.float64())),
    (pa.array([{"a": 1}, {"a": 2}]), pa.array([{"a": 1}])),  # and broke off here: a dict is no key to Python
    (pa.array([[1], [2]]), pa.array([[1]])),
    (
        pa.array([b"a" * 16, b"b" * 16], pa.binary(16)).cast(pa.uuid()),
        pa.array([b"a" * 16], pa.binary(16)).cast(pa.uuid()),
    ),
    (pa.array([datetime(2024, 1, 1), None]), pa.array([datetime(2024, 1, 1)])),
]


@pytest.mark.parametrize(("rows", "key"), FOUND, ids=str)
def test_a_row_is_found_by_its_key(rows: pa.Array, key: pa.Array) -> None:
    batch = pa.record_batch({"k": rows, "n": [0, 1]})
    assert Keys(pa.table({"k": key})).filter(batch)["n"].to_pylist() == [0]
