"""hash_numeric_extended of PostgreSQL (numeric.c) from Arrow numbers: the digits in base 10000, without zeros around.

    digits = hash of the digits (int16, the first one first) XOR the weight of the first digit; 2^64 - 1 for zero
    sign = hash_uint32 of the sign: 0, 1 below zero, 2 for Infinity

`digits` of NaN and of both infinities is 0. Trailing zeros do not count: 1.10 is 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.arrow import decimals
from dbt_bridge.verify.canonical.buffers import view_fixed_width
from dbt_bridge.verify.canonical.lookup3 import U64, hash_bytes, hash_uint32

_SIGNS = hash_uint32(np.arange(3, dtype=np.uint32))
_ZERO = np.uint64(2**64 - 1)
_SPECIAL = {"nan": 0, "infinity": 2, "inf": 2, "+infinity": 2, "+inf": 2, "-infinity": 1, "-inf": 1}
_SPECIAL_TEXT = {0: "NaN", 1: "-Infinity", 2: "Infinity"}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?")
_MANY = 18  # digits after the point, where more come than the scale says
_ALIEN = b"\0no number: "  # begins what is hashed for a text that is no number


@dataclass(frozen=True, slots=True)
class NumericElements:
    """The two elements of each number; see above."""

    digits: U64
    sign: U64

    def __iter__(self) -> Iterator[U64]:
        yield self.digits
        yield self.sign


def hash_numerics(array: pa.Array, scale: int) -> NumericElements:
    """The elements of integers, decimals or texts; anything for NULL."""
    if is_.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    if is_.is_uint64(array.type):
        return _hash_words(view_fixed_width(array, np.uint64), np.zeros(len(array), bool), 0)
    if is_.is_integer(array.type):
        return _hash_signed(view_fixed_width(pc.cast(array, pa.int64()), np.int64), 0)
    if is_.is_decimal(array.type):
        return _hash_decimals(array)
    if is_.is_string_view(array.type):
        array = pc.cast(array, pa.string())
    for places in (scale, max(scale, _MANY)):
        if decimals.is_plain(array, shape := pa.decimal128(38, places)):
            return _hash_decimals(pc.cast(array, shape, safe=True))
    return _hash_texts(array)  # more digits, an exponent, NaN, Infinity, or no number


def format_number(text: str, scale: int) -> str:
    """A number's canonical text: at least `scale` digits after the point; a text that is no number as it is."""
    stripped = text.strip(" ")
    if (special := _SPECIAL.get(stripped.lower())) is not None:
        return _SPECIAL_TEXT[special]
    if not _NUMBER.fullmatch(stripped):
        return text
    whole, _, fraction = f"{Decimal(stripped):f}".partition(".")
    fraction = fraction.rstrip("0").ljust(scale, "0")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    digits = digits.lstrip("0") or "0"
    if digits == "0" and not fraction.strip("0"):
        sign = ""
    return f"{sign}{digits}.{fraction}" if fraction else f"{sign}{digits}"


def _hash_decimals(array: pa.Array) -> NumericElements:
    scale = array.type.scale
    if scale < 0 or is_.is_decimal256(array.type):
        return _hash_texts(pa.array([None if v is None else f"{v:f}" for v in array.to_pylist()], pa.string()))
    if not is_.is_decimal128(array.type):
        array = pc.cast(array, pa.decimal128(38, scale))
    words = np.frombuffer(array.buffers()[1], np.int64)[2 * array.offset : 2 * (array.offset + len(array))]
    low, high = words[0::2], words[1::2]
    if array.type.precision <= 18:
        return _hash_signed(low, scale)
    wide = np.flatnonzero(high != low >> 63)
    elements = _hash_signed(low, scale)
    if len(wide):
        elements.digits[wide], elements.sign[wide] = _hash_wide(low[wide].view(np.uint64), high[wide], scale)
    return elements


def _hash_signed(values: NDArray[np.int64], scale: int) -> NumericElements:
    return _hash_words(np.abs(values).view(np.uint64), values < 0, scale)


