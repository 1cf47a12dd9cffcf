"""The history of a landing table in Delta: every committed version of each row, in a table of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dbt_bridge.arrow.file_types import build_schema, fit_schema
from dbt_bridge.arrow.vectors import to_arrow
from dbt_bridge.connectors.lake.delta.landing_table import (
    FollowedTable,
    build_same_key,
    format_moment,
    prunes_exactly,
    refuse_missing,
    regroup,
)
from dbt_bridge.connectors.lake.delta.session import DeltaSession, query
from dbt_bridge.contracts.destination import (
    CHANGE_LSN,
    DELETED_AT,
    VALID_FROM,
    VALID_TO,
    Replica,
)
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.changes import Changes, Truncated
from dbt_bridge.nouns.table import Column, Table, quote_identifier
from dbt_bridge.replicate.change_runs import select_part
from dbt_bridge.replicate.compaction import UTC_TIME, Lineages, Versions
from dbt_bridge.replicate.key_codes import encode_rows, match_rows
from dbt_bridge.replicate.merge_rows import DO, build_staging
from dbt_bridge.replicate.replica_checks import recopy_command, refuse_other_history

OWN = (Column(VALID_FROM, UTC_TIME), Column(VALID_TO, UTC_TIME), Column(CHANGE_LSN, pa.int64()))
_CLOSED, _CONTINUED, _VERSION = 0, 1, 2


def write(
    replica: Replica,
    landing: FollowedTable,
    past: FollowedTable,
    runs: Sequence[Changes | Truncated],
    upto: int | None,
) -> None:
    """Add what happened since the history's own LSN; the landing table still stands there.

    Several runs are several commits, and between them the landing table has not moved: a run after a TRUNCATE begins
    with no rows, so it needs none of its values.
    """
    left = [run for run in (select_part(run, past.position, None) for run in runs) if run is not None]
    for i, run in enumerate(left):
        step = _build_truncate(past, run) if isinstance(run, Truncated) else _versions(replica, landing, past, run)
        if upto is not None and i + 1 == len(left):
            past.last_step(step, upto)
        else:
            past.step(step)
    if upto is not None and not left:
        past.last_step(None, upto)


def _build_truncate(past: FollowedTable, run: Truncated) -> Any:
    """Every open version ends; one that the same transaction wrote was never committed."""
    is_open = f"t.{quote_identifier(VALID_TO)} IS NULL"
    one = pa.table({DO: pa.array([_CLOSED], pa.int16())})

    def step(properties: Any) -> Any:
        merger = past.delta.merge(one, is_open, "s", "t", commit_properties=properties)
        merger = merger.when_matched_delete(f"t.{quote_identifier(CHANGE_LSN)} = {run.ordinal}")
        return merger.when_matched_update(_end_at(format_moment(run.committed_at))).execute()

    return step


def _versions(replica: Replica, landing: FollowedTable, past: FollowedTable, run: Changes) -> Any:
    versions = Lineages.of(replica.table, run).versions()
    return _merge(replica, past, _stage_versions(replica, landing, past, versions), int(run.ordinal[0]))


def _merge(replica: Replica, past: FollowedTable, rows: pa.Table, first_lsn: int) -> Any:
    do, to = f"s.{quote_identifier(DO)}", quote_identifier(VALID_TO)
    inserts = {quote_identifier(c.name): f"s.{quote_identifier(c.name)}" for c in (*replica.table.columns, *OWN)}

    def step(properties: Any) -> Any:
        same = build_same_key(rows.schema, replica.table.key)
        merger = past.delta.merge(
            rows,
            predicate=f"{same} AND {do} <> {_VERSION} AND t.{to} IS NULL",
            source_alias="s",
            target_alias="t",
            streamed_exec=not prunes_exactly(rows, replica.table.key),
            commit_properties=properties,
        )
        merger = merger.when_matched_delete(f"{do} = {_CONTINUED} AND t.{quote_identifier(CHANGE_LSN)} = {first_lsn}")
        merger = merger.when_matched_update(_end_at(f"s.{to}"))
        return merger.when_not_matched_insert(inserts, predicate=f"{do} = {_VERSION}").execute()

    return step


def _end_at(moment: str) -> dict[str, str]:
    """An open version ends, and not before it begins: a copy's, whose time is read after its snapshot, begins then."""
    begin, lsn = f"t.{quote_identifier(VALID_FROM)}", f"t.{quote_identifier(CHANGE_LSN)}"
    ends = f"CASE WHEN {lsn} IS NOT NULL AND {moment} < {begin} THEN {begin} ELSE {moment} END"
    begins = f"CASE WHEN {lsn} IS NULL AND {moment} < {begin} THEN {moment} ELSE {begin} END"
    return {quote_identifier(VALID_TO): ends, quote_identifier(VALID_FROM): begins}


def _stage_versions(replica: Replica, landing: FollowedTable, past: FollowedTable, versions: Versions) -> pa.Table:
    """The new versions with all their values, and the keys whose open version ends or (continued) never was."""
    do = np.full(len(versions.closed), _CLOSED)
    do[_places(versions.closed, versions.continued)] = _CONTINUED
    closed = versions.closed.append_column(DO, pa.array(do, pa.int16()))
    staging = build_staging(replica, OWN, versions.written, closed, np.full(len(versions.written), _VERSION))
    columns = (*staging.columns, Column(DO, pa.int16()))
    rows = past.cast_rows(columns, staging.rows.select([c.name for c in columns]))
    needing = versions.written.needing()
    if not needing.any():
        return rows
    return _fill_kept(replica, landing, versions, needing, rows)


