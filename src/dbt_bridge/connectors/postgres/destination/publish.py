"""A staged table takes its place in Postgres: replace, append or merge, inside the caller's transaction.

A replaced table is dropped and the staging table renamed where nothing hangs on it. Views, grants, indexes, foreign
keys and the like keep the table itself, and so does somebody who reads it just now: then its rows are replaced in
place. Nothing is ever dropped with CASCADE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Cursor, errors, sql

from dbt_bridge.connectors.postgres.destination.column_types import base, fits, wider
from dbt_bridge.connectors.postgres.destination.fitting import check_fit, refuse_cascades, tell_refusal
from dbt_bridge.connectors.postgres.destination.locks import bound_waits, do_when_free, try_at_once
from dbt_bridge.connectors.postgres.destination.marks import remember
from dbt_bridge.connectors.postgres.destination.relation import (
    Relation,
    find_comment,
    find_relation,
    find_table,
    identifier,
    is_bare,
)
from dbt_bridge.contracts.destination import Load, Loaded, Staged, Window
from dbt_bridge.contracts.outgoing import CREATED, describe_added, describe_altered
from dbt_bridge.errors import DestinationError, KeyRefused, TypeRefused
from dbt_bridge.nouns.table import TableName, quote_table_name
from dbt_bridge.replicate.loads import several_rows, type_changed


def publish_one(cur: Cursor[Any], staged: Staged) -> Loaded:
    """Put one staged table in its place. What a delivery finds there and is not its own is never altered unasked."""
    load, name = staged.load, staged.load.table.name
    bound_waits(cur)
    there = find_table(cur, name)
    if there is None:
        _drop_ghost(cur, name)
        _rename(cur, staged)
        created = (CREATED,) if load.delivery is not None else ()
        _remember(cur, load)
        return Loaded(staged.rows, _count(cur, name), 0, 0, staged.bytes, created)
    # One writer at a time; readers go on until the end of the transaction.
    lock = sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(identifier(name))
    do_when_free(cur, name, lambda: cur.execute(lock), readers=False)
    if load.delivery is None:
        return _write(cur, staged, there)
    with _refusing(there):
        loaded = _write(cur, staged, there)
        _remember(cur, load)
        return loaded


def _remember(cur: Cursor[Any], load: Load) -> None:
    if load.delivery is not None and (table := find_table(cur, load.table.name)) is not None:
        remember(cur, table, load.delivery, load.load_id)


def _write(cur: Cursor[Any], staged: Staged, there: Relation) -> Loaded:
    load = staged.load
    if load.write_disposition == "replace":
        return _replace(cur, staged, there)
    there, changes = _prepare(cur, staged, there)
    if load.write_disposition == "merge":
        deleted = _delete_keys(cur, staged, there)
        inserted, updated = _merge(cur, staged, there)
        loaded = Loaded(staged.rows, inserted, updated, deleted, staged.bytes, changes)
    else:
        deleted = _delete_window(cur, there, load.window) if load.window else 0
        loaded = Loaded(staged.rows, _insert(cur, staged, there), 0, deleted, staged.bytes, changes)
    cur.execute(sql.SQL("DROP TABLE {}").format(identifier(staged.staging)))
    return loaded


def _replace(cur: Cursor[Any], staged: Staged, there: Relation) -> Loaded:
    name = staged.load.table.name
    deleted = _count(cur, name)
    new = _staging(cur, staged)
    if _is_replaceable(cur, staged.load, there, new) and _drop(cur, there, new):
        _rename(cur, staged)
        changes = tuple(
            describe_altered(column, there.columns[column], type_)
            if column in there.columns
            else describe_added(column, type_)
            for column, type_ in new.columns.items()
            if there.columns.get(column) != type_ and staged.load.delivery is not None
        )
        return Loaded(staged.rows, _count(cur, name), 0, deleted, staged.bytes, changes)
    there, changes = _prepare(cur, staged, there)
    if staged.load.delivery is not None and deleted:
        refuse_cascades(cur, there, "write_disposition: merge with a primary_key, which deletes nothing")
    _empty(cur, there)
    inserted = _insert(cur, staged, there)
    cur.execute(sql.SQL("DROP TABLE {}").format(identifier(staged.staging)))
    return Loaded(staged.rows, inserted, 0, deleted, staged.bytes, changes)


def _is_replaceable(cur: Cursor[Any], load: Load, there: Relation, new: Relation) -> bool:
    """Whether another table may take this one's place: nothing hangs on it, and a delivery has made it.

    A column that the rows do not bring may be one that somebody added here.
    """
    if load.delivery is not None and (
        not load.delivery.owns(find_comment(cur, there)) or there.columns.keys() - new.columns.keys()
    ):
        return False
    return is_bare(cur, there, new, load.delivery.mark if load.delivery is not None else "")


def _drop(cur: Cursor[Any], there: Relation, new: Relation) -> bool:
    """Make room for the new table. False where somebody reads the old one, and its rows may as well be replaced."""
    drop = sql.SQL("DROP TABLE {}").format(identifier(there.name))
    if try_at_once(cur, lambda: cur.execute(drop)):
        return True
    if list(there.columns.items()) == list(new.columns.items()):
        return False
    do_when_free(cur, there.name, lambda: cur.execute(drop))
    return True


def _prepare(cur: Cursor[Any], staged: Staged, there: Relation) -> tuple[Relation, tuple[str, ...]]:
    """The table as the rows can be written to it, and what was altered for that."""
    delivery = staged.load.delivery
    if delivery is None or delivery.evolve or delivery.owns(find_comment(cur, there)):
        there, changes = _evolve(cur, staged, there)
    else:
        check_fit(cur, _staging(cur, staged), there)
        changes = ()
    return there, changes if delivery is not None else ()


@contextmanager
def _refusing(there: Relation) -> Iterator[None]:
    """Tell what a table's constraints and triggers refuse."""
    try:
        yield
    except (psycopg.IntegrityError, psycopg.DataError, errors.GeneratedAlways, errors.RaiseException) as error:
        raise tell_refusal(there, error) from error


