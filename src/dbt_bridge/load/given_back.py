"""Rows that a destination gives back, in exactly the types in which they came."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.errors import DestinationError, TypeRefused
from dbt_bridge.load.destination import Replica
from dbt_bridge.load.replica import copied_anew
from dbt_bridge.table import TableName


def wanted_keys(replica: Replica, keys: pa.Table) -> pa.Table:
    """The keys that are asked for, once each, after a look at whether the replica has their columns.

    Raises:
        DestinationError: it has not.
    """
    for name in keys.column_names:
        if replica.table.column(name) is None:
            raise missing(replica.table.name, name, replica)
    return keys.group_by(keys.column_names).aggregate([]) if _is_grouped(keys) else keys


def _is_grouped(keys: pa.Table) -> bool:
    plain = (is_.is_integer, is_.is_string, is_.is_binary, is_.is_decimal, is_.is_date, is_.is_timestamp)
    return keys.num_columns > 0 and all(any(kind(field.type) for kind in plain) for field in keys.schema)


def missing(name: TableName, column: str, replica: Replica) -> DestinationError:
    return DestinationError(f"{name} has no column {column!r}", mend=copied_anew(replica.node))


def in_types(arrays: list[pa.Array], schema: pa.Schema, name: TableName) -> pa.RecordBatch:
    """A batch of these columns in the schema's types.

    Raises:
        TypeRefused: a stored value does not fit its type; names table and column.
    """
    fitted = []
    for array, field in zip(arrays, schema, strict=True):
        try:
            fitted.append(in_type(array, field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError) as error:
            raise TypeRefused(
                f"{name}, column {field.name!r} holds a value that is no {field.type}, as which it came: {error}",
                mend="copy the table anew (dbt-bridge sync --full-refresh), or give the column its type back",
            ) from error
    return pa.RecordBatch.from_arrays(fitted, schema=schema)


def in_type(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """The same values as another type; raises pa.ArrowInvalid where one would change."""
    if array.type == wanted and not is_.is_list(wanted):  # lists are the same whatever their elements are called
        return array
    if isinstance(wanted, pa.UuidType) and is_.is_string(array.type):
        hexadecimal = pc.replace_substring(array, "-", "")
        return pa.array([None if v is None else bytes.fromhex(v) for v in hexadecimal.to_pylist()], pa.binary(16)).cast(
            wanted
        )
    if isinstance(array.type, pa.BaseExtensionType):
        return in_type(array.storage, wanted)
    if isinstance(wanted, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(wanted, in_type(array, wanted.storage_type))
    if is_.is_list(wanted) and is_.is_list(array.type):
        values = in_type(array.values, wanted.value_type)
        return pa.ListArray.from_buffers(
            wanted, len(array), array.buffers()[:2], array.null_count, array.offset, children=[values]
        )
    if is_.is_floating(array.type) and is_.is_float32(wanted):
        short = pc.cast(array, wanted)
        kept = pc.or_kleene(pc.equal(pc.cast(short, array.type), array), pc.is_nan(array))
        if pc.any(pc.invert(kept)).as_py():
            raise ValueError("a double with more digits than a float has")
        return short
    if is_.is_dictionary(wanted):
        return pc.dictionary_encode(in_type(array, wanted.value_type)).cast(wanted)
    return pc.cast(array, wanted, safe=True)
