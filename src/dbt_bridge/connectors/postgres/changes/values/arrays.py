r"""Arrays in Postgres's text form, `{1,NULL,"a \"b\""}`, to Arrow lists: over the bytes of all arrays at once.

array_out quotes an element that is empty, says NULL, or holds the delimiter, a brace, a quote, a backslash or white
space; in quotes, a backslash stands before quotes and backslashes (arrayfuncs.c). So outside of quotes every brace and
delimiter is one of the array's own, and the elements are what lies between two of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from dbt_bridge.connectors.postgres.changes.values.cells import (
    Unfit,
    Values,
    bitmap,
    gathered,
    loaded,
)
from dbt_bridge.connectors.postgres.origin.column_types import OriginType

Decode = Callable[[Values, OriginType, pa.DataType], pa.Array]

_OPEN, _CLOSE, _QUOTE, _BACKSLASH = b'{}"\\'


class _Malformed(Exception):
    """One of several arrays is no list."""


def lists(values: Values, element: OriginType, wanted: pa.DataType, decode: Decode) -> pa.Array:
    """Arrays of one dimension that begin at 1, as lists.

    Args:
        wanted: a list type.
        decode: from the elements' own text to their array.

    Raises:
        Unfit: several dimensions, another lower bound, or an element that does not fit.
    """
    delimiter = ord(";") if element.name == "box" else ord(",")  # pg_type.typdelim
    arrays = values if values.valid is None else values.take(np.flatnonzero(values.valid))
    try:
        elements, found = _elements(arrays, delimiter)
    except _Malformed:
        raise _refusal(arrays, delimiter) from None
    counts = found
    if values.valid is not None:
        counts = np.zeros(len(values), np.int64)
        counts[values.valid] = found
    offsets = np.zeros(len(values) + 1, np.int32)  # elements have bytes of their own, so 2 GiB of text hold no more
    np.cumsum(counts, out=offsets[1:])
    inner = decode(elements, element, wanted.value_type)
    return pa.Array.from_buffers(wanted, len(values), [bitmap(values.valid), pa.py_buffer(offsets)], children=[inner])


def _refusal(arrays: Values, delimiter: int) -> Unfit:
    """Of the first array that is malformed, found by halving."""
    rows = np.arange(len(arrays))
    while len(rows) > 1:
        half = rows[: len(rows) // 2]
        try:
            _elements(arrays.take(half), delimiter)
        except _Malformed:
            rows = half
        else:
            rows = rows[len(rows) // 2 :]
    return Unfit(f"{arrays.shown(int(rows[0]))} (not an array of one dimension that begins at 1)")


def _elements(arrays: Values, delimiter: int) -> tuple[Values, np.ndarray]:
    """The elements of all arrays, without quotes and escapes, and how many each array has."""
    if not len(arrays):
        return arrays, np.empty(0, np.int64)
    text = gathered(arrays, pa.binary())
    bounds = np.frombuffer(text.buffers()[1], np.int32)[: len(text) + 1].astype(np.int64)
    if (bounds[1:] == bounds[:-1]).any():
        raise _Malformed
    letters = np.frombuffer(text.buffers()[2], np.uint8)[: bounds[-1]]
    if (letters == _BACKSLASH).any():
        letters, escaped, bounds = _unescaped(letters, bounds)
        quote = (letters == _QUOTE) & ~escaped
    else:
        escaped, quote = np.zeros(0, bool), letters == _QUOTE
    mark = (letters == delimiter) | (letters == _OPEN) | (letters == _CLOSE)
    odd = (letters == ord(" ")) | ((letters >= 9) & (letters <= 13))  # white space; array_out quotes it
    if len(escaped):
        odd |= escaped
    if quotes := int(np.count_nonzero(quote)):
        outside = ~(np.bitwise_xor.accumulate(quote) ^ quote)
        mark &= outside
        odd &= outside
    if odd.any():
        raise _Malformed
    start, length, counts = _between(letters, np.flatnonzero(mark), bounds)
    return _bare(letters, start, length, quote if quotes else None), counts


def _unescaped(letters: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Without the backslashes that escape; which letters one stood before; the arrays' new bounds."""
    slash = letters == _BACKSLASH
    places = np.arange(len(letters))
    other = np.maximum.accumulate(np.where(slash, -1, places))  # the last letter that is none, up to here
    kept = ~(slash & ((places - other) % 2 == 1))  # the first, third... of a run escape
    if not kept[bounds[1:] - 1].all():
        raise _Malformed
    escaped = np.concatenate([[False], ~kept[:-1]])
    return letters[kept], escaped[kept], np.concatenate([[0], np.cumsum(kept)])[bounds]


def _between(letters: np.ndarray, marks: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and length of what lies between the marks of each array, and how many that are."""
    kind = letters[marks]
    closing = kind == _CLOSE
    closes = np.flatnonzero(closing)
    if not np.array_equal(marks[closes], bounds[1:] - 1):
        raise _Malformed
    opens = np.concatenate([[0], closes[:-1] + 1])
    opening = kind == _OPEN
    if np.count_nonzero(opening) != len(opens) or not (opening[opens] & (marks[opens] == bounds[:-1])).all():
        raise _Malformed
    before = ~closing[:-1]
    start = marks[:-1][before] + 1
    length = marks[1:][before] - start
    counts = closes - opens
    empty = length == 0
    if empty.any():  # {} has no element
        none = letters[start] == _CLOSE
        none &= letters[start - 1] == _OPEN
        if (empty & ~none).any():
            raise _Malformed
        start, length = start[~empty], length[~empty]
        counts = np.where(bounds[1:] - bounds[:-1] == 2, 0, counts)
    return start, length, counts


def _bare(letters: np.ndarray, start: np.ndarray, length: np.ndarray, quote: np.ndarray | None) -> Values:
    """The elements without their quotes; NULL where it stands unquoted."""
    word = length == 4
    if quote is not None:
        quoted, ends = quote[start], quote[start + length - 1]
        # Each quoted element has two quotes around it, and there are no others.
        if (quoted & ((length < 2) | ~ends)).any() or np.count_nonzero(quote) != 2 * np.count_nonzero(quoted):
            raise _Malformed
        word &= ~quoted
        start, length = start + quoted, length - 2 * quoted
    elements = Values(letters, start, length)
    if word.any():
        word &= (loaded(elements, ">u4") & 0xDFDFDFDF) == int.from_bytes(b"NULL")  # array_in takes it in any case
    return elements.where(~word) if word.any() else elements
