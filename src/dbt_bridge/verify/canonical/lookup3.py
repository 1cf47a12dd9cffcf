"""Bob Jenkins's lookup3 as PostgreSQL computes it (src/common/hashfn.c, `..._extended`), over arrays of values.

Every function returns uint64: PostgreSQL's `(b << 32) | c`. Arithmetic is on uint32 and wraps, as in C. numpy works
through short arrays that stay in the processor's cache; callers cut rows into chunks (`row_digest.CHUNK`).
"""

from __future__ import annotations

import struct
import sys

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

_START = 0x9E3779B9 + 3923095  # plus the length in bytes
_BLOCK = 12
_FEW, _LONG = 16, 64  # where at most 16 rows have more than 64 further blocks, one row after the other is quicker
# Which bits of the three words of a last, partial block belong to the value, by its length. The lowest byte of the
# third word is the length's: the value's bytes 8 to 10 are added one place higher.
_REST = np.array(
    [[(1 << (8 * min(max(length - 4 * word, 0), 4))) - 1 for length in range(_BLOCK)] for word in range(3)], np.uint32
)

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("digests are computed on little-endian processors only")


def hash_uint32(values: U32) -> U64:
    """hash_bytes_uint32_extended(value, 0): for int2, int4, bool and date."""
    start = np.uint32((_START + 4) & 0xFFFFFFFF)
    a = values + start
    b = np.full_like(a, start)
    c = b.copy()
    return _final(a, b, c)


def hash_words(*words: U32, seed: U64 | None = None) -> U64:
    """hash_bytes_extended of values of 8 or 16 bytes, given as their 2 or 4 little-endian words.

    Args:
        seed: one for each value; None for 0. (A seed of 0 is not mixed in.)
    """
    a = np.full(len(words[0]), (_START + 4 * len(words)) & 0xFFFFFFFF, np.uint32)
    b, c = a.copy(), a.copy()
    if seed is not None:
        a += (seed >> np.uint64(32)).astype(np.uint32)
        b += seed.astype(np.uint32)
        _mix(a, b, c)
        unseeded = np.flatnonzero(seed == 0)
        a[unseeded] = b[unseeded] = c[unseeded] = (_START + 4 * len(words)) & 0xFFFFFFFF
    a += words[0]
    b += words[1]
    if len(words) == 4:
        c += words[2]
        _mix(a, b, c)
        a += words[3]
    return _final(a, b, c)


def hash_bytes(data: Bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> U64:
    """hash_bytes_extended(value, length, 0) of values that lie in one buffer.

    Args:
        data: with at least 12 more bytes behind the last value.
        starts, lengths: of each value, in bytes.
    """
    full = lengths // _BLOCK
    least, most = (int(full.min()), int(full.max())) if len(full) else (0, 0)
    if least == most:
        return _hash_bytes(data, starts, lengths, np.full(most, 0), full)
    kind = np.uint8 if most < 256 else np.uint16 if most < 65536 else np.int64
    order = np.argsort(full.astype(kind), kind="stable")  # a radix sort
    full = full[order]
    # Of the rows in this order, those behind `first[i]` have a block i.
    first = np.searchsorted(full, np.arange(1, most + 1))
    out = np.empty(len(full), np.uint64)
    out[order] = _hash_bytes(data, starts[order], lengths[order], first, full)
    return out


def _hash_bytes(
    data: Bytes,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    first: NDArray[np.int64],
    full: NDArray[np.int64],
) -> U64:
    blocks = np.ndarray((max(len(data) - _BLOCK + 1, 1),), "V12", data, strides=(1,))
    a = lengths.astype(np.uint32)
    a += np.uint32(_START & 0xFFFFFFFF)
    b, c = a.copy(), a.copy()
    for i, begin in enumerate(first):
        if len(starts) - begin <= _FEW and len(first) - i > _LONG:
            for row in range(int(begin), len(starts)):
                start = int(starts[row])
                left = data[start + _BLOCK * i : start + _BLOCK * int(full[row])].data
                a[row], b[row], c[row] = _mix_value(int(a[row]), int(b[row]), int(c[row]), left)
            break
        words = blocks[starts[begin:] + _BLOCK * i].view(np.uint32).reshape(-1, 3)
        longer = a[begin:], b[begin:], c[begin:]
        for state, word in zip(longer, words.T, strict=True):
            np.add(state, word, out=state)
        _mix(*longer)
    whole = full * _BLOCK
    words = blocks[starts + whole].view(np.uint32).reshape(-1, 3)
    rest = lengths - whole
    a += words[:, 0] & _REST[0][rest]
    b += words[:, 1] & _REST[1][rest]
    c += (words[:, 2] & _REST[2][rest]) << np.uint32(8)
    return _final(a, b, c)


def _rotate(x: U32, by: int) -> U32:
    high = x << np.uint32(by)
    high |= x >> np.uint32(32 - by)
    return high


def _mix(a: U32, b: U32, c: U32) -> None:
    """In place."""
    for x, y, z, by in ((a, b, c, 4), (b, c, a, 6), (c, a, b, 8), (a, b, c, 16), (b, c, a, 19), (c, a, b, 4)):
        np.subtract(x, z, out=x)  # a -= c; a ^= rot(c, 4); c += b
        np.bitwise_xor(x, _rotate(z, by), out=x)
        np.add(z, y, out=z)


def _mix_value(a: int, b: int, c: int, blocks: memoryview) -> tuple[int, int, int]:
    """What `_mix` does, for the blocks of one value: for few long values numpy takes 30 times as long."""
    most = 0xFFFFFFFF
    for x, y, z in struct.iter_unpack("<3I", blocks):
        b = (b + y) & most
        c = (c + z) & most
        a = ((a + x - c) & most) ^ (c << 4 & most | c >> 28)
        c = (c + b) & most
        b = ((b - a) & most) ^ (a << 6 & most | a >> 26)
        a = (a + c) & most
        c = ((c - b) & most) ^ (b << 8 & most | b >> 24)
        b = (b + a) & most
        a = ((a - c) & most) ^ (c << 16 & most | c >> 16)
        c = (c + b) & most
        b = ((b - a) & most) ^ (a << 19 & most | a >> 13)
        a = (a + c) & most
        c = ((c - b) & most) ^ (b << 4 & most | b >> 28)
        b = (b + a) & most
    return a, b, c


def _final(a: U32, b: U32, c: U32) -> U64:
    for x, y, by in ((c, b, 14), (a, c, 11), (b, a, 25), (c, b, 16), (a, c, 4), (b, a, 14), (c, b, 24)):
        np.bitwise_xor(x, y, out=x)  # c ^= b; c -= rot(b, 14)
        np.subtract(x, _rotate(y, by), out=x)
    out = np.empty(len(b), np.uint64)
    halves = out.view(np.uint32).reshape(-1, 2)
    halves[:, 0] = c
    halves[:, 1] = b
    return out
