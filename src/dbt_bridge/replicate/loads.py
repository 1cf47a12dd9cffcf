"""What every destination does alike with a load: its key and window are checked, and one row is kept per key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.contracts.destination import WRITE_DISPOSITIONS, BeginAgain, Load, Loaded, Warehouse
from dbt_bridge.errors import DestinationError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.names import OWN_NAMES, is_own_name
from dbt_bridge.nouns.table import TableName
from dbt_bridge.replicate.key_codes import encode_rows

_T = TypeVar("_T")


def check_request(load: Load) -> None:
    """Refuse, before a row moves, what no destination understands.

    Raises:
        UsageError: an unknown disposition, or a window for another one than append.
        KeyRefused: merge without a key, or with one that is not a column.
        TypeRefused: a column has a name of the bridge's own.
    """
    name, columns = load.table.name, [c.name for c in load.table.columns]
    if load.write_disposition not in WRITE_DISPOSITIONS:
        raise UsageError(
            f"{name}: unknown write disposition {load.write_disposition!r}",
            mend=f"one of {', '.join(WRITE_DISPOSITIONS)}",
        )
    is_own = is_own_name(name.name)  # what is staged for a warehouse behind dlt, with what is to be done with each row
    if own := next((column for column in columns if is_own_name(column) and not is_own), None):
        raise TypeRefused(
            f"{name}: the rows have a column {own!r}, and names that begin with {OWN_NAMES} are dbt-bridge's own",
            mend="rename it, or leave it out with `columns:`",
            column=own,
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


def check_cursor(table: TableName, cursor: str, type_: str | None, texts: Collection[str]) -> None:
    """Refuse a window whose rows would be chosen wrongly: as text, '9' comes after '10'.

    Args:
        type_: the column's type at the destination; None where it is absent.
        texts: the names of the destination's text types.

    Raises:
        DestinationError: the table has no such column.
        TypeRefused: it is text there.
    """
    if type_ is None:
        raise DestinationError(
            f"{table} has no column {cursor!r}, the cursor of its incremental load",
            mend="dbt-bridge sync --full-refresh",
        )
    if type_ in texts:
        raise TypeRefused(
            f"{table}: the cursor {cursor!r} lands as text, which has another order than its values, so an append"
            " cannot tell which rows to bring again",
            mend=f'set types: {{{quote_in_yaml(cursor)}: "decimal(38,10)"}} (or the type that it has) and run with'
            " --full-refresh, or write_disposition: merge with a primary_key",
        )


def type_changed(
    name: TableName, column: str, existing: str, incoming: str, *, is_delivery: bool = False
) -> TypeRefused:
    """The error where a standing column's type and that of the new rows have no common one that keeps all values."""
    what = f"column {column!r} of {name} is {existing} and the new rows bring {incoming}, which would lose values"
    if is_delivery:  # whose table nobody may be told to replace
        return TypeRefused(what, mend="cast it in the model, or leave it out with `columns:`")
    return TypeRefused(
        what,
        mend="load the table once with replace (dbt-bridge sync --full-refresh), or set"
        f" types: {{{quote_in_yaml(column)}: ...}}",
    )


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
    try:
        codes = encode_rows([rows[column] for column in load.table.key])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise KeyRefused(
            f"the key of {load.table.name} has a type whose values cannot be compared", mend="choose another key"
        ) from error
    last = np.zeros(codes.max(initial=-1) + 1, np.int64)
    last[codes] = np.arange(len(rows))
    return rows if len(last) == len(rows) else rows.take(to_arrow(np.sort(last)))


def several_rows(name: TableName, key: Sequence[str], *, is_delivery: bool = False) -> KeyRefused:
    """The error where a standing table has more than one row of a key that is to be merged."""
    replaced = "" if is_delivery else "load the table once with replace, or "
    return KeyRefused(
        f"{name} already holds several rows with the same key ({', '.join(key)}), so a merge cannot leave one row per"
        " key",
        mend=f"{replaced}name a key that is unique in it",
    )


def load_staged(warehouse: Warehouse, load: Load, batches: pa.RecordBatchReader) -> Loaded:
    """Stage and publish one table. On any error the table is what it was, and nothing staged is left."""
    staged = warehouse.stage(load, batches)
    try:
        return warehouse.publish([staged])[0]
    except BaseException:
        warehouse.discard([staged])
        raise


def with_room(work: Callable[[], _T]) -> _T:
    """The work, begun again whenever the destination has made room for it; each time there is more, up to a bound.

    Args:
        work: reads its rows anew each time.
    """
    while True:
        try:
            return work()
        except BeginAgain:
            continue
