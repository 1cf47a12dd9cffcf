"""Texts and decimals as decimals of another shape, exactly or not at all.

Arrow's safe cast multiplies in 128 bits and looks at the result alone (pyarrow 26): a number that is too large by far
wraps around and may come out as a small one. 1e30 becomes 18960114910927365649.47 as decimal(38,18), 1e128 becomes 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

_WIDEST = 76  # digits of 256 bits
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def cast(array: pa.Array | pa.ChunkedArray, wanted: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Arrow's safe cast, for decimals `cast_exactly`; raises pa.ArrowInvalid where a value would change."""
    if is_decimal_cast(array.type, wanted):
        return cast_exactly(array, wanted)
    if _is_list(array.type) and _is_list(wanted) and _holds_decimals(wanted):
        cast(pc.list_flatten(array), wanted.value_type)  # what would wrap around in its list is refused here
    return pc.cast(array, wanted, safe=True)


def is_decimal_cast(own: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast between these types has to be done by `cast_exactly`."""
    text = is_.is_string(own) or is_.is_large_string(own) or is_.is_string_view(own)
    return bool(is_.is_decimal(wanted) and (text or is_.is_decimal(own)))


def cast_exactly(array: pa.Array | pa.ChunkedArray, wanted: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """The same numbers as `wanted`, a decimal; raises pa.ArrowInvalid where one of them would change.

    Args:
        array: texts or decimals.
    """
    if array.type == wanted:
        return array
    if is_.is_string_view(array.type):
        array = pc.cast(array, pa.string())
    if is_.is_decimal(array.type):
        whole = array.type.precision - array.type.scale
        if whole + wanted.scale <= wanted.precision or wanted.scale <= array.type.scale:
            return pc.cast(array, wanted, safe=True)
        if whole + wanted.scale <= _WIDEST:
            return pc.cast(pc.cast(array, pa.decimal256(_WIDEST, wanted.scale), safe=True), wanted, safe=True)
        return _cast_one_by_one([None if v is None else str(v) for v in array.to_pylist()], wanted)
    if is_plain(array, wanted):
        return pc.cast(array, wanted, safe=True)
    return _cast_one_by_one(array.to_pylist(), wanted)


def is_plain(texts: pa.Array, wanted: pa.DataType) -> bool:
    """Whether Arrow reads each text as it is: no exponent, and no more digits than `wanted` has.

    Args:
        texts: strings, or large ones.
    """
    whole = wanted.precision - wanted.scale
    plain = rf"^[+-]?([0-9]{{1,{whole}}}(\.[0-9]{{0,{wanted.scale}}})?|\.[0-9]{{1,{wanted.scale}}})$"
    if not wanted.scale:
        plain = rf"^[+-]?[0-9]{{1,{whole}}}\.?$"
    elif not whole:
        plain = rf"^[+-]?\.[0-9]{{1,{wanted.scale}}}$"
    return pc.all(pc.match_substring_regex(texts, plain)).as_py() is not False


def _is_list(type_: pa.DataType) -> bool:
    return bool(is_.is_list(type_) or is_.is_large_list(type_) or is_.is_fixed_size_list(type_))


def _holds_decimals(type_: pa.DataType) -> bool:
    return _holds_decimals(type_.value_type) if _is_list(type_) else bool(is_.is_decimal(type_))


def _cast_one_by_one(texts: Sequence[str | None], wanted: pa.DataType) -> pa.Array:
    """Arrow's own reading of Python's decimals wraps around too, unless they have the wanted scale."""
    return pa.array([None if text is None else _parse_decimal(text, wanted) for text in texts], wanted)


def _parse_decimal(text: str, wanted: pa.DataType) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise pa.ArrowInvalid(f"the text {text[:80]!r} is no decimal number")
    try:
        sign, digits, exponent = Decimal(text).as_tuple()
    except InvalidOperation:  # an exponent of more than 18 digits
        raise pa.ArrowInvalid(f"the number {text[:80]} does not fit {wanted}") from None
    written = "".join(map(str, digits)).lstrip("0")
    significant = written.rstrip("0")
    zeros = int(exponent) + wanted.scale + len(written) - len(significant)  # behind the digits, to the last place
    if significant and (zeros < 0 or len(significant) + zeros > wanted.precision):
        raise pa.ArrowInvalid(f"the number {text[:80]} does not fit {wanted}")
    return Decimal((sign, tuple(map(int, significant + "0" * zeros if significant else "0")), -wanted.scale))