def _hash_words(left: U64, negative: NDArray[np.bool_], scale: int) -> NumericElements:
    """Unscaled magnitudes of 64 bits."""
    groups = []
    rest = scale % 4
    most = int(left.max()) if len(left) else 0
    if rest:
        quotient = left // np.uint64(10**rest)
        groups.append((left - quotient * np.uint64(10**rest)) * np.uint64(10 ** (4 - rest)))
        left, most = quotient, most // 10**rest
    while most:
        if most < 2**32:
            left = left.astype(np.uint32, copy=False)
        quotient = left // left.dtype.type(10_000)
        groups.append(left - quotient * left.dtype.type(10_000))
        left, most = quotient, most // 10_000
    return NumericElements(_hash_groups(groups, len(left), -(-scale // 4)), _SIGNS[negative.view(np.uint8)])


def _hash_wide(low: U64, high: NDArray[np.int64], scale: int) -> NumericElements:
    """Unscaled numbers of 128 bits, divided limb by limb."""
    negative = high < 0
    upper = high.view(np.uint64).copy()
    low = low.copy()
    upper[negative] = ~upper[negative] + (low[negative] == 0)
    low[negative] = ~low[negative] + np.uint64(1)
    limbs = [part for word in (upper, low) for part in (word >> np.uint64(32), word & np.uint64(0xFFFFFFFF))]
    groups = []
    if rest := scale % 4:
        groups.append(_divide(limbs, 10**rest) * np.uint64(10 ** (4 - rest)))
    while any(limb.any() for limb in limbs):
        groups.append(_divide(limbs, 10_000))
    return NumericElements(_hash_groups(groups, len(low), -(-scale // 4)), _SIGNS[negative.view(np.uint8)])


def _divide(limbs: list[U64], by: int) -> U64:
    """Divide in place, the highest limb first; returns the remainders."""
    remainder = np.zeros_like(limbs[0])
    for i, limb in enumerate(limbs):
        current = (remainder << np.uint64(32)) | limb
        limbs[i] = current // np.uint64(by)
        remainder = current - limbs[i] * np.uint64(by)
    return remainder


def _hash_groups(groups: list[NDArray[np.unsignedinteger]], rows: int, fraction: int) -> U64:
    """The digests of numbers.

    Args:
        groups: digits in base 10000, the lowest ones first.
        fraction: how many of them are after the point.
    """
    width = len(groups)
    if not width:
        return np.full(rows, _ZERO)
    digits = np.zeros(rows * width + 6, np.uint16)  # 12 bytes behind the last value
    table = digits[: rows * width].reshape(rows, width)
    first = np.full(rows, width, np.int8)
    last = np.full(rows, -1, np.int8)
    for place, group in enumerate(reversed(groups)):
        table[:, place] = group
        last[group != 0] = place
    for place, group in enumerate(groups):
        first[group != 0] = width - 1 - place
    lengths = 2 * np.maximum(last.astype(np.int64) - first + 1, 0)
    starts = np.arange(0, 2 * rows * width, 2 * width)
    starts += 2 * first.astype(np.int64)
    starts[lengths == 0] = 0
    hashes = hash_bytes(digits.view(np.uint8), starts, lengths)
    hashes ^= (np.int64(width - fraction - 1) - first).view(np.uint64)
    hashes[lengths == 0] = _ZERO
    return hashes


def _hash_texts(array: pa.Array) -> NumericElements:
    """Number by number: texts that no decimal of 38 digits holds."""
    size = len(array)
    values, weights, signs = [b""] * size, np.zeros(size, np.int64), np.zeros(size, np.uint8)
    fixed: dict[int, np.uint64] = {}
    for i, text in enumerate(array.to_pylist()):
        if text is None:
            continue
        stripped = text.strip(" ")
        if (special := _SPECIAL.get(stripped.lower())) is not None:
            fixed[i], signs[i] = np.uint64(0), special
        elif not _NUMBER.fullmatch(stripped):
            values[i] = _ALIEN + text.encode()
        else:
            number = _Base10000.of(Decimal(stripped))
            values[i], weights[i], signs[i] = number.digits, number.weight, number.is_negative
            if not number.digits:
                fixed[i] = _ZERO
    lengths = np.fromiter(map(len, values), np.int64, size)
    data = np.frombuffer(b"".join(values) + b"\0" * 12, np.uint8)
    hashes = hash_bytes(data, np.cumsum(lengths) - lengths, lengths)
    hashes ^= weights.view(np.uint64)
    for i, value in fixed.items():
        hashes[i] = value
    return NumericElements(hashes, _SIGNS[signs])


@dataclass(frozen=True, slots=True)
class _Base10000:
    """A number as PostgreSQL holds it.

    Attributes:
        digits: int16 each, without zeros around; empty for zero.
        weight: of the first digit: the exponent of 10000.
    """

    digits: bytes
    weight: int
    is_negative: bool

    @classmethod
    def of(cls, value: Decimal) -> _Base10000:
        whole, _, fraction = f"{value.copy_abs():f}".partition(".")
        whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
        fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
        text = whole + fraction
        groups = [int(text[i : i + 4]) for i in range(0, len(text), 4)]
        used = [i for i, group in enumerate(groups) if group]
        if not used:
            return cls(b"", 0, False)
        significant = groups[used[0] : used[-1] + 1]
        return cls(np.array(significant, "<i2").tobytes(), len(whole) // 4 - 1 - used[0], value < 0)
