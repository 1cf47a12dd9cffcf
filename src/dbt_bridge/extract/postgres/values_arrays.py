r"""Arrays in Postgres's text form, `{1,NULL,"a \"b\""}`, to Arrow lists: element by element over all bytes at once.

array_out quotes an element that is empty, says NULL, or holds the delimiter, a brace, a quote, a backslash or white
space; in quotes, a backslash stands before quotes and backslashes (arrayfuncs.c).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from dbt_bridge.extract.postgres.column_types import OriginType
from dbt_bridge.extract.postgres.values_cells import Unfit, Values, bitmap, gathered, loaded

Decode = Callable[[Values, OriginType, pa.DataType], pa.Array]

_QUOTED = np.isin(np.arange(256), list(b"{} \t\n\r\v\f"))  # array_out never writes these outside of quotes


def lists(values: Values, element: OriginType, wanted: pa.DataType, decode: Decode) -> pa.Array:
    """Arrays of one dimension that begin at 1, as lists.

    Args:
        wanted: a list type.
        decode: from the elements' own text to their array.

    Raises:
        Unfit: several dimensions, another lower bound, or an element that does not fit.
    """
    opened, closed = loaded(values, "u1"), loaded(_last(values), "u1")
    values.refuse((values.length < 2) | (opened != ord("{")) | (closed != ord("}")), "not an array that begins at 1")
    elements, counts = _elements(values, ord(";") if element.name == "box" else ord(","))
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    if offsets[-1] > 2**31 - 1:
        raise Unfit(f"{offsets[-1]} elements in one batch")
    inner = decode(elements, element, wanted.value_type)
    parts = [bitmap(values.valid), pa.py_buffer(offsets.astype(np.int32))]
    return pa.Array.from_buffers(wanted, len(values), parts, children=[inner])


def _last(values: Values) -> Values:
    return Values(values.buffer, np.maximum(values.start + values.length - 1, 0), values.length, values.valid)


def _elements(values: Values, delimiter: int) -> tuple[Values, np.ndarray]:
    """The elements of all arrays, without quotes and escapes, and how many each array has."""
    content = gathered(values.inner(1, 1), pa.binary())
    bounds = np.frombuffer(content.buffers()[1], np.int32)[: len(content) + 1].astype(np.int64)
    data = content.buffers()[2]
    letters = np.frombuffer(data, np.uint8)[: bounds[-1]] if data is not None and bounds[-1] else np.empty(0, np.uint8)
    begin, end = bounds[:-1], bounds[1:]
    escaped = np.zeros(len(letters), bool)
    if (letters == ord("\\")).any():
        letters, escaped, begin, end = _unescaped(values, letters, begin, end)
    quote = (letters == ord('"')) & ~escaped
    some_quotes = bool(quote.any())
    before = np.concatenate([[0], np.cumsum(quote)]) if some_quotes else np.zeros(len(letters) + 1, np.int64)
    open_ = (before[:-1] & 1).astype(bool)  # inside of quotes; right as long as each array closes its own
    values.refuse((before[end] - before[begin]) % 2 != 0, "an open quote")
    odd = (_QUOTED[letters] | escaped) & ~open_
    if odd.any():
        row = int(np.searchsorted(end, int(odd.argmax()), side="right"))
        raise Unfit(f"the value {values.shown(row)} (not an array of one dimension)")
    splits = np.flatnonzero((letters == delimiter) & ~open_)
    filled = end > begin
    of_split = np.searchsorted(end, splits, side="right")
    counts = np.bincount(of_split, minlength=len(values)) + filled
    start = np.sort(np.concatenate([begin[filled], splits + 1]), kind="stable")
    stop = np.sort(np.concatenate([end[filled], splits]), kind="stable")
    return _bare(values, Values(letters, start, stop - start), before, quote, counts), counts


def _unescaped(
    values: Values, letters: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Without the backslashes that escape; which letters one stood before; the arrays' new bounds."""
    slash = letters == ord("\\")
    places = np.arange(len(letters))
    other = np.maximum.accumulate(np.where(slash, -1, places))  # the last letter that is none, up to here
    escaping = slash & ((places - other) % 2 == 1)  # the first, third... of a run
    values.refuse((end > begin) & escaping[np.maximum(end - 1, 0)], "an open escape")
    kept = np.concatenate([[0], np.cumsum(~escaping)])
    escaped = np.concatenate([[False], escaping[:-1]])
    return letters[~escaping], escaped[~escaping], kept[begin], kept[end]


def _bare(values: Values, elements: Values, before: np.ndarray, quote: np.ndarray, counts: np.ndarray) -> Values:
    """The elements without their quotes; NULL where it stands unquoted."""
    start, length = elements.start, elements.length
    stop = start + length
    quotes = before[stop] - before[start]
    quoted = quotes > 0
    if quoted.any():
        framed = quote[np.minimum(start, len(quote) - 1)] & quote[np.maximum(stop - 1, 0)]
        _refuse(values, quoted & ~((quotes == 2) & framed & (length >= 2)), counts)
        start, length = start + quoted, length - 2 * quoted
    _refuse(values, (length == 0) & ~quoted, counts)
    null = (length == 4) & ~quoted
    if null.any():
        words = loaded(Values(elements.buffer, start, length), ">u4")
        null &= (words & 0xDFDFDFDF) == int.from_bytes(b"NULL")  # in any case, as array_in reads it
    if not null.any():
        return Values(elements.buffer, start, length)
    return Values(elements.buffer, start, np.where(null, 0, length), ~null)


def _refuse(values: Values, wrong: np.ndarray, counts: np.ndarray) -> None:
    """Raise Unfit for the array that the first wrong element belongs to."""
    if wrong.any():
        row = int(np.searchsorted(np.cumsum(counts), int(wrong.argmax()), side="right"))
        raise Unfit(f"the value {values.shown(row)}")