def _empty(cur: Cursor[Any], table: Relation) -> None:
    """Without its rows. TRUNCATE is refused where a foreign key points here, or the privilege is missing; and whoever
    reads the table just now goes on reading the rows that are deleted."""
    truncate = sql.SQL("TRUNCATE {}").format(identifier(table.name))
    try:
        if try_at_once(cur, lambda: cur.execute(truncate)):
            return
    except (errors.FeatureNotSupported, errors.InsufficientPrivilege, errors.WrongObjectType):
        pass  # DELETE can
    cur.execute(sql.SQL("DELETE FROM {}").format(identifier(table.name)))


def _rename(cur: Cursor[Any], staged: Staged) -> None:
    cur.execute("SELECT relpersistence = 'u' FROM pg_class WHERE oid = %s", [_staging(cur, staged).oid])
    if cur.fetchone() == (True,):  # the table's state changed between staging and publishing
        cur.execute(sql.SQL("ALTER TABLE {} SET LOGGED").format(identifier(staged.staging)))
    cur.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            identifier(staged.staging), sql.Identifier(staged.load.table.name.name)
        )
    )
    if (delivery := staged.load.delivery) is not None:
        name = identifier(staged.load.table.name)
        cur.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(delivery.mark)))


def _drop_ghost(cur: Cursor[Any], name: TableName) -> None:
    found = find_relation(cur, name)
    if found is None:
        return
    try:
        do_when_free(cur, name, lambda: cur.execute(sql.SQL("DROP VIEW {}").format(identifier(name))))
    except errors.DependentObjectsStillExist as error:
        raise DestinationError(
            f"views depend on the placeholder view {name}, which the table is to replace: {_detail(error)}",
            mend="drop those views; dbt build makes them again",
        ) from error


def _staging(cur: Cursor[Any], staged: Staged) -> Relation:
    found = find_relation(cur, staged.staging)
    if found is None:
        raise DestinationError(
            f"the staged rows of {staged.load.table.name} are gone", mend="run the same command again"
        )
    return found


def _insert(cur: Cursor[Any], staged: Staged, into: Relation) -> int:
    columns = list(_staging(cur, staged).columns)
    cur.execute(
        sql.SQL("INSERT INTO {} ({})\nOVERRIDING SYSTEM VALUE\nSELECT {}\nFROM {}").format(
            identifier(into.name),
            _list(sql.Identifier(c) for c in columns),
            _list(_cast(c, into) for c in columns),
            identifier(staged.staging),
        )
    )
    return cur.rowcount


