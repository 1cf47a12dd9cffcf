"""`<table>_history` in DuckDB: every committed version of each row, beside the current state.

Columns are those of the table, `valid_from`, `valid_to` (NULL while the version is the current one) and `_lsn`, of the
commit that made it (NULL for rows of a copy). A table that is copied anew keeps its history: versions that the copy
agrees with go on, the others end at the copy's snapshot, and new ones begin there.
"""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from dbt_bridge.connectors.duckdb.landing_table import (
    Target,
    complete_rows,
    insert,
    lend_rows,
    require_columns,
)
from dbt_bridge.connectors.duckdb.publish import evolve
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, fold_case
from dbt_bridge.contracts.destination import (
    CHANGE_LSN,
    DELETED_AT,
    VALID_FROM,
    VALID_TO,
    Replica,
    Staged,
)
from dbt_bridge.nouns.table import quote_identifier
from dbt_bridge.replicate.compaction import Versions
from dbt_bridge.replicate.duckdb_equality import as_key, as_written
from dbt_bridge.replicate.replica_checks import refuse_other_history

_KEYS = "_dbt_bridge_versions"
_OWN = (VALID_FROM, VALID_TO, CHANGE_LSN)
_BEGIN, _END, _LSN = map(quote_identifier, _OWN)


def require_history(on: CatalogCursor, replica: Replica, columns: list[str]) -> Target:
    """Raises TypeRefused where it, or one of its columns, is not there any more."""
    return require_columns(on, replica, replica.history_name, [*columns, *_OWN])


def write(on: CatalogCursor, replica: Replica, state: Target, versions: Versions, unfinished: int | None) -> None:
    """Add versions, while the state still is as it was before them.

    Args:
        unfinished: the LSN of a commit whose earlier piece this same application has written.
    """
    history = require_history(on, replica, [c for c in state.own if c != DELETED_AT])
    with complete_rows(on, replica, state, versions.written, history) as sources:
        if unfinished is not None and len(versions.continued):  # no other transaction has that LSN
            _with_keys(
                on,
                history,
                versions.continued,
                f"DELETE FROM {history.sql} AS t USING {_KEYS} AS s\nWHERE t.{_LSN} = {int(unfinished)}",  # noqa: S608
            )
        _with_keys(
            on,
            history,
            versions.closed,
            f"UPDATE {history.sql} AS t\nSET {_end_at(f's.{_END}')}\nFROM {_KEYS} AS s\nWHERE true",
        )
        for source in sources:
            insert(on, history, source)


def _end_at(moment: str) -> str:
    """An open version ends, and not before it begins: a copy's, whose time is read after its snapshot, begins then."""
    return (
        f"{_END} = CASE WHEN t.{_LSN} IS NULL THEN {moment} ELSE greatest({moment}, t.{_BEGIN}) END,"
        f" {_BEGIN} = CASE WHEN t.{_LSN} IS NULL THEN least({moment}, t.{_BEGIN}) ELSE t.{_BEGIN} END"
    )


def _with_keys(on: CatalogCursor, history: Target, keys: pa.Table, statement: str) -> None:
    """Run a statement on the open versions of these keys."""
    names = [name for name in keys.column_names if name != VALID_TO]
    renamed = keys.rename_columns(
        [VALID_TO if n == VALID_TO else f"{_KEYS}_{i}" for i, n in enumerate(keys.column_names)]
    )
    matches = history.same_key(names, f"{_KEYS}_")
    with lend_rows(on, _KEYS, renamed):
        on.execute(f"{statement}\n  AND t.{_END} IS NULL AND {matches}")


def truncate(on: CatalogCursor, replica: Replica, ordinal: int, at: datetime) -> None:
    """Every open version ends; those of the same commit never were."""
    history = require_history(on, replica, [])
    on.execute(f"DELETE FROM {history.sql}\nWHERE {_END} IS NULL AND {_LSN} = {int(ordinal)}")  # noqa: S608
    on.execute(f"UPDATE {history.sql} AS t\nSET {_end_at('$1')}\nWHERE {_END} IS NULL", [at])


def join(on: CatalogCursor, replica: Replica, staged: Staged, at: datetime) -> None:
    """Begin the history with a staged copy, or bring it to that."""
    name, copy = replica.history_name, on.sql_name(staged.staging)
    columns = [quote_identifier(column.name) for column in staged.load.table.columns]
    begun = (
        f"SELECT {', '.join(columns)}, ?::TIMESTAMPTZ AS {_BEGIN}, NULL::TIMESTAMPTZ AS {_END}, NULL::BIGINT AS {_LSN}"
    )
    if on.find_table(name) is None:
        on.execute(f"DROP VIEW IF EXISTS {on.sql_name(name)}")
        on.execute(f"CREATE TABLE {on.sql_name(name)} AS\n{begun}\nFROM {copy}", [at])
        return
    standing = on.find_table(name)
    assert standing is not None
    refuse_other_history(replica, map(fold_case, standing.columns))
    evolve(on, staged, standing)
    history = require_history(on, replica, [column.name for column in staged.load.table.columns])
    equal = [
        f"{own} IS NOT DISTINCT FROM {given}"
        for c in staged.load.table.columns
        for own, given in zip(
            as_written(f"t.{history.column(c.name)}", history.type(c.name)),
            as_written(f"s.{quote_identifier(c.name)}", history.type(c.name)),
            strict=True,
        )
    ]
    matches = [
        f"{as_key(f't.{history.column(c)}', history.type(c))} = {as_key(f's.{quote_identifier(c)}', history.type(c))}"
        for c in replica.table.key
    ]
    on.execute(
        f"UPDATE {history.sql} AS t\n"  # noqa: S608
        f"SET {_END} = greatest(?, t.{_BEGIN})\n"
        f"WHERE {_END} IS NULL AND NOT EXISTS (SELECT 1 FROM {copy} AS s WHERE {' AND '.join(equal)})",
        [at],
    )
    targets = ", ".join([*(history.column(c.name) for c in staged.load.table.columns), _BEGIN, _END, _LSN])
    on.execute(
        f"INSERT INTO {history.sql} ({targets})\n"  # noqa: S608
        f"{begun}\n"
        f"FROM {copy} AS s\n"
        f"WHERE NOT EXISTS (SELECT 1 FROM {history.sql} AS t WHERE t.{_END} IS NULL AND {' AND '.join(matches)})",
        [at],
    )
