# ruff: noqa: S608  (names are quoted)
"""The state that a log of changes stands for, in Postgres's SQL: each key's last row after the last truncate; without a
key each row as often as it came more than it went.

Rows of a copy have no LSN. They come first in the log, or, where the table was copied anew, after a truncate without an
LSN: what transactions before that one wrote is over. Everything else is ordered by `_lsn, _seq`. A value that an update
did not send is the last one that was sent for the row before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dbt_bridge.connectors.postgres.destination.column_types import base
from dbt_bridge.connectors.postgres.destination.keyless import EXACT
from dbt_bridge.contracts.destination import (
    CHANGE,
    CHANGE_LSN,
    COMMITTED_AT,
    Replica,
)
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.table import quote_identifier, quote_literal
from dbt_bridge.replicate.change_log import SEQUENCE, UNCHANGED
from dbt_bridge.replicate.log_state import ORDER, change_before, count_owing, sum_log
from dbt_bridge.replicate.replica_checks import copied_anew, refuse_owing, refuse_unsent

Row = Callable[[str], tuple[object, ...]]
"""Runs a query, answers its first row."""


def folded(replica: Replica, table: str, columns: Mapping[str, str], row: Row) -> str:
    """SQL, in brackets, of the state of a log.

    Args:
        columns: of the log: name -> type, as `format_type` spells it.

    Raises:
        DestinationError: no state can be told from it.
    """
    log = f"({_since_copied(table)})"
    copies, unsent = row(
        f'SELECT count(DISTINCT "{COMMITTED_AT}") FILTER (WHERE "{CHANGE_LSN}" IS NULL),\n'
        f'  count(*) FILTER (WHERE cardinality("{UNCHANGED}") > 0)\nFROM {log} AS log'
    )
    if int(str(copies)) > 1:
        raise DestinationError(
            f"{replica.table.name} is a log of several copies whose order its rows do not tell any more, as the table"
            " was rewritten",
            mend=copied_anew(replica.node),
        )
    if not replica.table.key:
        return _summed(replica, log, columns, row)
    keys = ", ".join(quote_identifier(name) for name in replica.table.key)
    names = _unsent(replica, log, keys, columns, row) if unsent else []
    parts = [
        quote_identifier(c.name) if c.name not in names else f"{_last_sent(c.name, keys)}"
        for c in replica.table.columns
    ]
    extra = [] if any(c.name == CHANGE for c in replica.table.columns) else [f'"{CHANGE}"']
    last = f"row_number() OVER (PARTITION BY {keys} ORDER BY {ORDER}) AS _dbt_bridge_age"
    numbered = f"SELECT {', '.join([*parts, *extra, last])} FROM {log} AS log"
    return f"(SELECT * FROM ({numbered}) AS numbered WHERE _dbt_bridge_age = 1 AND \"{CHANGE}\" <> 'delete')"


def _summed(replica: Replica, log: str, columns: Mapping[str, str], row: Row) -> str:
    """The state without a key. Values are told apart as `postgres_keyless` does."""
    removed = f"count(*) FILTER (WHERE \"{CHANGE}\" = 'delete')"
    unsent = f'count(*) FILTER (WHERE cardinality("{UNCHANGED}") > 0)'
    deletes, kept = row(f"SELECT {removed}, {unsent} FROM {log} AS log")
    refuse_unsent(replica, int(str(kept)))
    if not deletes:
        return log
    names = [column.name for column in replica.table.columns]
    apart = [
        quote_identifier(n) if base(columns[n]) in EXACT else f"CAST({quote_identifier(n)} AS text)" for n in names
    ]
    (owing,) = row(count_owing(log, apart))
    refuse_owing(replica, int(str(owing)))
    return f"({sum_log(log, apart)})"


def _since_copied(table: str) -> str:
    """The rows from the last copy on: `age` tells in which order transactions wrote, also of frozen rows."""
    copied = f'SELECT min(age(xmin)) FROM {table} WHERE "{CHANGE}" = \'truncate\' AND "{CHANGE_LSN}" IS NULL'
    last = f"SELECT * FROM {table} WHERE age(xmin) <= coalesce(({copied}), 2147483647)"
    emptied = (
        f'SELECT "{CHANGE_LSN}" AS lsn, "{SEQUENCE}" AS seq FROM last_copy\n'
        f'WHERE "{CHANGE}" = \'truncate\' AND "{CHANGE_LSN}" IS NOT NULL\nORDER BY {ORDER} LIMIT 1'
    )
    after = f'(coalesce("{CHANGE_LSN}", -1), "{SEQUENCE}") > (emptied.lsn, emptied.seq)'
    return (
        f"WITH last_copy AS ({last}), emptied AS ({emptied})\n"
        f"SELECT last_copy.* FROM last_copy LEFT JOIN emptied ON true\n"
        f"WHERE \"{CHANGE}\" <> 'truncate' AND (emptied.lsn IS NULL OR {after})"
    )


def _unsent(replica: Replica, log: str, keys: str, columns: Mapping[str, str], row: Row) -> list[str]:
    """The columns of which some values were not sent, after a look at whether the last that were are told."""
    before = f"{change_before(keys)} AS before"
    names, moved, unsent = row(
        f'SELECT (SELECT array_agg(DISTINCT name) FROM {log} AS log, unnest("{UNCHANGED}") AS name),\n'
        f'  (SELECT count(*) FROM (SELECT "{UNCHANGED}", {before} FROM {log} AS log) AS moves\n'
        f"   WHERE cardinality(\"{UNCHANGED}\") > 0 AND coalesce(before, 'delete') = 'delete'),\n"
        f'  (SELECT count(*) FROM {log} AS log WHERE cardinality("{UNCHANGED}") > 0)'
    )
    assert isinstance(names, list), "there are some"
    is_known = set(names) <= set(columns)
    refuse_unsent(replica, int(str(moved if is_known else unsent)))
    return names


def _last_sent(name: str, keys: str) -> str:
    kept = f'coalesce({quote_literal(name)} = ANY ("{UNCHANGED}"), false)'
    column = quote_identifier(name)
    return f"first_value({column}) OVER (PARTITION BY {keys} ORDER BY {kept}, {ORDER}) AS {column}"
