"""One column of cells to an Arrow array. Cells may mix text and binary: in binary mode, a type without a send function
comes as text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dbt_bridge.connectors.postgres.changes.messages import BINARY, TEXT, Cells
from dbt_bridge.connectors.postgres.changes.values.binary import decode_binary, is_binary_decodable
from dbt_bridge.connectors.postgres.changes.values.cells import (
    Unfit,
    Values,
    check_bounds,
    combine,
    wrap_extension,
)
from dbt_bridge.connectors.postgres.changes.values.text import decode_text
from dbt_bridge.connectors.postgres.origin.column_types import OriginType

__all__ = ["Unfit", "decode_column", "is_binary_decodable"]


def decode_column(cells: Cells, origin: OriginType, wanted: pa.DataType) -> pa.Array:
    """The cells' values.

    Args:
        cells: of n tuples.
        origin: the column's type at the origin.
        wanted: the type in which the column travels: the natural one, or that of an override.

    Returns:
        n values of `wanted`; NULL for NULL and UNCHANGED cells.

    Raises:
        Unfit: a value cannot be kept exactly in `wanted`, or is no value of the origin's type.
        OriginError: cells that lie outside of the buffer, or more than 2 GiB of them.
    """
    text, binary = cells.tag == TEXT, cells.tag == BINARY
    of_text, of_binary = int(np.count_nonzero(text)), int(np.count_nonzero(binary))
    n = len(cells.tag)
    if not of_text + of_binary:
        return pa.nulls(n, wanted)
    if not of_text or not of_binary:
        form, decode = (text, decode_text) if of_text else (binary, decode_binary)
        return decode(check_bounds(_make_values(cells, form if of_text + of_binary < n else None)), origin, wanted)
    arrays: list[pa.Array] = []
    place = np.zeros(n, np.int64)  # of each row in both arrays, one after the other
    for form, decode in ((text, decode_text), (binary, decode_binary)):
        rows = np.flatnonzero(form)
        place[rows] = np.arange(len(rows)) + sum(len(array) for array in arrays)
        arrays.append(decode(check_bounds(_make_values(cells, None).take(rows)), origin, wanted))
    storage = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in arrays]
    return wrap_extension(combine(storage[0], storage[1], place, ~(text | binary)), wanted)


def _make_values(cells: Cells, valid: np.ndarray | None) -> Values:
    length = cells.length if valid is None else np.where(valid, cells.length, 0)
    return Values(cells.buffer, cells.start, length, valid)
