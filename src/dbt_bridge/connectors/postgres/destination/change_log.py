# ruff: noqa: S608  (names are quoted)
"""A log of changes in Postgres: a landing table that keeps every change as a row, and the state that it stands for.

How a log stands for a state is in `replicate/log_state.py`; in Postgres the age of a row's transaction tells what was
written before the table was copied anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination.column_types import base, landing_type
from dbt_bridge.connectors.postgres.destination.history import moment_literal
from dbt_bridge.connectors.postgres.destination.keyless import EXACT
from dbt_bridge.connectors.postgres.destination.landing_table import join_list, quote_identifiers, value
from dbt_bridge.connectors.postgres.destination.locks import do_when_free
from dbt_bridge.connectors.postgres.destination.publish import publish_one
from dbt_bridge.connectors.postgres.destination.relation import Relation, find_table, identifier
from dbt_bridge.contracts.destination import (
    CHANGE,
    CHANGE_LSN,
    COMMITTED_AT,
    Loaded,
    Replica,
    Staged,
)
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.table import Column, TableName, quote_identifier, quote_literal
from dbt_bridge.replicate.change_log import LOG_COLUMNS, SEQUENCE, UNCHANGED
from dbt_bridge.replicate.log_state import ORDER, change_before, count_owing, sum_log
from dbt_bridge.replicate.replica_checks import recopy_command, refuse_owing, refuse_unsent

Row = Callable[[str], tuple[object, ...]]
"""Runs a query, answers its first row."""
OWN = tuple(Column(name, type_) for name, type_ in LOG_COLUMNS.items())
OWN_TYPES = {column.name: landing_type(column) for column in OWN}


def join(cur: Cursor[Any], replica: Replica, staged: Staged, copied_at: int) -> Loaded:
    """Begin the log with a copy's rows; a log that stands goes on, with a truncate before them."""
    name = replica.table.name
    there = find_table(cur, name)
    goes_on = there is not None and CHANGE in there.columns
    names: dict[str, sql.Composable] = {
        "target": identifier(name),
        "change": sql.Identifier(CHANGE),
        "at": sql.Identifier(COMMITTED_AT),
        "copied_at": moment_literal(copied_at),
    }
    if goes_on:
        cur.execute(
            sql.SQL("INSERT INTO {target} ({change}, {seq}, {at}) VALUES ('truncate', 0, {copied_at})").format(
                **names, seq=sql.Identifier(SEQUENCE)
            )
        )
    loaded = publish_one(cur, replace(staged, load=replace(staged.load, write_disposition=_disposition(goes_on))))
    for column in OWN:
        add = sql.SQL("ALTER TABLE {target} ADD COLUMN IF NOT EXISTS {column} {type}").format(
            **names, column=sql.Identifier(column.name), type=sql.SQL(OWN_TYPES[column.name])
        )
        do_when_free(cur, name, partial(cur.execute, add))
    cur.execute(
        sql.SQL(
            "UPDATE {target} AS t\n"
            "SET {change} = 'insert', {at} = {copied_at}, {seq} = n.seq\n"
            "FROM (SELECT ctid, row_number() OVER () - 1 + {first} AS seq FROM {target} WHERE {change} IS NULL) AS n\n"
            "WHERE t.ctid = n.ctid"
        ).format(**names, seq=sql.Identifier(SEQUENCE), first=sql.Literal(int(goes_on)))
    )
    return loaded


def _disposition(goes_on: bool) -> Any:
    return "append" if goes_on else "replace"


def append(cur: Cursor[Any], into: Relation, columns: Sequence[Column], staged: TableName) -> int:
    """Add staged entries."""
    cur.execute(
        sql.SQL("INSERT INTO {} ({})\nSELECT {}\nFROM {} AS s").format(
            identifier(into.name),
            quote_identifiers([c.name for c in columns]),
            join_list([value(c, into) for c in columns]),
            identifier(staged),
        )
    )
    return cur.rowcount


# --- its state ------------------------------------------------------------------------------------------------------


def select_state(replica: Replica, table: str, columns: Mapping[str, str], row: Row) -> str:
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
            mend=recopy_command(replica.node),
        )
    if not replica.table.key:
        return _sum_rows(replica, log, columns, row)
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


def _sum_rows(replica: Replica, log: str, columns: Mapping[str, str], row: Row) -> str:
    """The state without a key. Values are compared as `keyless` compares them."""
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
    """The rows from the last copy on: `age` gives the order in which transactions wrote, also for frozen rows."""
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
    """The columns that have unsent values, once it is sure that the log has the last sent one of each."""
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
