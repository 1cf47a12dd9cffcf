"""The window of an incremental append: whether the standing table's cursor column can tell its rows."""

from __future__ import annotations

from collections.abc import Collection

from dbt_bridge.errors import DestinationError, TypeRefused
from dbt_bridge.nouns.table import TableName


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
            mend=f'set types: {{{cursor}: "decimal(38,10)"}} (or the type that it has) and run with --full-refresh, or'
            " write_disposition: merge with a primary_key",
        )
