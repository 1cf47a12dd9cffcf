"""What is asked of a load, and its merge key: checked, and one row kept per key where the destination cannot."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.destination import WRITE_DISPOSITIONS, Load
from dbt_bridge.errors import KeyRefused, TypeRefused, UsageError

_ROW = "_dbt_bridge_row"


def check_request(load: Load) -> None:
    """Refuse, before a row moves, what no destination understands.

    Raises:
        UsageError: an unknown disposition, or a window for another one than append.
        KeyRefused: merge without a key, or with one that is not a column.
    """
    name, columns = load.table.name, [c.name for c in load.table.columns]
    if load.write_disposition not in WRITE_DISPOSITIONS:
        raise UsageError(
            f"{name}: unknown write disposition {load.write_disposition!r}",
            mend=f"one of {', '.join(WRITE_DISPOSITIONS)}",
        )
    if load.window is not None and load.write_disposition != "append":
        raise UsageError(f"{name}: only append has a window", mend="write_disposition: append")
    if not load.keeps_last:
        return
    if not load.table.key:
        raise KeyRefused(f"a merge into {name} needs a key, and none is declared", mend="add primary_key: <column>")
    for column in load.table.key:
        if column not in columns:
            raise KeyRefused(
                f"the key column {column!r} is not among the new rows' columns of {name}",
                mend=f"name one of {', '.join(columns)}",
            )


def check_load(load: Load) -> None:
    """Refuse, before a row moves, what no destination without SQL of its own can load.

    Raises:
        UsageError, KeyRefused: see `check_request`.
        TypeRefused: two columns of one name, or no column at all.
    """
    check_request(load)
    name, columns = load.table.name, [c.name for c in load.table.columns]
    if not columns:
        raise TypeRefused(f"{name} has no columns", mend="leave the table out with `exclude:`")
    if double := next((c for c in columns if columns.count(c) > 1), None):
        raise TypeRefused(f"{name} has two columns named {double!r}", mend="rename or leave out one of them")


def last_per_key(load: Load, rows: pa.Table) -> pa.Table:
    """One row per key, the one that came last; in the order of arrival.

    Raises:
        KeyRefused: a key column holds NULL, or has a type without equality.
    """
    for column in load.table.key:
        if rows[column].null_count:
            raise KeyRefused(
                f"the key column {column!r} of {load.table.name} holds NULL in the new rows",
                mend="filter those rows out, or choose a key that every row has",
            )
    plain = {f"k{i}": _plain(rows[column]) for i, column in enumerate(load.table.key)}
    keys = pa.table({**plain, _ROW: pa.array(range(len(rows)), pa.int64())})
    try:
        last = keys.group_by(list(plain)).aggregate([(_ROW, "max")])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise KeyRefused(
            f"the key of {load.table.name} has a type without equality: {error}", mend="choose another key"
        ) from error
    numbers = last[f"{_ROW}_max"]
    return rows.take(numbers.take(pc.sort_indices(numbers)))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return column
