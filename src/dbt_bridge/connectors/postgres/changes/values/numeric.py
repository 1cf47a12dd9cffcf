"""numeric in its binary form to decimal128: base-10000 digits of all rows at once, exact up to 38 digits.

numeric_send writes int16 ndigits, weight, sign, dscale and the digits (numeric.c); the value is the sum of
digit[i] * 10000 ** (weight - i), and zeros at the end are not written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dbt_bridge.connectors.postgres.changes.values.cells import (
    Unfit,
    Values,
    load_numbers,
    make_primitive,
)

_POSITIVE, _NEGATIVE = 0x0000, 0x4000  # NaN is 0xC000, the infinities 0xD000 and 0xF000
_MOST_SCALE = 0x3FFF
_GROUP = np.uint64(10**16)  # four base-10000 digits
_LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class _Header:
    """Vectors of what each value begins with; `count` is of its base-10000 digits."""

    count: np.ndarray
    weight: np.ndarray
    sign: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, values: Values) -> _Header:
        words = load_numbers(values, ">i8")
        unsigned = words >> 48 & 0xFFFF, words >> 16 & 0xFFFF, words & 0xFFFF
        return cls(unsigned[0], (words << 16) >> 48, unsigned[1], unsigned[2])


@dataclass(frozen=True, slots=True)
class _Wide:
    """Numbers of 128 bits: their low and their high 64 bits."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, slots=True)
class _Division:
    """`quotient` in groups, the lowest first."""

    quotient: list[np.ndarray]
    rest: np.ndarray


