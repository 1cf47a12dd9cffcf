"""From the arrays that the ADBC driver gives to the arrays that travel: strict casts, and repaired infinities."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

Decode = Callable[[pa.Array], pa.Array]

# adbc_driver_postgresql 1.13 adds the 30 years from 2000 to 1970 to Postgres's own numbers and lets them wrap around.
_EPOCH_US = 946_684_800_000_000
_EPOCH_DAYS = 10_957
_WRAP64, _WRAP32 = 2**64, 2**32
_MAX64, _MAX32 = 2**63 - 1, 2**31 - 1
_FIRST_US = -210_866_803_200_000_000  # 4714-11-24 BC, the first moment that Postgres has
_FIRST_DAY = -2_440_588


def strictly(wanted: pa.DataType) -> Decode:
    """A cast that raises pa.ArrowInvalid or ValueError where a value would change."""
    if pa.types.is_time(wanted):
        return lambda array: _time(array, wanted)
    if pa.types.is_float32(wanted):
        return lambda array: _not_overflown(array, _float32(array))
    if pa.types.is_float64(wanted):
        return lambda array: _not_overflown(array, pc.cast(array, wanted, safe=True))
    return lambda array: pc.cast(array, wanted, safe=True)


def _time(text: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Arrow parses moments but not times of day (pyarrow 25)."""
    moments = pc.cast(pc.binary_join_element_wise("1970-01-01", text, " "), pa.timestamp("us"), safe=True)
    return pc.cast(moments, wanted, safe=True)


def _float32(array: pa.Array) -> pa.Array:
    """Arrow rounds doubles silently, and reads text to the nearest float, which is what was asked for."""
    short = pc.cast(array, pa.float32(), safe=True)
    if pa.types.is_float64(array.type):
        kept = pc.or_kleene(pc.equal(pc.cast(short, pa.float64()), array), pc.is_nan(array))
        if pc.any(pc.invert(kept)).as_py():
            raise ValueError("a double with more digits than a float has")
    return short


def _not_overflown(array: pa.Array, floats: pa.Array) -> pa.Array:
    """Arrow reads text of a number that is too large as infinity."""
    if pa.types.is_string(array.type) and pc.any(infinite := pc.is_inf(floats)).as_py():
        large = pc.and_(infinite, pc.match_substring_regex(array, "[0-9]"))
        if pc.any(large).as_py():
            raise ValueError(f"the value {pc.filter(array, large)[0].as_py()!r}, which is too large,")
    return floats


def repaired(own: pa.DataType) -> Decode:
    """The array with Postgres's infinities as DuckDB has them, and values that the driver wrapped refused."""
    if pa.types.is_timestamp(own):
        return lambda a: _unwrapped(a, pa.int64(), _FIRST_US, (_MAX64 + _EPOCH_US - _WRAP64, _MAX64))
    if pa.types.is_date(own):
        return lambda a: _unwrapped(a, pa.int32(), _FIRST_DAY, (_MAX32 + _EPOCH_DAYS - _WRAP32, _MAX32))
    return lambda array: array


def of_list(wanted: pa.DataType, decode: Decode) -> Decode:
    """The same decoding for the elements of a list array."""

    def decoded(array: pa.Array) -> pa.Array:
        values = decode(array.values)
        return pa.ListArray.from_buffers(
            wanted, len(array), array.buffers()[:2], array.null_count, array.offset, children=[values]
        )

    return decoded


def first_failure(array: pa.Array, decode: Decode) -> str:
    """The first value of an array that cannot be decoded, as text, or what is wrong with it."""
    for i in range(len(array)):
        try:
            decode(pa.concat_arrays([array.slice(i, 1)]))
        except pa.ArrowInvalid:
            return f"the value {array[i].as_py()!r}"
        except (pa.ArrowNotImplementedError, ValueError) as error:
            return str(error)
    return "a value"


def _unwrapped(array: pa.Array, integer: pa.DataType, first: int, infinity: tuple[int, int]) -> pa.Array:
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
