"""Strict casts: from the arrays that the ADBC driver gives to arrays of the wanted type, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow import decimals

Decode = Callable[[pa.Array], pa.Array]


def strict_cast(wanted: pa.DataType) -> Decode:
    """A decoder that casts, and raises pa.ArrowInvalid or ValueError where a value would change."""
    if pa.types.is_time(wanted):
        return lambda array: _cast_time(array, wanted)
    if pa.types.is_float32(wanted):
        return lambda array: _refuse_overflow(array, _cast_float32(array))
    if pa.types.is_float64(wanted):
        return lambda array: _refuse_overflow(array, pc.cast(array, wanted, safe=True))
    return lambda array: decimals.cast(array, wanted)


def _cast_time(text: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Arrow parses moments but not times of day (pyarrow 25)."""
    moments = pc.cast(pc.binary_join_element_wise("1970-01-01", text, " "), pa.timestamp("us"), safe=True)
    return pc.cast(moments, wanted, safe=True)


def _cast_float32(array: pa.Array) -> pa.Array:
    """Arrow rounds doubles silently, so these are compared afterwards; of a text the nearest float is wanted."""
    short = pc.cast(array, pa.float32(), safe=True)
    if pa.types.is_float64(array.type):
        same = pc.or_kleene(pc.equal(pc.cast(short, pa.float64()), array), pc.is_nan(array))
        if pc.any(pc.invert(same)).as_py():
            raise ValueError("a double with more digits than a float has")
    return short


def _refuse_overflow(array: pa.Array, floats: pa.Array) -> pa.Array:
    """Arrow reads text of a number that is too large as infinity."""
    if pa.types.is_string(array.type) and pc.any(infinite := pc.is_inf(floats)).as_py():
        large = pc.and_(infinite, pc.match_substring_regex(array, "[0-9]"))
        if pc.any(large).as_py():
            raise ValueError(f"the value {pc.filter(array, large)[0].as_py()!r}, which is too large,")
    return floats


def list_decode(wanted: pa.DataType, decode: Decode) -> Decode:
    """The same decoding for the elements of a list array."""

    def decode_list(array: pa.Array) -> pa.Array:
        values = decode(array.values)
        return pa.ListArray.from_buffers(
            wanted, len(array), array.buffers()[:2], array.null_count, array.offset, children=[values]
        )

    return decode_list


def describe_first_failure(array: pa.Array, decode: Decode) -> str:
    """The first value of an array that cannot be decoded, as text, or what is wrong with it."""
    for i in range(len(array)):
        try:
            decode(pa.concat_arrays([array.slice(i, 1)]))
        except pa.ArrowInvalid:
            return f"the value {array[i].as_py()!r}"
        except (pa.ArrowNotImplementedError, ValueError) as error:
            return str(error)
    return "a value"