def _places(closed: pa.Table, continued: pa.Table) -> Any:
    """Where in `closed` the keys of `continued` are."""
    return match_rows(closed.select(continued.column_names), continued)[0]


def _fill_kept(replica: Replica, landing: FollowedTable, versions: Versions, needing: Any, rows: pa.Table) -> pa.Table:
    """Values that no change brought are those of the landing table, under the key that the row has there."""
    written = versions.written
    columns = [c for c in replica.table.columns if c.name in replica.table.key]
    names = [c.name for c in columns]
    under = written.found_under if written.found_under is not None else written.rows.select(names)
    keys = landing.cast_rows(columns, under.select(names).filter(pa.array(needing)))
    distinct = keys.take(to_arrow(np.unique(encode_rows(keys.columns), return_index=True)[1]))
    there = landing.find_rows(distinct, list(written.kept))
    refuse_missing(landing.name, len(distinct), len(there), recopy_command(replica.node))
    asked, there_at = match_rows(keys, there.select(names))
    asked_at = np.flatnonzero(needing)[asked]
    for name, flags in written.kept.items():
        place = np.arange(len(rows))
        chosen = flags[asked_at]
        place[asked_at[chosen]] = len(rows) + there_at[chosen]
        both = pa.chunked_array([*rows[name].chunks, *there[name].chunks], rows[name].type)
        rows = rows.set_column(rows.column_names.index(name), name, both.take(pa.array(place)))
    return rows


def join(
    session: DeltaSession, replica: Replica, landing: FollowedTable, copied_at: int, load_id: str
) -> FollowedTable:
    """Begin the history with the copy, or go on with one that stands: what differs from its open versions is new.

    Raises:
        TypeRefused: a column has another type now, in which the history does not keep its values.
    """
    name = replica.history_name
    table = Table(name, (*replica.table.columns, *OWN))
    delta = session.open(name)
    if delta is None:
        delta = session.create(name, build_schema(table))
    past = FollowedTable(name, delta, load_id, anew=True)
    refuse_other_history(replica, past.schema.names)
    names = [c.name for c in replica.table.columns]
    listed = ", ".join(quote_identifier(n) for n in names)
    is_open = f"{quote_identifier(VALID_TO)} IS NULL"
    if query(past.delta, f"SELECT count(*) AS n FROM t WHERE {is_open}").read_all()["n"][0].as_py():  # noqa: S608
        if missing := [column for column in table.columns if column.name not in past.schema.names]:
            past.add_columns(missing)
        _refuse_other_types(past, table)
        return _go_on(replica, landing, past, copied_at)

    # A commit for each chunk: delta-rs cannot write what it reads at the same time.
    for chunk in regroup(query(landing.delta, f"SELECT {listed} FROM t{alive(replica)}")):  # noqa: S608
        at = pa.array(np.full(len(chunk), copied_at)).cast(UTC_TIME)
        rows = chunk.append_column(VALID_FROM, at).append_column(VALID_TO, pa.nulls(len(chunk), UTC_TIME))
        past.append(rows.append_column(CHANGE_LSN, pa.nulls(len(rows), pa.int64())).cast(build_schema(table)))
    return past


def _refuse_other_types(past: FollowedTable, table: Table) -> None:
    try:
        fit_schema(past.schema, build_schema(table), table)
    except TypeRefused as refused:
        mend = f"`types:` that keep the old one, or move the folder of {table.name} away: a new history begins"
        raise TypeRefused(refused.what, mend=mend) from None


def alive(replica: Replica) -> str:
    return f" WHERE {quote_identifier(DELETED_AT)} IS NULL" if replica.deletes == "soft" else ""


def _go_on(replica: Replica, landing: FollowedTable, past: FollowedTable, copied_at: int) -> FollowedTable:
    """Close the open versions that the copy does not agree with, and begin new ones."""
    names = [c.name for c in replica.table.columns]
    key = [quote_identifier(k) for k in replica.table.key]
    alike = " AND ".join(
        [f"t.{k} = h.{k}" for k in key]
        + [f"(t.{quote_identifier(n)} IS NOT DISTINCT FROM h.{quote_identifier(n)})" for n in names]
    )
    is_open = f"h.{quote_identifier(VALID_TO)} IS NULL"
    both = {"t": landing.delta, "h": past.delta}
    ended = query(
        both,
        f"SELECT {', '.join(f'h.{k}' for k in key)} FROM h LEFT ANTI JOIN"  # noqa: S608
        f" (SELECT * FROM t{alive(replica)}) AS t ON {alike} WHERE {is_open}",
    ).read_all()
    begun = query(
        both,
        f"SELECT {', '.join(f't.{quote_identifier(n)}' for n in names)} FROM (SELECT * FROM t{alive(replica)}) AS t"  # noqa: S608
        " LEFT ANTI JOIN"
        f" (SELECT * FROM h WHERE {is_open}) AS h ON {alike}",
    ).read_all()
    at = pa.scalar(copied_at, pa.int64()).cast(UTC_TIME)
    closed = ended.append_column(VALID_TO, pa.repeat(at, len(ended)))
    closed = closed.append_column(DO, pa.array(np.full(len(ended), _CLOSED), pa.int16()))
    new = begun.append_column(VALID_FROM, pa.repeat(at, len(begun)))
    new = new.append_column(DO, pa.array(np.full(len(begun), _VERSION), pa.int16()))
    rows = pa.concat_tables([new, closed], promote_options="permissive")
    for column in OWN:
        if column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    if len(rows):
        past.step(_merge(replica, past, rows, first_lsn=-1))
    return past
