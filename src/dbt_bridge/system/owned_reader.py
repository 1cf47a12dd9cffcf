"""Readers of batches that their owner can end before their last row.

`pyarrow.RecordBatchReader.close()` does nothing for a reader of a Python generator (pyarrow 26), and dropping the last
reference does not end it either where an error's traceback still holds one: a connection, a thread or the only turn on
an origin would be held for ever by rows that nobody reads any more. So generators become readers here, and whoever
asked for rows ends them with `owning` or `close_reader`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from weakref import WeakKeyDictionary

import pyarrow as pa

Batches = Generator[pa.RecordBatch, None, None] | Iterator[pa.RecordBatch]

_lock = threading.Lock()
_behind: WeakKeyDictionary[pa.RecordBatchReader, tuple[Batches, pa.RecordBatchReader | None]] = WeakKeyDictionary()


def make_reader(schema: pa.Schema, batches: Batches, inner: pa.RecordBatchReader | None = None) -> pa.RecordBatchReader:
    """A reader of a generator's batches, which `close_reader` ends.

    Args:
        batches: must not refer to the reader that is made here.
        inner: the reader that the generator reads, and that is ended with it.
    """
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    with _lock:
        _behind[reader] = (batches, inner)
    return reader


def close_reader(reader: pa.RecordBatchReader) -> None:
    """End what a reader reads, wherever it stands; more than once is no harm. No thread may be reading it."""
    with _lock:
        batches, inner = _behind.pop(reader, (None, None))
    close = getattr(batches, "close", None)
    if close is not None:
        with contextlib.suppress(ValueError):  # "generator already executing": it ends with the thread that runs it
            close()
    if inner is not None:
        close_reader(inner)
    reader.close()


@contextlib.contextmanager
def owning(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatchReader]:
    """The reader, ended when the block is left, also by an error in the middle of its rows."""
    try:
        yield reader
    finally:
        close_reader(reader)
