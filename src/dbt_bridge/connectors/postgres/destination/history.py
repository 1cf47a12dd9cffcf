"""A landing table's history in Postgres: every committed version of each row, beside the current state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import Cursor, sql

from dbt_bridge.connectors.postgres.destination.column_types import is_written_in_several_forms, landing_type
from dbt_bridge.connectors.postgres.destination.landing_table import (
    TIME,
    ensure_key,
    join_list,
    quote_identifiers,
    require_table,
    same_key,
    value,
)
from dbt_bridge.connectors.postgres.destination.locks import do_when_free
from dbt_bridge.connectors.postgres.destination.relation import Relation, find_relation, identifier
from dbt_bridge.contracts.destination import (
    CHANGE_LSN,
    DELETED_AT,
    VALID_FROM,
    VALID_TO,
    Replica,
)
from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.changes import Truncated
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.replicate.compaction import UTC_TIME, Versions
from dbt_bridge.replicate.merge_rows import DO, Staging, build_staging
from dbt_bridge.replicate.replica_checks import recopy_command, refuse_other_history

OWN = (
    Column(VALID_FROM, UTC_TIME, TIME),
    Column(VALID_TO, UTC_TIME, TIME),
    Column(CHANGE_LSN, pa.int64(), "bigint"),
)
_OPEN = f' WHERE "{VALID_TO}" IS NULL'
_CLOSED, _CONTINUED, _VERSION = 0, 1, 2


def require_history(cur: Cursor[Any], replica: Replica) -> Relation:
    """The history as it must stand; see `landing_table.checked`."""
    history = require_table(cur, replica, replica.history_name, {c.name: c.origin_type for c in OWN})
    ensure_key(cur, replica, history, _OPEN)
    return history


def stage_versions(replica: Replica, versions: Versions) -> Staging:
    """The new versions, and the keys whose open version ends, as one table to stage."""
    closed = versions.closed.append_column(DO, pa.array(np.full(len(versions.closed), _CLOSED), pa.int16()))
    continued = versions.continued.append_column(DO, pa.array(np.full(len(versions.continued), _CONTINUED), pa.int16()))
    ended = pa.concat_tables([closed, continued], promote_options="default")
    return build_staging(replica, OWN, versions.written, ended, np.full(len(versions.written), _VERSION))


@dataclass(frozen=True, slots=True)
class StagedVersions:
    """New versions that wait in a table.

    Attributes:
        first_lsn: of the run's first transaction.
    """

    table: TableName
    staging: Staging
    first_lsn: int


def write(cur: Cursor[Any], replica: Replica, into: Relation, history: Relation, staged: StagedVersions) -> None:
    """Add staged versions, before the landing table itself is written: it has the values that were not sent."""
    names = {
        "history": identifier(history.name),
        "staged": identifier(staged.table),
        "same": same_key(replica, history),
        "to": sql.Identifier(VALID_TO),
        "lsn": sql.Identifier(CHANGE_LSN),
        "do": sql.Identifier("s", DO),
    }
    cur.execute(
        sql.SQL(
            "DELETE FROM {history} AS t\nUSING {staged} AS s\n"
            "WHERE {do} = {continued} AND {same} AND t.{to} IS NULL AND t.{lsn} = {first}"
        ).format(**names, continued=sql.Literal(_CONTINUED), first=sql.Literal(staged.first_lsn))
    )
    if any(map(is_written_in_several_forms, (c for c in replica.table.columns if c.name in replica.table.key))):
        _keep_first_ends(cur, replica, history, names)
    cur.execute(
        sql.SQL(
            "UPDATE {history} AS t\nSET {ends}\nFROM {staged} AS s\nWHERE {do} = {closed} AND {same} AND t.{to} IS NULL"
        ).format(**names, closed=sql.Literal(_CLOSED), ends=_end_at(sql.Identifier("s", VALID_TO)))
    )
    _insert(cur, replica, into, history, staged.staging, names)


def _end_at(moment: sql.Composable) -> sql.Composable:
    """An open version ends, and not before it begins: a copy's, whose time is read after its snapshot, begins then."""
    return sql.SQL(
        "{to} = CASE WHEN t.{lsn} IS NULL THEN {moment} ELSE greatest({moment}, t.{from}) END,\n"
        "    {from} = CASE WHEN t.{lsn} IS NULL THEN least({moment}, t.{from}) ELSE t.{from} END"
    ).format(
        **{"to": sql.Identifier(VALID_TO), "lsn": sql.Identifier(CHANGE_LSN), "from": sql.Identifier(VALID_FROM)},
        moment=moment,
    )


def _keep_first_ends(cur: Cursor[Any], replica: Replica, history: Relation, names: dict[str, sql.Composable]) -> None:
    """Of a key in several forms (1.0, then 1.00) the open version ended when the first of them changed."""
    alike = [
        sql.SQL("{} = {}").format(value(column, history, "s"), value(column, history, "w"))
        for column in replica.table.columns
        if column.name in replica.table.key
    ]
    cur.execute(
        sql.SQL(
            "DELETE FROM {staged} AS s\nUSING {staged} AS w\n"
            "WHERE {do} = {closed} AND {other} = {closed} AND (w.{to}, w.ctid) < (s.{to}, s.ctid) AND {alike}"
        ).format(
            **names, closed=sql.Literal(_CLOSED), other=sql.Identifier("w", DO), alike=sql.SQL(" AND ").join(alike)
        )
    )


