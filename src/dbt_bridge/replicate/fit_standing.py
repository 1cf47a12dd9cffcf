"""Rows of a delivery in the schema of a table that is not ours and has no SQL types: nothing is added or altered."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from dbt_bridge.arrow.file_types import can_take, fit_schema
from dbt_bridge.contracts.destination import Load
from dbt_bridge.contracts.outgoing import describe_added, describe_altered, refuse_column, refuse_nulls, refuse_values
from dbt_bridge.errors import TypeRefused

Cast = Callable[[pa.RecordBatch], pa.RecordBatch]


def fit_standing(existing: pa.Schema, incoming: pa.Schema, load: Load) -> pa.Schema:
    """The incoming columns in the types that the table has.

    Raises:
        TypeRefused: a column is not there, or its type cannot take the values; or a column that takes no NULL is not
            brought.
    """
    name, fields = load.table.name, []
    for field in incoming:
        index = existing.get_field_index(field.name)
        if index < 0:
            raise refuse_column(name, field.name, str(field.type), existing.names)
        there = existing.field(index).type
        if there != field.type and not can_take(there, field.type):
            raise refuse_values(name, field.name, str(there), str(field.type), "they are of different kinds")
        fields.append(existing.field(index))
    for field in existing:
        if not field.nullable and field.name not in incoming.names and load.write_disposition != "merge":
            raise TypeRefused(
                f"column {field.name!r} of {name} takes no NULL, and new rows would have no value in it",
                mend="bring the column in the model (and in `columns:`)",
            )
    return pa.schema(fields)


def fit_evolving(existing: pa.Schema, incoming: pa.Schema, load: Load) -> pa.Schema:
    """As `fit_schema`: new columns are added. A refused delivery is not told to replace the table.

    Raises:
        TypeRefused: a column's type cannot take the values.
    """
    try:
        return fit_schema(existing, incoming, load.table)
    except TypeRefused as refused:
        if load.delivery is None:
            raise
        raise TypeRefused(refused.what, mend="cast it in the model, or leave it out with `columns:`") from None


def cast_standing(load: Load, incoming: pa.Schema, schema: pa.Schema, cast: Cast) -> Cast:
    """A cast whose refusals name both types, and which refuses NULL where the table takes none."""

    def cast_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            done = cast(batch)
        except TypeRefused as refused:
            named = next((f for f in schema if f"column {f.name!r}" in refused.what), None)
            if named is None:
                raise
            came = str(incoming.field(named.name).type)
            why = refused.what.partition(": ")[2] or "a value does not fit"
            raise refuse_values(load.table.name, named.name, str(named.type), came, why) from refused
        for field, array in zip(schema, done.columns, strict=True):
            if not field.nullable and array.null_count:
                came = str(incoming.field(field.name).type)
                raise refuse_nulls(load.table.name, field.name, str(field.type), came)
        return done

    return cast_batch


def describe_evolution(existing: pa.Schema | None, written: pa.Schema) -> tuple[str, ...]:
    """What a load in this schema does to the columns of a table that stands."""
    if existing is None:
        return ()
    return tuple(
        describe_altered(field.name, str(existing.field(field.name).type), str(field.type))
        if field.name in existing.names
        else describe_added(field.name, str(field.type))
        for field in written
        if field.name not in existing.names or existing.field(field.name).type != field.type
    )


def pad_columns(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with NULL in the columns of the table that it does not bring."""
    arrays = [
        batch.column(field.name) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
