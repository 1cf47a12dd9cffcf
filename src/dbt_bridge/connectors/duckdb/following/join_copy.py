"""A staged initial copy takes the place of a DuckDB table that follows its origin from then on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dbt_bridge.connectors.duckdb.following import history
from dbt_bridge.connectors.duckdb.publish import evolve, is_kept, publish_one
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, Relation, fold_case
from dbt_bridge.contracts.destination import (
    CHANGE,
    CHANGE_LSN,
    COMMITTED_AT,
    DELETED_AT,
    Loaded,
    Replica,
    Staged,
)
from dbt_bridge.nouns.table import quote_identifier
from dbt_bridge.replicate.change_log import LOG_COLUMNS, SEQUENCE, UNCHANGED
from dbt_bridge.replicate.loads import type_changed
from dbt_bridge.replicate.replica_checks import check_names

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(microseconds: int) -> datetime:
    """A moment since 1970, without the rounding of a float."""
    return _EPOCH + timedelta(microseconds=microseconds)


def join(on: CatalogCursor, replica: Replica, staged: Staged, copied_at: int) -> Loaded:
    """Show the copy, with what the replica keeps beside its columns.

    Raises:
        TypeRefused: a column of the origin has a name that the replica needs, or rows to keep do not fit it.
        KeyRefused: a history of a table without a key.
    """
    check_names(replica, fold_case)
    at = to_datetime(copied_at)
    if replica.change_log:
        return _join_log(on, replica, staged, at)
    if replica.history:
        history.join(on, replica, staged, at)
    kept = _keep_deleted(on, replica, staged, at) if replica.deletes == "soft" else 0
    loaded = publish_one(on, staged)
    deleted = None if loaded.rows_deleted is None else loaded.rows_deleted - kept
    return Loaded(staged.rows, staged.rows, 0, deleted, staged.bytes)


def _keep_deleted(on: CatalogCursor, replica: Replica, staged: Staged, at: datetime) -> int:
    """Rows that the standing table has and the copy has not stay, as deleted; answers how many."""
    copy, deleted_at = on.sql_name(staged.staging), quote_identifier(DELETED_AT)
    on.execute(f"ALTER TABLE {copy} ADD COLUMN {deleted_at} TIMESTAMPTZ")
    standing = on.find_table(replica.table.name)
    if standing is None or any(standing.column(c) is None for c in replica.table.key):
        return 0
    source = on.find_relation(staged.staging)
    assert source is not None
    pairs = {c: standing.column(c) for c in source.columns if c != DELETED_AT and standing.column(c)}
    marked = standing.column(DELETED_AT) is not None
    dead = 't."_deleted_at"' if marked else "NULL"
    old = on.sql_name(standing.name)
    selected = ", ".join(f"t.{quote_identifier(there or c)} AS {quote_identifier(c)}" for c, there in pairs.items())
    names = ", ".join(quote_identifier(c) for c in pairs)
    if replica.table.key:
        matches = " AND ".join(
            f"t.{quote_identifier(pairs[c] or c)} = s.{quote_identifier(c)}" for c in replica.table.key
        )
        absent = (
            f"SELECT {selected}, coalesce({dead}, ?) AS {deleted_at}\n"  # noqa: S608
            f"FROM {old} AS t\nWHERE NOT EXISTS (SELECT 1 FROM {copy} AS s WHERE {matches})"
        )
    else:
        alive = f"WHERE {dead} IS NULL" if marked else ""
        absent = (
            f"SELECT *, ? AS {deleted_at} FROM (SELECT {selected} FROM {old} AS t {alive} "  # noqa: S608
            f"EXCEPT ALL SELECT {names} FROM {copy})"
        )
        if marked:
            absent += f"\nUNION ALL SELECT {selected}, {dead} FROM {old} AS t WHERE {dead} IS NOT NULL"  # noqa: S608
    on.execute(f"CREATE OR REPLACE TEMP TABLE _dbt_bridge_dead AS\n{absent}", [at])
    _check_dead(on, standing, pairs, source)
    kept = on.scalar(f"INSERT INTO {copy} ({names}, {deleted_at})\nSELECT {names}, {deleted_at}\nFROM _dbt_bridge_dead")
    on.execute("DROP TABLE temp._dbt_bridge_dead")
    return int(kept)


def _check_dead(on: CatalogCursor, standing: Relation, pairs: dict[str, str | None], source: Relation) -> None:
    for column, there in pairs.items():
        before, after = standing.columns[there or column], source.columns[column]
        if before != after and not is_kept(on, "_dbt_bridge_dead", column, before, after):
            raise type_changed(standing.name, column, before, after)


def _join_log(on: CatalogCursor, replica: Replica, staged: Staged, at: datetime) -> Loaded:
    """Log the copy: inserts, after a truncate where there is a log already."""
    name, copy = on.sql_name(replica.table.name), on.sql_name(staged.staging)
    standing = on.find_table(replica.table.name)
    logs = standing is not None and all(standing.column(c) for c in LOG_COLUMNS)
    source = on.find_relation(staged.staging)
    assert source is not None
    columns = ", ".join(quote_identifier(c) for c in source.columns)
    own = ", ".join(quote_identifier(c) for c in (CHANGE, CHANGE_LSN, SEQUENCE, COMMITTED_AT, UNCHANGED))
    first = 1 if logs else 0
    rows = (
        f"SELECT {columns}, 'insert' AS {quote_identifier(CHANGE)}, NULL::BIGINT AS {quote_identifier(CHANGE_LSN)},\n"
        f"  row_number() OVER () - 1 + {first} AS {quote_identifier(SEQUENCE)},\n"
        f"  ?::TIMESTAMPTZ AS {quote_identifier(COMMITTED_AT)},\n"
        f"  NULL::VARCHAR[] AS {quote_identifier(UNCHANGED)}\nFROM {copy}"
    )
    if standing is not None and logs:
        evolve(on, staged, standing)
        on.execute(f"INSERT INTO {name} ({own})\nVALUES ('truncate', NULL, 0, ?, NULL)", [at])
        on.execute(f"INSERT INTO {name} ({columns}, {own})\n{rows}", [at])
    else:
        on.execute(f"DROP {'TABLE' if standing else 'VIEW'} IF EXISTS {name}")
        on.execute(f"CREATE TABLE {name} AS\n{rows}", [at])
    on.execute(f"DROP TABLE {copy}")
    return Loaded(staged.rows, staged.rows, 0, 0, staged.bytes)
