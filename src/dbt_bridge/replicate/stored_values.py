"""Rows that a destination gives back, in exactly the types in which they came."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from dbt_bridge.arrow import decimals
from dbt_bridge.contracts.destination import Replica
from dbt_bridge.errors import DestinationError, TypeRefused
from dbt_bridge.nouns.table import TableName
from dbt_bridge.replicate.replica_checks import recopy_command


def check_keys(replica: Replica, keys: pa.Table) -> pa.Table:
    """The keys that are asked for, once each, after a look at whether the replica has their columns.

    Raises:
        DestinationError: it has not.
    """
    for name in keys.column_names:
        if replica.table.column(name) is None:
            raise missing_column(replica.table.name, name, replica)
    return keys.group_by(keys.column_names).aggregate([]) if _is_grouped(keys) else keys


def _is_grouped(keys: pa.Table) -> bool:
    plain = (is_.is_integer, is_.is_string, is_.is_binary, is_.is_decimal, is_.is_date, is_.is_timestamp)
    return keys.num_columns > 0 and all(any(kind(field.type) for kind in plain) for field in keys.schema)


def missing_column(name: TableName, column: str, replica: Replica) -> DestinationError:
    return DestinationError(f"{name} has no column {column!r}", mend=recopy_command(replica.node))


def cast_columns(arrays: list[pa.Array], schema: pa.Schema, name: TableName) -> pa.RecordBatch:
    """A batch of these columns in the schema's types.

    Raises:
        TypeRefused: a stored value does not fit its type; names table and column.
    """
    fitted = []
    for array, field in zip(arrays, schema, strict=True):
        try:
            fitted.append(cast_exactly(array, field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError) as error:
            raise TypeRefused(
                f"{name}, column {field.name!r} holds a value that is no {field.type}, as which it came: {error}",
                mend="copy the table anew (dbt-bridge sync --full-refresh), or give the column its type back",
            ) from error
    return pa.RecordBatch.from_arrays(fitted, schema=schema)


def cast_exactly(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """The same values as another type; raises pa.ArrowInvalid where one would change."""
    if array.type == wanted and not is_.is_list(wanted):  # lists are the same whatever their elements are called
        return array
    if isinstance(wanted, pa.UuidType) and is_.is_string(array.type):
        hexadecimal = pc.replace_substring(array, "-", "")
        return pa.array([None if v is None else bytes.fromhex(v) for v in hexadecimal.to_pylist()], pa.binary(16)).cast(
            wanted
        )
    if isinstance(array.type, pa.BaseExtensionType):
        return cast_exactly(array.storage, wanted)
    if isinstance(wanted, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(wanted, cast_exactly(array, wanted.storage_type))
    if is_.is_list(wanted) and is_.is_list(array.type):
        values = cast_exactly(array.values, wanted.value_type)
        return pa.ListArray.from_buffers(
            wanted, len(array), array.buffers()[:2], array.null_count, array.offset, children=[values]
        )
    if _is_rounded(array.type, wanted):
        return _cast_unrounded(array, wanted)
    if is_.is_dictionary(wanted):
        return pc.dictionary_encode(cast_exactly(array, wanted.value_type)).cast(wanted)
    return decimals.cast(array, wanted)


def _is_rounded(own: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether Arrow's safe cast changes values without a word (pyarrow 26)."""
    rounded: tuple[Callable[[pa.DataType], bool], ...] = ()
    if is_.is_floating(wanted):
        rounded = (is_.is_decimal, is_.is_floating) if is_.is_float32(wanted) else (is_.is_decimal,)
    elif is_.is_decimal(wanted):
        rounded = (is_.is_floating,)
    elif is_.is_boolean(wanted):
        rounded = (is_.is_integer, is_.is_floating)
    elif is_.is_date(wanted) or is_.is_time(wanted):
        rounded = (is_.is_timestamp,)
    return any(test(own) for test in rounded)


def _cast_unrounded(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    cast = pc.cast(array, wanted)
    if is_.is_time(wanted):
        raise ValueError("a moment is no time of a day")
    kept = pc.equal(pc.cast(cast, array.type), array)
    if is_.is_floating(array.type):
        kept = pc.or_kleene(kept, pc.is_nan(array))
    if pc.any(pc.invert(kept)).as_py():
        raise ValueError(f"a value of the type {array.type} changes as {wanted}")
    return cast


class Keys:
    """Keys that rows are found by. NULL equals NULL, NaN equals NaN, and -0.0 equals 0.0, as in databases."""

    def __init__(self, keys: pa.Table) -> None:
        self._names = keys.column_names
        self._table = keys.combine_chunks()
        self._wanted = set(_tuples([_chunk(keys[name]) for name in keys.column_names]))

    def filter(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that have one of the keys; it has the key's columns, in their types."""
        for name in self._names:  # most rows go without a look at them one by one
            batch = batch.filter(self._may_have(batch.column(name), name))
        arrays = [batch.column(name) for name in self._names]
        return batch.filter(pa.array([row in self._wanted for row in _tuples(arrays)], pa.bool_()))

    def _may_have(self, array: pa.Array, name: str) -> pa.Array:
        values = _chunk(self._table[name])
        if is_.is_nested(array.type) or is_.is_floating(array.type) or is_.is_interval(array.type):
            return pa.repeat(pa.scalar(True), len(array))
        if isinstance(array.type, pa.BaseExtensionType):
            array, values = array.storage, values.storage
        return pc.is_in(array, value_set=values)


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _tuples(arrays: Sequence[pa.Array]) -> list[tuple[object, ...]]:
    """Rows that can be looked up. Moments are numbers, for Python has no infinite ones."""
    columns = []
    for array in arrays:
        stored = array.storage if isinstance(array, pa.ExtensionArray) else array
        if is_.is_temporal(stored.type) and not is_.is_interval(stored.type):
            stored = stored.view(pa.int32() if stored.type.bit_width == 32 else pa.int64())
        if is_.is_floating(stored.type):
            stored = pc.add(stored, pa.scalar(0, stored.type))  # zeros have one sign
        columns.append([str(v) if isinstance(v, list | dict | float) else v for v in stored.to_pylist()])
    return list(zip(*columns, strict=True))