def _delete_window(cur: Cursor[Any], table: Relation, window: Window) -> int:
    # Without its modifier: a cast to numeric(12,2) or timestamp(0) would round the bound, and lose rows beside it.
    type_ = base(table.columns[window.cursor])
    cur.execute(
        sql.SQL("DELETE FROM {}\nWHERE {} >= CAST({} AS {})").format(
            identifier(table.name),
            sql.Identifier(window.cursor),
            sql.Literal(window.at_least),
            sql.SQL(type_),
        )
    )
    return cur.rowcount


def _merge(cur: Cursor[Any], staged: Staged, into: Relation) -> tuple[int, int]:
    """Rows inserted and updated. Columns that the load does not bring keep their values in updated rows."""
    key = staged.load.table.key
    columns = list(_staging(cur, staged).columns)
    same = sql.SQL(" AND ").join(sql.SQL("t.{} = {}").format(sql.Identifier(k), _cast(k, into, alias="s")) for k in key)
    names = {"target": identifier(into.name), "staging": identifier(staged.staging), "same": same}
    _refuse_one_key(cur, staged, into)
    _refuse_doubles(cur, staged, into, names)
    rest = [c for c in columns if c not in key] or list(key)
    cur.execute(
        sql.SQL("UPDATE {target} AS t\nSET {set}\nFROM {staging} AS s\nWHERE {same}").format(
            **names,
            set=_list(sql.SQL("{} = {}").format(sql.Identifier(c), _cast(c, into, alias="s")) for c in rest),
        )
    )
    updated = cur.rowcount
    cur.execute(
        sql.SQL(
            "INSERT INTO {target} ({columns})\n"
            "OVERRIDING SYSTEM VALUE\n"
            "SELECT {values}\n"
            "FROM {staging} AS s\n"
            "WHERE NOT EXISTS (SELECT FROM {target} AS t WHERE {same})"
        ).format(
            **names,
            columns=_list(sql.Identifier(c) for c in columns),
            values=_list(_cast(c, into, alias="s") for c in columns),
        )
    )
    return cur.rowcount, updated


def _delete_keys(cur: Cursor[Any], staged: Staged, there: Relation) -> int:
    """Delete the rows whose keys were staged for that."""
    if staged.gone is None:
        return 0
    key = staged.load.table.key
    same = sql.SQL(" AND ").join(
        sql.SQL("t.{} = {}").format(sql.Identifier(k), _cast(k, there, alias="s")) for k in key
    )
    refuse_cascades(cur, there, "take `deletes: own` out, so that the merge deletes nothing")
    cur.execute(
        sql.SQL("DELETE FROM {} AS t\nUSING {} AS s\nWHERE {}").format(
            identifier(there.name), identifier(staged.gone), same
        )
    )
    deleted = cur.rowcount
    cur.execute(sql.SQL("DROP TABLE {}").format(identifier(staged.gone)))
    return deleted


def _refuse_doubles(cur: Cursor[Any], staged: Staged, into: Relation, names: dict[str, sql.Composable]) -> None:
    key = staged.load.table.key
    cur.execute(
        sql.SQL(
            "SELECT 1\nFROM {target} AS t JOIN {staging} AS s ON {same}\nGROUP BY {key}\nHAVING count(*) > 1\nLIMIT 1"
        ).format(**names, key=_list(sql.SQL("t.{}").format(sql.Identifier(k)) for k in key))
    )
    if cur.fetchone() is not None:
        raise several_rows(into.name, key, is_delivery=staged.load.delivery is not None)


def _refuse_one_key(cur: Cursor[Any], staged: Staged, into: Relation) -> None:
    """Keys that differ as they were staged may be one to the table, whose key has a type of its own (citext)."""
    key = staged.load.table.key
    new = _staging(cur, staged)
    if all(new.columns[k] == into.columns[k] for k in key):
        return
    cur.execute(
        sql.SQL("SELECT 1\nFROM {} AS s\nGROUP BY {}\nHAVING count(*) > 1\nLIMIT 1").format(
            identifier(staged.staging), _list(_cast(k, into, alias="s") for k in key)
        )
    )
    if cur.fetchone() is not None:
        types = ", ".join(f"{k} {into.columns[k]}" for k in key)
        raise KeyRefused(
            f"several keys of the new rows are one key to {into.name} ({types})",
            mend="leave one row per key in the model, as the destination compares it",
        )


