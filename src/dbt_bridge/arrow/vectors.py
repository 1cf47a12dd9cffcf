"""numpy vectors as Arrow arrays, without pandas.

`pa.array` of a numpy array imports pandas wherever it is installed (pyarrow 26): half a second and 70 MB.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def to_arrow(vector: np.ndarray, mask: np.ndarray | None = None) -> pa.Array:
    """The same values (booleans, or numbers in the machine's byte order), zero-copy where they lie side by side.

    Args:
        mask: bool: True for NULL, as in `pa.array`.
    """
    valid = None if mask is None else pack_bits(~mask)
    if vector.dtype == np.bool_:
        return pa.Array.from_buffers(pa.bool_(), len(vector), [valid, pack_bits(vector)])
    values = pa.py_buffer(np.ascontiguousarray(vector))
    return pa.Array.from_buffers(pa.from_numpy_dtype(vector.dtype), len(vector), [valid, values])


def pack_bits(flags: np.ndarray) -> pa.Buffer:
    """Booleans as Arrow stores them, one bit each."""
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
