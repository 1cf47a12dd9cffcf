"""What Postgres's driver makes of infinity and of far moments, and how it is made good again."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

# adbc_driver_postgresql 1.13 adds the 30 years from 2000 to 1970 to Postgres's own numbers and lets them wrap around.
_EPOCH_US = 946_684_800_000_000
_EPOCH_DAYS = 10_957
_WRAP64, _WRAP32 = 2**64, 2**32
_MAX64, _MAX32 = 2**63 - 1, 2**31 - 1
_FIRST_US = -210_866_803_200_000_000  # 4714-11-24 BC, the first moment that Postgres has
_FIRST_DAY = -2_440_588


def repair_moments(own: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    """The array with Postgres's infinities as DuckDB has them, and values that the driver wrapped refused."""
    if pa.types.is_timestamp(own):
        return lambda a: _unwrap(a, pa.int64(), _FIRST_US, (_MAX64 + _EPOCH_US - _WRAP64, _MAX64))
    if pa.types.is_date(own):
        return lambda a: _unwrap(a, pa.int32(), _FIRST_DAY, (_MAX32 + _EPOCH_DAYS - _WRAP32, _MAX32))
    return lambda array: array


def _unwrap(array: pa.Array, integer: pa.DataType, first: int, infinity: tuple[int, int]) -> pa.Array:
    """`first` is the least number that Postgres has; `infinity` is what the driver makes of it, and what it becomes."""
    numbers = array.view(integer)
    bounds = pc.min_max(numbers)
    least, greatest = bounds["min"].as_py(), bounds["max"].as_py()
    wrapped, most = infinity
    if least is None or (least >= first and greatest < most):
        return array
    plus = pc.equal(numbers, pa.scalar(wrapped, integer))
    minus = pc.equal(numbers, pa.scalar(wrapped + 1, integer))
    finite = pc.filter(numbers, pc.invert(pc.or_(plus, minus)))
    left = pc.min_max(finite)
    if left["min"].as_py() is not None and (left["min"].as_py() < first or left["max"].as_py() >= most):
        raise ValueError("a moment after the year 294246, which Arrow cannot hold")
    numbers = pc.if_else(plus, pa.scalar(most, integer), pc.if_else(minus, pa.scalar(-most, integer), numbers))
    return numbers.view(array.type)
