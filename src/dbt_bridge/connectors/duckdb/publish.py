"""A staged table takes its place in DuckDB: replace, append or merge, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from dbt_bridge.arrow.calendar import parse_moment
from dbt_bridge.connectors.duckdb.column_types import wider
from dbt_bridge.connectors.duckdb.merge import merge_rows
from dbt_bridge.connectors.duckdb.outgoing.fitting import check_fit, tell_refusal
from dbt_bridge.connectors.duckdb.outgoing.marks import forget, remember
from dbt_bridge.connectors.duckdb.relation import CatalogCursor, Relation, fold_case
from dbt_bridge.connectors.duckdb.session import is_conflict
from dbt_bridge.contracts.destination import (
    Load,
    Loaded,
    Staged,
    Window,
)
from dbt_bridge.contracts.outgoing import CREATED, describe_added, describe_altered
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_literal
from dbt_bridge.replicate.loads import check_cursor, type_changed

_TEXTS = ("VARCHAR", "JSON")
_GONE = "_dbt_bridge_gone"
_DAY = 86_400_000_000  # microseconds


def refuse_one_place(staged: Sequence[Staged]) -> None:
    """Two tables whose names differ in case alone would replace each other.

    Raises:
        DestinationError: names both.
    """
    seen: dict[tuple[str, str], TableName] = {}
    for name in (one.load.table.name for one in staged):
        other = seen.setdefault((fold_case(name.schema), fold_case(name.name)), name)
        if other != name:
            raise DestinationError(
                f"{other} and {name} are one table to DuckDB, which does not tell upper from lower case",
                mend="land one of them in another `schema:`, or leave it out with `exclude:`",
            )


def publish_one(on: CatalogCursor, staged: Staged) -> Loaded:
    """Put one staged table in its place. What a delivery finds there and is not its own is never altered unasked."""
    standing = on.find_table(staged.load.table.name)
    if standing is None:
        if staged.load.delivery is not None:
            forget(on, staged.load.table.name)
        loaded = _put(on, staged, None)
    elif staged.load.delivery is None:
        return _write(on, staged, standing)
    else:
        try:
            loaded = _write(on, staged, standing)
        except (duckdb.ConstraintException, duckdb.BinderException, duckdb.ConversionException) as error:
            if is_conflict(error):
                raise
            raise tell_refusal(standing, error) from error
    remember(on, staged.load.table.name, staged.load.delivery, staged.load.load_id)
    return loaded


def _write(on: CatalogCursor, staged: Staged, standing: Relation) -> Loaded:
    load = staged.load
    if load.write_disposition == "replace":
        is_replaceable = _is_replaceable(on, staged, standing)
        return _put(on, staged, standing) if is_replaceable else _replace_rows(on, staged, standing)
    changes = _prepare(on, staged, standing)
    into = on.find_table(load.table.name)
    assert into is not None
    if load.write_disposition == "merge":
        deleted = _delete_keys(on, staged, into)
        inserted, updated = merge_rows(on, staged, into)
        loaded = Loaded(staged.rows, inserted, updated, deleted, staged.bytes, changes)
    else:
        deleted = _delete_window(on, into, load.window) if load.window else 0
        loaded = Loaded(staged.rows, _append(on, staged, into), 0, deleted, staged.bytes, changes)
    on.execute(f"DROP TABLE {on.sql_name(staged.staging)}")
    return loaded


def _is_replaceable(on: CatalogCursor, staged: Staged, standing: Relation) -> bool:
    """Whether another table may take this one's place: nothing hangs on it, and a delivery has made it.

    A column that the rows do not bring may be one that somebody added here.
    """
    delivery = staged.load.delivery
    if delivery is not None:
        brought = {standing.column(column.name) for column in staged.load.table.columns}
        if not delivery.owns(on.find_comment(standing.name)) or standing.columns.keys() - brought:
            return False
    return on.is_bare(standing.name)


def _put(on: CatalogCursor, staged: Staged, standing: Relation | None) -> Loaded:
    """The staged table under its own name, in the place of the standing one."""
    name, delivery = staged.load.table.name, staged.load.delivery
    changes: tuple[str, ...] = (CREATED,)
    deleted = 0
    if standing is not None:
        new = on.find_relation(staged.staging)
        assert new is not None
        deleted = on.scalar(f"SELECT count(*) FROM {on.sql_name(standing.name)}")  # noqa: S608
        there = [(column, type_, standing.column(column)) for column, type_ in new.columns.items()]
        changes = tuple(
            describe_altered(before, standing.columns[before], type_) if before else describe_added(column, type_)
            for column, type_, before in there
            if before is None or standing.columns[before] != type_
        )
        on.execute(f"DROP TABLE {on.sql_name(standing.name)}")
    else:
        on.execute(f"DROP VIEW IF EXISTS {on.sql_name(name)}")
    on.execute(f"ALTER TABLE {on.sql_name(staged.staging)} RENAME TO {quote_identifier(name.name)}")
    if delivery is not None:
        on.execute(f"COMMENT ON TABLE {on.sql_name(name)} IS {quote_literal(delivery.mark)}")
    inserted = on.scalar(f"SELECT count(*) FROM {on.sql_name(name)}")  # noqa: S608
    return Loaded(staged.rows, inserted, 0, int(deleted), staged.bytes, changes if delivery is not None else ())


def _replace_rows(on: CatalogCursor, staged: Staged, standing: Relation) -> Loaded:
    """Replace the rows in place, so that what somebody put on the table stays."""
    changes = _prepare(on, staged, standing)
    into = on.find_table(standing.name)
    assert into is not None
    deleted = on.scalar(f"DELETE FROM {on.sql_name(into.name)}")  # noqa: S608
    inserted = _append(on, staged, into)
    on.execute(f"DROP TABLE {on.sql_name(staged.staging)}")
    return Loaded(staged.rows, inserted, 0, int(deleted), staged.bytes, changes)


def _prepare(on: CatalogCursor, staged: Staged, standing: Relation) -> tuple[str, ...]:
    """Make the table such that the rows can be written to it; answers what was altered for that."""
    delivery = staged.load.delivery
    if delivery is None or delivery.evolve or delivery.owns(on.find_comment(standing.name)):
        changes = evolve(on, staged, standing)
        return changes if delivery is not None else ()
    source = on.find_relation(staged.staging)
    assert source is not None
    check_fit(on, staged.staging, source.columns, standing)
    return ()


def _append(on: CatalogCursor, staged: Staged, into: Relation) -> int:
    source = on.find_relation(staged.staging)
    assert source is not None
    columns = [(c, into.column(c)) for c in source.columns]
    targets = ", ".join(quote_identifier(target) for _, target in columns if target)
    values = ", ".join(f"CAST({quote_identifier(c)} AS {into.columns[target]})" for c, target in columns if target)
    return int(
        on.scalar(
            f"INSERT INTO {on.sql_name(into.name)} ({targets})\nSELECT {values}\nFROM {on.sql_name(staged.staging)}"
        )
    )


def _delete_window(on: CatalogCursor, into: Relation, window: Window) -> int:
    cursor = into.column(window.cursor)
    assert cursor is not None, "check_types has seen it"
    bound, value = _bind_cursor(window.at_least, into.columns[cursor])
    return int(
        on.scalar(
            f"DELETE FROM {on.sql_name(into.name)}\n"  # noqa: S608
            f"WHERE {quote_identifier(cursor)} >= {bound}",
            [value],
        )
    )


def _bind_cursor(text: str, type_: str) -> tuple[str, object]:
    """The SQL of a cursor's value and what is bound in it. Moments go as numbers: DuckDB reads no year before Christ as
    an origin writes it, and none after 9999 with a zone."""
    if type_ == "DATE":
        return "DATE '1970-01-01' + CAST(? AS INTEGER)", parse_moment(text) // _DAY
    if type_ in ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS"):
        return "make_timestamp(CAST(? AS BIGINT))", parse_moment(text)
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return "make_timestamptz(CAST(? AS BIGINT))", parse_moment(text)
    return f"CAST(? AS {type_})", text


def _delete_keys(on: CatalogCursor, staged: Staged, into: Relation) -> int:
    """Delete the rows whose keys a delivery names."""
    delivery = staged.load.delivery
    if delivery is None or delivery.deletes is None or not delivery.deletes.num_rows:
        return 0
    keys = [(quote_identifier(into.column(k) or k), quote_identifier(k)) for k in staged.load.table.key]
    same = " AND ".join(f"t.{there} = s.{came}" for there, came in keys)
    on.cursor.register(_GONE, delivery.deletes)
    deleted = on.scalar(f"DELETE FROM {on.sql_name(into.name)} AS t USING {_GONE} AS s WHERE {same}")  # noqa: S608
    on.cursor.unregister(_GONE)
    return int(deleted)


def evolve(on: CatalogCursor, staged: Staged, standing: Relation) -> tuple[str, ...]:
    """Give the standing table the new columns and the wider types that the staged rows need; answers which."""
    changes = []
    source = on.find_relation(staged.staging)
    assert source is not None
    target = on.sql_name(standing.name)
    for column, incoming in source.columns.items():
        there = standing.column(column)
        if there is None:
            on.execute(f"ALTER TABLE {target} ADD COLUMN {quote_identifier(column)} {incoming}")
            changes.append(describe_added(column, incoming))
            continue
        type_ = resolve_type(on, staged, standing, column, incoming)
        if type_ != standing.columns[there]:
            changes.append(describe_altered(there, standing.columns[there], type_))
            on.execute(f"ALTER TABLE {target} ALTER COLUMN {quote_identifier(there)} TYPE {type_}")
    return tuple(changes)


def resolve_type(on: CatalogCursor, staged: Staged, standing: Relation, column: str, incoming: str) -> str:
    """The SQL type that keeps the standing and the staged values of a column, each checked.

    Raises:
        TypeRefused: there is none.
    """
    there = standing.column(column)
    assert there is not None
    existing = standing.columns[there]
    if existing == incoming:
        return existing
    old, new = on.sql_name(standing.name), on.sql_name(staged.staging)
    if _only_nulls(on, new, column):
        return existing
    if _only_nulls(on, old, there):
        return incoming
    wanted = wider(existing, incoming)
    if wanted and is_kept(on, old, there, existing, wanted) and is_kept(on, new, column, incoming, wanted):
        return wanted
    raise type_changed(standing.name, there, existing, incoming, is_delivery=staged.load.delivery is not None)


def _only_nulls(on: CatalogCursor, table: str, column: str) -> bool:
    return on.scalar(f"SELECT 1 FROM {table} WHERE {quote_identifier(column)} IS NOT NULL LIMIT 1") is None  # noqa: S608


def is_kept(on: CatalogCursor, table: str, column: str, before: str, after: str) -> bool:
    """Whether every value comes back from the other type as it was."""
    if before == after:
        return True
    name = quote_identifier(column)
    lost = on.scalar(
        f"SELECT 1 FROM {table}\n"  # noqa: S608
        f"WHERE {name} IS NOT NULL\n"
        f"  AND TRY_CAST(TRY_CAST({name} AS {after}) AS {before}) IS DISTINCT FROM {name}\n"
        "LIMIT 1"
    )
    return lost is None


def check_types(on: CatalogCursor, load: Load, incoming: Mapping[str, str]) -> None:
    """Refuse, before any row moves, types between which there is no lossless way at all."""
    if load.write_disposition == "replace" or load.delivery is not None:
        on.find_table(load.table.name)
        return
    standing = on.find_table(load.table.name)
    if standing is None:
        return
    if load.window is not None:
        cursor = standing.column(load.window.cursor)
        check_cursor(standing.name, load.window.cursor, standing.columns[cursor] if cursor else None, _TEXTS)
    for column, type_ in incoming.items():
        there = standing.column(column)
        if there is None or type_ == '"NULL"' or wider(standing.columns[there], type_):
            continue
        if not _only_nulls(on, on.sql_name(standing.name), there):
            raise type_changed(standing.name, there, standing.columns[there], type_)
