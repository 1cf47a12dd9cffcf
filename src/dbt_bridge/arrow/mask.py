"""Masked columns: of a value only the hash of its text leaves the process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.system.owned_reader import make_reader


def mask_array(array: pa.Array, how: Literal["sha256"]) -> pa.Array:
    """The values' hashes.

    Args:
        array: strings: the origin's own text form of each value.
        how: `sha256`: of the text in UTF-8, as 64 lower-case hexadecimal digits.

    Returns:
        Strings; NULL stays NULL. Equal values have equal hashes, so that joins still work.

    Raises:
        ValueError: another `how`.
    """
    if how != "sha256":
        raise ValueError(f"no mask {how!r}: there is sha256")
    distinct = pc.dictionary_encode(array)  # NULL is an index without a value
    texts = distinct.dictionary.cast(pa.binary()).to_pylist()
    hashes = [hashlib.sha256(text).hexdigest() for text in texts]
    return pc.take(pa.array(hashes, pa.string()), distinct.indices)


def mask_batches(batches: pa.RecordBatchReader, mask: Mapping[str, str]) -> pa.RecordBatchReader:
    """The same batches with some columns masked.

    Args:
        batches: in which those columns are strings.
        mask: column -> how.
    """
    if not mask:
        return batches

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            arrays = [
                mask_array(array, mask[name]) if name in mask else array  # type: ignore[arg-type]
                for name, array in zip(batch.schema.names, batch.columns, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=batch.schema)

    return make_reader(batches.schema, rows(), batches)
