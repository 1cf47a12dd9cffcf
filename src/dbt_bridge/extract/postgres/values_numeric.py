"""numeric in its binary form to decimal128: base-10000 digits of all rows at once, exact up to 38 digits.

numeric_send writes int16 ndigits, weight, sign, dscale and the digits (numeric.c); the value is the sum of
digit[i] * 10000 ** (weight - i), and zeros at the end are not written.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dbt_bridge.extract.postgres.values_cells import Unfit, Values, loaded, primitive

_HEADER = np.dtype([("digits", ">u2"), ("weight", ">i2"), ("sign", ">u2"), ("scale", ">u2")])
_POSITIVE, _NEGATIVE = 0x0000, 0x4000  # NaN is 0xC000, the infinities 0xD000 and 0xF000
_MOST_SCALE = 0x3FFF
_GROUP = np.uint64(10**16)  # four base-10000 digits
_LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)


def decimals(values: Values, type_: pa.DataType) -> pa.Array:
    """Raises Unfit for a value that has more digits than the type on either side of the point, and for NaN."""
    values.refuse(values.length < 8)
    header = np.ascontiguousarray(loaded(values, "V8")).view(_HEADER)
    count, weight = header["digits"].astype(np.int64), header["weight"].astype(np.int64)
    sign = header["sign"].astype(np.int64)
    _refuse(values, ((sign != _POSITIVE) & (sign != _NEGATIVE)) | (header["scale"] > _MOST_SCALE))
    _refuse(values, values.length != 8 + 2 * count)
    if values.valid is not None:
        count = np.where(values.valid, count, 0)
    after = -(-type_.scale // 4)  # base-10000 digits that the type has after the point
    highest = weight + after  # place of the first digit, counted from the last one that the type has
    _refuse(values, (count > 0) & ((count > highest + 1) | (highest > 11)))
    groups = _groups(values, count, highest)
    if over := 4 * after - type_.scale:
        groups, rest = _divided(groups, 10**over)
        _refuse(values, rest != 0)
    low, high = _joined(groups)
    limit = 10**type_.precision
    limit_high, limit_low = np.uint64(limit >> 64), np.uint64(limit & (2**64 - 1))
    _refuse(values, (high > limit_high) | ((high == limit_high) & (low >= limit_low)))
    negative = sign == _NEGATIVE
    if negative.any():
        high = np.where(negative, ~high + (low == 0), high)
        low = np.where(negative, ~low + np.uint64(1), low)
    return primitive(type_, np.stack([low, high], axis=1), values.valid)


def as_text(value: bytes) -> str:
    """One value as numeric_out writes it."""
    header = np.frombuffer(value[:8].ljust(8, b"\0"), _HEADER)[0]
    sign = int(header["sign"])
    if sign not in (_POSITIVE, _NEGATIVE):
        return {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}.get(sign, "no numeric")
    digits, weight, scale = (
        np.frombuffer(value[8 : len(value) // 2 * 2], ">u2"),
        int(header["weight"]),
        int(header["scale"]),
    )
    before = "".join(f"{digits[i] if i < len(digits) else 0:04d}" for i in range(weight + 1)).lstrip("0") or "0"
    after = "".join(
        f"{digits[i] if 0 <= i < len(digits) else 0:04d}" for i in range(weight + 1, weight + 2 + scale // 4)
    )
    return ("-" if sign else "") + before + ("." + after[:scale].ljust(scale, "0") if scale else "")


def _groups(values: Values, count: np.ndarray, highest: np.ndarray) -> list[np.ndarray]:
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
            digit = np.where(there, loaded(at, ">u2"), 0)
            _refuse(values, digit > 9999)
            total = total * np.uint64(10_000) + digit.astype(np.uint64)
        groups.append(total)
    return groups


def _divided(groups: list[np.ndarray], divisor: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Quotient and remainder; `divisor` is at most 1000, so that a remainder before a group fits 64 bits."""
    by = np.uint64(divisor)
    rest = np.zeros(len(groups[0]), np.uint64)
    quotients = []
    for group in reversed(groups):
        part = rest * _GROUP + group
        quotient = part // by
        rest = part - quotient * by
        quotients.append(quotient)
    return quotients[::-1], rest


def _joined(groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The low and high 64 bits. Three groups hold up to 10 ** 48, of which 128 bits hold less: that gives the top."""
    if len(groups) == 1:
        return groups[0], np.zeros_like(groups[0])
    low, high = _product(groups[1], _GROUP)
    low = low + groups[0]
    high = high + (low < groups[0])
    if len(groups) == 2:
        return low, high
    too_large = groups[2] >= np.uint64(10**7)  # 10 ** 39 and more: no decimal128 has so many digits
    top = np.where(too_large, 0, groups[2]).astype(np.uint64)
    unit = 10**32
    top_low, carried = _product(top, np.uint64(unit & (2**64 - 1)))
    high = high + carried + top * np.uint64(unit >> 64)
    low = low + top_low
    high = high + (low < top_low)
    return low, np.where(too_large, np.uint64(2**64 - 1), high)


def _product(many: np.ndarray, one: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """The low and high 64 bits of 64 times 64 bits, by halves."""
    many_low, many_high = many & _LOW, many >> _HALF
    one_low, one_high = one & _LOW, one >> _HALF
    first = many_low * one_low
    second = many_high * one_low + (first >> _HALF)
    third = many_low * one_high + (second & _LOW)
    return (first & _LOW) | (third << _HALF), many_high * one_high + (second >> _HALF) + (third >> _HALF)


def _refuse(values: Values, wrong: np.ndarray) -> None:
    wrong = values.among(wrong)
    if wrong.any():
        raise Unfit(f"the value '{as_text(values.bytes(int(wrong.argmax())))[:80]}'")