def _insert(
    cur: Cursor[Any],
    replica: Replica,
    into: Relation,
    history: Relation,
    how: Staging,
    names: dict[str, sql.Composable],
) -> None:
    values = []
    for column in how.columns:
        new = value(column, history)
        if column.name in how.kept:
            flag = sql.Identifier("s", how.kept[column.name])
            new = sql.SQL("CASE WHEN {} THEN t.{} ELSE {} END").format(flag, sql.Identifier(column.name), new)
        values.append(new)
    source: sql.Composable = sql.SQL("{staged} AS s").format(**names)
    if how.kept:
        _refuse_missing(cur, replica, into, how, names)
        source = sql.SQL("{staged} AS s LEFT JOIN {target} AS t ON {found}").format(
            **names, target=identifier(into.name), found=same_key(replica, into, how.found)
        )
    cur.execute(
        sql.SQL("INSERT INTO {history} ({columns})\nSELECT {values}\nFROM {source}\nWHERE {do} = {version}").format(
            **names,
            columns=quote_identifiers([c.name for c in how.columns]),
            values=join_list(values),
            source=source,
            version=sql.Literal(_VERSION),
        )
    )


def _refuse_missing(
    cur: Cursor[Any], replica: Replica, into: Relation, how: Staging, names: dict[str, sql.Composable]
) -> None:
    keeps = sql.SQL(" OR ").join([sql.Identifier("s", flag) for flag in how.kept.values()])
    cur.execute(
        sql.SQL(
            "SELECT 1\nFROM {staged} AS s\n"
            "WHERE ({keeps}) AND NOT EXISTS (SELECT FROM {target} AS t WHERE {found})\nLIMIT 1"
        ).format(**names, keeps=keeps, target=identifier(into.name), found=same_key(replica, into, how.found))
    )
    if cur.fetchone() is not None:
        raise KeyRefused(
            f"rows of {into.name} are not there any more, and changes of them do not bring every value",
            mend=recopy_command(replica.node),
        )


def truncate(cur: Cursor[Any], history: Relation, event: Truncated) -> None:
    """Every open version ends; one that the same transaction wrote was never committed."""
    names = {"history": identifier(history.name), "to": sql.Identifier(VALID_TO), "lsn": sql.Identifier(CHANGE_LSN)}
    cur.execute(
        sql.SQL("DELETE FROM {history} WHERE {to} IS NULL AND {lsn} = {at}").format(
            **names, at=sql.Literal(event.ordinal)
        )
    )
    cur.execute(
        sql.SQL("UPDATE {history} AS t SET {ends} WHERE {to} IS NULL").format(
            **names, ends=_end_at(moment_literal(event.committed_at))
        )
    )


def moment_literal(microseconds: int) -> sql.Composable:
    """A moment as Postgres reads it exactly: a float would lose microseconds."""
    return sql.SQL("(timestamptz '1970-01-01 00:00:00+00' + {} * interval '1 microsecond')").format(
        sql.Literal(microseconds)
    )


def join(cur: Cursor[Any], replica: Replica, into: Relation, copied_at: int) -> None:
    """Begin the history with the copy, or go on with one that stands: what differs from its open versions is new."""
    names: dict[str, sql.Composable] = {
        "history": identifier(replica.history_name),
        "target": identifier(into.name),
        "columns": quote_identifiers([c.name for c in replica.table.columns]),
        "from": sql.Identifier(VALID_FROM),
        "to": sql.Identifier(VALID_TO),
        "lsn": sql.Identifier(CHANGE_LSN),
        "at": moment_literal(copied_at),
        "alive": sql.SQL("t.{} IS NULL").format(sql.Identifier(DELETED_AT))
        if replica.deletes == "soft"
        else sql.SQL("true"),
        "same": sql.SQL(" AND ").join([sql.SQL("t.{0} = h.{0}").format(sql.Identifier(k)) for k in replica.table.key]),
    }
    _create(cur, replica, names)
    history = require_history(cur, replica)
    cur.execute(
        sql.SQL(
            "UPDATE {history} AS h\nSET {to} = greatest({at}, h.{from})\nWHERE h.{to} IS NULL AND NOT EXISTS (\n"
            "  SELECT FROM {target} AS t WHERE {same} AND {alive} AND {alike})"
        ).format(**names, alike=_alike(replica, history))
    )
    cur.execute(
        sql.SQL(
            "INSERT INTO {history} ({columns}, {from})\nSELECT {columns}, {at}\nFROM {target} AS t\n"
            "WHERE {alive} AND NOT EXISTS (SELECT FROM {history} AS h WHERE h.{to} IS NULL AND {same})"
        ).format(**names)
    )


def _alike(replica: Replica, history: Relation) -> sql.Composable:
    """As the server prints them: not every type has an equality, and 1.0 is another version than 1.00."""
    parts = [
        sql.SQL("CAST(t.{0} AS text) IS NOT DISTINCT FROM CAST(h.{0} AS text)").format(sql.Identifier(c.name))
        for c in replica.table.columns
    ]
    return sql.SQL(" AND ").join(parts)


def _create(cur: Cursor[Any], replica: Replica, names: dict[str, sql.Composable]) -> None:
    columns = (*replica.table.columns, *OWN)
    definitions = [sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(_type(c))) for c in columns]
    there = find_relation(cur, replica.history_name)
    if there is None:
        cur.execute(
            sql.SQL("CREATE TABLE {history} ({definitions})").format(**names, definitions=join_list(definitions))
        )
        return
    refuse_other_history(replica, there.columns)
    for column, definition in zip(columns, definitions, strict=True):
        if column.name not in there.columns:
            add = sql.SQL("ALTER TABLE {history} ADD COLUMN {definition}").format(**names, definition=definition)
            do_when_free(cur, replica.history_name, partial(cur.execute, add))


def _type(column: Column) -> str:
    return column.origin_type if column in OWN else landing_type(column)