def decode_decimals(values: Values, type_: pa.DataType) -> pa.Array:
    """Raises Unfit for a value that has more digits than the type on either side of the point, and for NaN."""
    values.refuse_where(values.length < 8)
    header = _Header.of(values)
    count, scale = header.count, header.scale
    _refuse(values, ((header.sign != _POSITIVE) & (header.sign != _NEGATIVE)) | (scale > _MOST_SCALE))
    _refuse(values, values.length != 8 + 2 * count)
    if values.valid is not None:
        count = np.where(values.valid, count, 0)
    after = -(-type_.scale // 4)  # base-10000 digits that the type has after the point
    # The place of the first digit, counted from the last one that the type has.
    highest = np.where(count > 0, header.weight + after, 0)
    _refuse(values, (count > highest + 1) | (highest > 11))
    _refuse_beyond_scale(values, np.flatnonzero((scale < type_.scale) & (count > 0)), header)
    few = bool(count.max() <= 4 and highest.max() <= 3)
    groups = [_read_one_group(values, count, highest)] if few else _read_groups(values, count, highest)
    if over := 4 * after - type_.scale:
        division = _divide(groups, 10**over)
        groups = division.quotient
        _refuse(values, division.rest != 0)
    return _apply_sign(values, _join_groups(groups), header.sign == _NEGATIVE, type_)


def _apply_sign(values: Values, number: _Wide, negative: np.ndarray, type_: pa.DataType) -> pa.Array:
    """Two's complement, once it is certain that the type has so many digits."""
    low, high = number.low, number.high
    limit = 10**type_.precision
    limit_high, limit_low = np.uint64(limit >> 64), np.uint64(limit & (2**64 - 1))
    _refuse(values, (high > limit_high) | ((high == limit_high) & (low >= limit_low)))
    both = np.empty((len(values), 2), np.uint64)
    both[:, 0], both[:, 1] = low, high
    if negative.any():
        both[negative, 0] = ~low[negative] + np.uint64(1)
        both[negative, 1] = ~high[negative] + (low[negative] == 0)
    return make_primitive(type_, both, values.valid)


def _refuse_beyond_scale(values: Values, rows: np.ndarray, header: _Header) -> None:
    """numeric_recv cuts off what lies beyond a value's own scale, and numeric_send sends nothing there."""
    if not len(rows):
        return
    count, weight = header.count[rows], header.weight[rows]
    start = values.start[rows] + 8 + 2 * (count - 1)
    last = load_numbers(Values(values.buffer, start, values.length[rows]), ">u2")
    zeros = (last % 10 == 0).astype(np.int64) + (last % 100 == 0) + (last % 1000 == 0)
    wrong = np.zeros(len(values), bool)
    wrong[rows] = 4 * (count - 1 - weight) - zeros > header.scale[rows]
    _refuse(values, wrong)


def format_numeric(value: bytes) -> str:
    """One value as numeric_out writes it."""
    if len(value) < 8:
        return "no numeric"
    _, weight, sign, scale = struct.unpack_from(">HhHH", value)
    if sign not in (_POSITIVE, _NEGATIVE):
        return {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}.get(sign, "no numeric")
    digits = np.frombuffer(value[8 : len(value) // 2 * 2], ">u2")
    before = "".join(f"{digits[i] if i < len(digits) else 0:04d}" for i in range(weight + 1)).lstrip("0") or "0"
    after = "".join(
        f"{digits[i] if 0 <= i < len(digits) else 0:04d}" for i in range(weight + 1, weight + 2 + scale // 4)
    )
    return ("-" if sign else "") + before + ("." + after[:scale].ljust(scale, "0") if scale else "")


def _read_one_group(values: Values, count: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """The same as `_read_groups` where up to four digits in up to four places make one group: they are read at once."""
    beyond = (16 * (4 - count)).astype(np.uint64)  # bits of what is no digit any more
    four = load_numbers(values, ">u8", 8)
    four = np.where(count > 0, four >> np.minimum(beyond, _HALF + np.uint64(16)) << beyond, 0)
    total = np.zeros(len(values), np.uint64)
    for shift in (48, 32, 16, 0):
        digit = (four >> np.uint64(shift)) & np.uint64(0xFFFF)
        _refuse(values, digit > 9999)
        total = total * np.uint64(10_000) + digit
    group: np.ndarray = total // _PLACES[3 - highest]  # the digits below are zeros
    return group


_PLACES = np.uint64(10_000) ** np.arange(5, dtype=np.uint64)


def _read_groups(values: Values, count: np.ndarray, highest: np.ndarray) -> list[np.ndarray]:
    """The digits' value in base 10 ** 16, the lowest group first; as many groups as the greatest value needs."""
    places = int(np.where(count > 0, highest, -1).max(initial=-1)) + 1
    groups = []
    for first in range(0, max(places, 1), 4):
        total = np.zeros(len(values), np.uint64)
        for place in range(min(first + 4, places) - 1, first - 1, -1):
            index = highest - place
            there = (index >= 0) & (index < count)
            if not there.any():
                total *= np.uint64(10_000)
                continue
            at = Values(values.buffer, values.start + np.where(there, 8 + 2 * index, 0), values.length, values.valid)
            digit = np.where(there, load_numbers(at, ">u2"), 0)
            _refuse(values, digit > 9999)
            total = total * np.uint64(10_000) + digit.astype(np.uint64)
        groups.append(total)
    return groups


def _divide(groups: list[np.ndarray], divisor: int) -> _Division:
    """`divisor` is at most 1000, so that a remainder before a group fits 64 bits."""
    by = np.uint64(divisor)
    if len(groups) == 1:
        quotient = groups[0] // by
        return _Division([quotient], groups[0] - quotient * by)
    rest = np.zeros(len(groups[0]), np.uint64)
    quotients = []
    for group in reversed(groups):
        part = rest * _GROUP + group
        quotient = part // by
        rest = part - quotient * by
        quotients.append(quotient)
    return _Division(quotients[::-1], rest)


def _join_groups(groups: list[np.ndarray]) -> _Wide:
    """The number of all groups. A number that 128 bits cannot hold (three groups hold up to 10 ** 48) is the top."""
    if len(groups) == 1:
        return _Wide(groups[0], np.zeros_like(groups[0]))
    product = _multiply(groups[1], _GROUP)
    low = product.low + groups[0]
    high = product.high + (low < groups[0])
    if len(groups) == 2:
        return _Wide(low, high)
    too_large = groups[2] >= np.uint64(10**7)  # 10 ** 39 and more: no decimal128 has so many digits
    top = np.where(too_large, 0, groups[2]).astype(np.uint64)
    unit = 10**32
    product = _multiply(top, np.uint64(unit & (2**64 - 1)))
    high = high + product.high + top * np.uint64(unit >> 64)
    low = low + product.low
    high = high + (low < product.low)
    return _Wide(low, np.where(too_large, np.uint64(2**64 - 1), high))


def _multiply(many: np.ndarray, one: np.uint64) -> _Wide:
    """64 times 64 bits, by halves."""
    many_low, many_high = many & _LOW, many >> _HALF
    one_low, one_high = one & _LOW, one >> _HALF
    first = many_low * one_low
    second = many_high * one_low + (first >> _HALF)
    third = many_low * one_high + (second & _LOW)
    return _Wide((first & _LOW) | (third << _HALF), many_high * one_high + (second >> _HALF) + (third >> _HALF))


def _refuse(values: Values, wrong: np.ndarray) -> None:
    wrong = values.where_valid(wrong)
    if wrong.any():
        raise Unfit(f"'{format_numeric(values.bytes(int(wrong.argmax())))[:80]}'")