def _evolve(cur: Cursor[Any], staged: Staged, there: Relation) -> tuple[Relation, tuple[str, ...]]:
    """Give the standing table the new columns and the wider types that the staged rows need; answers which."""
    new = _staging(cur, staged)
    changes = []
    for column, incoming in new.columns.items():
        if column not in there.columns:
            _alter(cur, there, sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(column), sql.SQL(incoming)))
            changes.append(describe_added(column, incoming))
            continue
        existing = there.columns[column]
        type_ = _resolve_type(cur, new, there, column, is_delivery=staged.load.delivery is not None)
        if type_ != existing:
            changes.append(describe_altered(column, existing, type_))
            change = sql.SQL("ALTER COLUMN {} TYPE {}").format(sql.Identifier(column), sql.SQL(type_))
            _alter(cur, there, change, column, is_delivery=staged.load.delivery is not None)
    found = find_table(cur, there.name)
    assert found is not None
    return found, tuple(changes)


def _resolve_type(cur: Cursor[Any], new: Relation, there: Relation, column: str, *, is_delivery: bool) -> str:
    existing, incoming = there.columns[column], new.columns[column]
    if existing == incoming or _only_nulls(cur, new.name, column):
        return existing
    is_enum = column in there.enums
    if fits(existing, incoming, is_enum=is_enum) and _all_fit(cur, new, column, existing):
        return existing
    if _only_nulls(cur, there.name, column) and not is_enum:
        return incoming
    if wanted := wider(existing, incoming):
        return wanted
    raise type_changed(there.name, column, existing, incoming, is_delivery=is_delivery)


def _all_fit(cur: Cursor[Any], new: Relation, column: str, type_: str) -> bool:
    """Whether Postgres takes every staged value into the existing type."""
    cast = sql.SQL("count(CAST({} AS {}))").format(sql.Identifier(column), sql.SQL(type_))
    if type_.startswith(("character", "bit")):  # an explicit cast to varchar(n) cuts off; the length is compared
        cast = sql.SQL("bool_and({0}::text = CAST({0} AS {1})::text)").format(sql.Identifier(column), sql.SQL(type_))
    try:
        with cur.connection.transaction():
            cur.execute(sql.SQL("SELECT {}\nFROM {}").format(cast, identifier(new.name)))
            row = cur.fetchone()
    except psycopg.DataError as error:
        if isinstance(error, errors.NumericValueOutOfRange):
            return False
        raise TypeRefused(
            f"column {column!r} of the new rows does not fit {type_}: {_primary(error)}",
            mend="correct the values, or the type of the column at the destination",
        ) from error
    return row is None or row[0] is not False


def _alter(
    cur: Cursor[Any], table: Relation, change: sql.Composable, column: str = "", *, is_delivery: bool = False
) -> None:
    alter = sql.SQL("ALTER TABLE {} {}").format(identifier(table.name), change)
    try:
        do_when_free(cur, table.name, lambda: cur.execute(alter))
    except (errors.FeatureNotSupported, errors.DependentObjectsStillExist) as error:
        # "cannot alter type of a column used by a view or rule"
        dropped = f"drop what depends on {quote_table_name(table.name)} (dbt build makes its views again), then run the"
        raise TypeRefused(
            f"column {column!r} of {table.name} must take a wider type, but {_detail(error) or _primary(error)}",
            mend=f"cast it in the model to {table.columns.get(column, 'its type')}, or leave it out with `columns:`"
            if is_delivery
            else f"{dropped} same command again",
        ) from error


def _only_nulls(cur: Cursor[Any], table: TableName, column: str) -> bool:
    cur.execute(
        sql.SQL("SELECT 1 FROM {} WHERE {} IS NOT NULL LIMIT 1").format(identifier(table), sql.Identifier(column))
    )
    return cur.fetchone() is None


def _count(cur: Cursor[Any], table: TableName) -> int:
    row = cur.execute(sql.SQL("SELECT count(*) FROM {}").format(identifier(table))).fetchone()
    assert row is not None
    return int(row[0])


def _cast(column: str, into: Relation, alias: str = "") -> sql.Composable:
    qualified = sql.Identifier(alias, column) if alias else sql.Identifier(column)
    return sql.SQL("CAST({} AS {})").format(qualified, sql.SQL(into.columns[column]))


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _primary(error: psycopg.Error) -> str:
    return error.diag.message_primary or type(error).__name__


def _detail(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_detail or "").split())
