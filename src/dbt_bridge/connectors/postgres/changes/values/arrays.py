r"""Arrays in Postgres's text form, `{1,NULL,"a \"b\""}`, to Arrow lists: over the bytes of all arrays at once.

array_out quotes an element that is empty, says NULL, or holds the delimiter, a brace, a quote, a backslash or white
space; in quotes, a backslash stands before quotes and backslashes (arrayfuncs.c). So outside of quotes every brace and
delimiter is one of the array's own, and the elements are what lies between two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dbt_bridge.connectors.postgres.changes.values.cells import (
    Unfit,
    Values,
    gather,
    load_numbers,
    make_bitmap,
)
from dbt_bridge.connectors.postgres.origin.column_types import OriginType

Decode = Callable[[Values, OriginType, pa.DataType], pa.Array]

_OPEN, _CLOSE, _QUOTE, _BACKSLASH = b'{}"\\'


class _Malformed(Exception):
    """One of several arrays is no list."""


@dataclass(frozen=True, slots=True)
class _Elements:
    """The elements of all arrays, one array's after the other's, and how many each array has."""

    values: Values
    counts: np.ndarray


@dataclass(frozen=True, slots=True)
class _Letters:
    """The bytes of all arrays.

    Attributes:
        escaped: bool[n]: before which of them a backslash stood; empty where there is none at all.
        bounds: int64[arrays + 1]: where each array begins, and where the last one ends.
    """

    letters: np.ndarray
    escaped: np.ndarray
    bounds: np.ndarray


@dataclass(frozen=True, slots=True)
class _Spans:
    """Where elements lie, quotes included, and how many each array has."""

    start: np.ndarray
    length: np.ndarray
    counts: np.ndarray


def decode_lists(values: Values, element: OriginType, wanted: pa.DataType, decode: Decode) -> pa.Array:
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
        elements = _split_elements(arrays, delimiter)
    except _Malformed:
        raise _find_refusal(arrays, delimiter) from None
    counts = elements.counts
    if values.valid is not None:
        counts = np.zeros(len(values), np.int64)
        counts[values.valid] = elements.counts
    offsets = np.zeros(len(values) + 1, np.int32)  # elements have bytes of their own, so 2 GiB of text hold no more
    np.cumsum(counts, out=offsets[1:])
    inner = decode(elements.values, element, wanted.value_type)
    buffers = [make_bitmap(values.valid), pa.py_buffer(offsets)]
    return pa.Array.from_buffers(wanted, len(values), buffers, children=[inner])


def _find_refusal(arrays: Values, delimiter: int) -> Unfit:
    """The refusal of the first array that is malformed, found by halving."""
    rows = np.arange(len(arrays))
    while len(rows) > 1:
        half = rows[: len(rows) // 2]
        try:
            _split_elements(arrays.take(half), delimiter)
        except _Malformed:
            rows = half
        else:
            rows = rows[len(rows) // 2 :]
    return Unfit(f"{arrays.format_value(int(rows[0]))} (not an array of one dimension that begins at 1)")


def _split_elements(arrays: Values, delimiter: int) -> _Elements:
    """The elements of all arrays, without quotes and escapes."""
    if not len(arrays):
        return _Elements(arrays, np.empty(0, np.int64))
    gathered = gather(arrays, pa.binary())
    bounds = np.frombuffer(gathered.buffers()[1], np.int32)[: len(gathered) + 1].astype(np.int64)
    if (bounds[1:] == bounds[:-1]).any():
        raise _Malformed
    text = _unescape(np.frombuffer(gathered.buffers()[2], np.uint8)[: bounds[-1]], bounds)
    letters, escaped = text.letters, text.escaped
    quote = letters == _QUOTE
    if len(escaped):
        quote &= ~escaped
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
    spans = _split_at_marks(text, np.flatnonzero(mark))
    return _Elements(_strip_quotes(letters, spans, quote if quotes else None), spans.counts)


def _unescape(letters: np.ndarray, bounds: np.ndarray) -> _Letters:
    """The letters without the backslashes that escape others."""
    slash = letters == _BACKSLASH
    if not slash.any():
        return _Letters(letters, np.zeros(0, bool), bounds)
    places = np.arange(len(letters))
    other = np.maximum.accumulate(np.where(slash, -1, places))  # the last letter up to here that is no backslash
    stays = ~(slash & ((places - other) % 2 == 1))  # the first, third... of a run escape
    if not stays[bounds[1:] - 1].all():
        raise _Malformed
    escaped = np.concatenate([[False], ~stays[:-1]])
    return _Letters(letters[stays], escaped[stays], np.concatenate([[0], np.cumsum(stays)])[bounds])


def _split_at_marks(arrays: _Letters, marks: np.ndarray) -> _Spans:
    """What lies between the marks (braces and delimiters outside of quotes) of each array."""
    letters, bounds = arrays.letters, arrays.bounds
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
    return _Spans(start, length, counts)


def _strip_quotes(letters: np.ndarray, spans: _Spans, quote: np.ndarray | None) -> Values:
    """The elements without their quotes; no value where NULL stands unquoted.

    Args:
        quote: bool[n]: which letters are quotes; None where there are none.
    """
    start, length = spans.start, spans.length
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
        word &= (load_numbers(elements, ">u4") & 0xDFDFDFDF) == int.from_bytes(b"NULL")  # array_in takes it in any case
    return elements.where(~word) if word.any() else elements
