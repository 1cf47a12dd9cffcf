"""A DuckDB table without a key follows its origin: of equal rows exactly as many go as the changes say."""

from __future__ import annotations

import pyarrow as pa

from dbt_bridge.connectors.duckdb.landing_table import (
    Source,
    Target,
    check_values,
    describe_types,
    insert,
    lend_rows,
)
from dbt_bridge.connectors.duckdb.relation import CatalogCursor
from dbt_bridge.contracts.destination import DELETED_AT, Replica
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.table import quote_identifier
from dbt_bridge.replicate.duckdb_equality import as_written
from dbt_bridge.replicate.full_row import FullRows
from dbt_bridge.replicate.replica_checks import recopy_command

_ADDED, _OLD, _FOUND = "_dbt_bridge_added", "_dbt_bridge_old", "_dbt_bridge_matched"
_NUMBER = "_dbt_bridge_number"


def write(on: CatalogCursor, replica: Replica, state: Target, rows: FullRows) -> None:
    """Add rows, take rows away, and mark those that a soft delete keeps.

    Raises:
        KeyRefused: a row is not there that should be.
    """
    with lend_rows(on, _ADDED, rows.added):
        check_values(on, state, _ADDED, describe_types(on, _ADDED))
        insert(on, state, Source(_ADDED, {state.own[c]: quote_identifier(c) for c in rows.added.column_names}))
    _each_once(on, replica, state, rows.removed, f"DELETE FROM {state.sql} AS t\nUSING {_FOUND} AS f")  # noqa: S608
    deleted_at = quote_identifier(DELETED_AT)
    marked = f"UPDATE {state.sql} AS t\nSET {deleted_at} = f.{deleted_at}\nFROM {_FOUND} AS f"
    _each_once(on, replica, state, rows.died, marked)


def _each_once(on: CatalogCursor, replica: Replica, state: Target, old: pa.Table, statement: str) -> None:
    """Run a statement on one row of the table for each old row, equal to it in every column."""
    if not len(old):
        return
    soft = DELETED_AT in state.own
    columns = [name for name in old.column_names if name != DELETED_AT]
    types = {c: state.type(c) for c in columns}
    ours = [one for c in columns for one in as_written(f"t.{state.column(c)}", types[c])]
    theirs = [one for c in columns for one in as_written(f"s.{quote_identifier(c)}", types[c])]
    equal = [f"{own} IS NOT DISTINCT FROM {given}" for own, given in zip(ours, theirs, strict=True)]
    alive = [f"t.{state.column(DELETED_AT)} IS NULL"] if soft else []
    names = ", ".join(one for c in columns for one in as_written(quote_identifier(c), types[c]))
    partition = ", ".join(ours)
    at = f", s.{quote_identifier(DELETED_AT)}" if DELETED_AT in old.column_names else ""
    with lend_rows(on, _OLD, old):
        check_values(on, state, _OLD, describe_types(on, _OLD))
        # The n-th of several equal old rows takes the n-th equal row of the table.
        on.execute(
            f"CREATE OR REPLACE TEMP TABLE {_FOUND} AS\n"  # noqa: S608
            "WITH s AS (\n"
            f"  SELECT *, row_number() OVER (PARTITION BY {names}) AS {_NUMBER}\n"
            f"  FROM {_OLD}\n"
            "), distinct_s AS (\n"
            f"  SELECT * FROM s WHERE {_NUMBER} = 1\n"
            "), t AS (\n"
            f"  SELECT t.*, t.rowid AS _dbt_bridge_rowid, row_number() OVER (PARTITION BY {partition}) AS {_NUMBER}\n"
            f"  FROM {state.sql} AS t JOIN distinct_s AS s ON {' AND '.join([*equal, *alive])}\n"
            ")\n"
            f"SELECT t._dbt_bridge_rowid{at}\n"
            f"FROM t JOIN s ON t.{_NUMBER} = s.{_NUMBER} AND {' AND '.join(equal)}"
        )
    found = on.scalar(f"{statement}\nWHERE t.rowid = f._dbt_bridge_rowid")
    on.execute(f"DROP TABLE temp.{_FOUND}")
    if found != len(old):
        raise KeyRefused(
            f"{len(old) - found} rows of {replica.table.name} that its origin changed or deleted are not there:"
            " somebody changed them here",
            mend=recopy_command(replica.node),
        )
