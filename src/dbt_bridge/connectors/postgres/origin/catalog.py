"""Tables as Postgres's catalog has them: names, columns with their types, primary keys, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from psycopg.errors import UndefinedColumn

from dbt_bridge.connectors.postgres.origin.column_types import OriginType, WireColumn, natural_type
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.type_forms import TypeForm, describe_forms
from dbt_bridge.contracts.change_source import Outdated
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.bridge_keys import quote_in_yaml
from dbt_bridge.nouns.table import (
    Column,
    Table,
    TableName,
    quote_identifier,
    quote_table_name,
)

_TABLES = """
SELECT c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s
  AND c.relkind IN ('r', 'p', 'f')
  AND NOT c.relispartition
"""

_ELSEWHERE = """
SELECT n.nspname || '.' || c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %(name)s
  AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
  AND n.nspname NOT LIKE 'pg\\_%%'
  AND n.nspname <> 'information_schema'
ORDER BY 1
"""

_RELATION = """
SELECT c.oid, c.relkind, has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
       has_any_column_privilege(c.oid, 'SELECT')
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s
  AND c.relname = %(name)s
  AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
"""

# The table with its partitions or the tables that inherit from it. `relfilenode` is as of the snapshot,
# `pg_relation_filenode` as of now. (Mapped system catalogs have 0.)
_FILES = """
WITH RECURSIVE tree (oid) AS (
    SELECT %(oid)s::oid
    UNION
    SELECT i.inhrelid
    FROM pg_inherits i
    JOIN tree ON tree.oid = i.inhparent
)
SELECT count(*) > 1,
       bool_or(c.relfilenode <> 0 AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid)),
       sum(c.reltuples) FILTER (WHERE c.reltuples >= 0 AND c.relkind <> 'p'),
       sum(pg_table_size(c.oid))::bigint,
       sum(pg_relation_size(c.oid) / current_setting('block_size')::int)::bigint
FROM tree
JOIN pg_class c ON c.oid = tree.oid
"""

# The columns of the snapshot, each looked up by its name as of now: an error where it was dropped or renamed since.
_STILL_THERE = """
SELECT count(has_column_privilege(a.attrelid, a.attname::text, 'SELECT'))
FROM pg_attribute a
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
"""

_READABLE = """
SELECT a.attname
FROM pg_attribute a
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
  AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')
"""

# A domain is followed to its base type; the modifier is the first that is set on the way down.
_RESOLVED = """
WITH RECURSIVE wanted (place, name, not_null, oid, modifier) AS (
    {wanted}
), resolved AS (
    SELECT w.place, w.name, w.not_null, format_type(t.oid, w.modifier) AS spelled,
           t.oid, t.typtype, t.typbasetype, w.modifier, t.typtypmod
    FROM wanted w
    JOIN pg_type t ON t.oid = w.oid
    UNION ALL
    SELECT r.place, r.name, r.not_null, r.spelled,
           t.oid, t.typtype, t.typbasetype, CASE WHEN r.modifier = -1 THEN r.typtypmod ELSE r.modifier END, t.typtypmod
    FROM resolved r
    JOIN pg_type t ON t.oid = r.typbasetype
    WHERE r.typtype = 'd'
), elements AS (
    SELECT r.oid AS array_oid, e.oid, e.typtype, e.typbasetype, e.typtypmod, -1 AS modifier
    FROM resolved r
    JOIN pg_type e ON e.typarray = r.oid
    UNION
    SELECT r.array_oid, t.oid, t.typtype, t.typbasetype, t.typtypmod,
           CASE WHEN r.modifier = -1 THEN r.typtypmod ELSE r.modifier END
    FROM elements r
    JOIN pg_type t ON t.oid = r.typbasetype
    WHERE r.typtype = 'd'
)
SELECT r.name, r.spelled, r.not_null, r.modifier, known.name, e.oid IS NOT NULL, element.name, e.modifier
FROM resolved r
LEFT JOIN elements e ON e.array_oid = r.oid AND e.typtype <> 'd'
LEFT JOIN LATERAL (
    SELECT t.typname AS name
    FROM pg_type t
    WHERE t.oid = r.oid AND (t.typnamespace = 'pg_catalog'::regnamespace OR t.typname = 'citext')
) known ON true
LEFT JOIN LATERAL (
    SELECT t.typname AS name
    FROM pg_type t
    WHERE t.oid = e.oid AND t.typnamespace = 'pg_catalog'::regnamespace
) element ON true
WHERE r.typtype <> 'd'
ORDER BY r.place
"""

_COLUMNS = _RESOLVED.format(
    wanted="""SELECT a.attnum::int, a.attname, a.attnotnull, a.atttypid, a.atttypmod
    FROM pg_attribute a
    WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped"""
)
_TYPES = _RESOLVED.format(
    wanted="""SELECT w.place::int, w.name::name, false, w.oid, w.modifier
    FROM unnest(%(names)s::text[], %(oids)s::oid[], %(modifiers)s::int[])
        WITH ORDINALITY AS w (name, oid, modifier, place)"""
)

PRIMARY_KEY = """
SELECT a.attname
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %(oid)s AND i.indisprimary AND k.place <= i.indnkeyatts
ORDER BY k.place
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the origin has it.

    Attributes:
        table: with the natural Arrow types.
        types: of its columns, by name.
        rows: the planner's estimate; None before the first ANALYZE.
        pages: its size in blocks of 8 kB (`block_size`), for reading it in ranges of them. 0 where that cannot be done:
            its rows are not all in its own file, the server (before PostgreSQL 14) would read all of it each time, or
            the role may read some of its columns alone, and ctid is none of them.
        forms: of the types of its columns.
        readable: the columns that the role may read; None where it may read all of the table.
    """

    table: Table
    types: dict[str, OriginType]
    rows: int | None
    bytes: int | None
    pages: int
    forms: tuple[TypeForm, ...] = ()
    readable: frozenset[str] | None = None


def list_tables(connections: Connections, schema: str) -> list[TableName]:
    """Every ordinary, partitioned (its root only) or foreign table of a schema, sorted by name.

    Raises:
        OriginError: there is no such schema.
    """
    names = [row[0] for row in connections.query(_TABLES, {"schema": schema})]
    if not names:
        schemas = [row[0] for row in connections.query("SELECT nspname FROM pg_namespace ORDER BY 1")]
        if schema not in schemas:
            people = [name for name in schemas if not name.startswith("pg_") and name != "information_schema"]
            raise OriginError(
                f"origin {connections.name!r} has no schema {schema!r}", mend=_suggest_name(schema, people, "a schema")
            )
    return sorted(TableName(schema, name) for name in names)


def describe_relation(connections: Connections, name: TableName) -> Relation:
    """One table, which is locked so that it is neither dropped nor rewritten until the snapshot ends.

    Raises:
        OriginError: no such table, or no privilege to read it.
        Outdated: it was truncated or rewritten since the snapshot, or lost a column.
    """
    found = connections.query(_RELATION, {"schema": name.schema, "name": name.name})
    if not found:
        near = [row[0] for row in connections.query(_TABLES, {"schema": name.schema})]
        elsewhere = [row[0] for row in connections.query(_ELSEWHERE, {"name": name.name})]
        mend = f"did you mean {elsewhere[0]!r}?" if elsewhere else _suggest_name(name.name, near, "a table")
        raise OriginError(f"origin {connections.name!r} has no table {name}", mend=mend)
    oid, kind, usable, is_whole, is_readable = found[0]
    if not (usable and is_readable):
        raise _unreadable(connections, name, usable=usable)
    readable = None if is_whole else frozenset(row[0] for row in connections.query(_READABLE, {"oid": oid}))
    if kind in ("r", "p"):
        connections.lock(name, by_columns=not is_whole)
    is_tree, rewritten, estimate, size, pages = connections.query(_FILES, {"oid": oid})[0]
    if rewritten:
        raise Outdated(
            f"origin {connections.name!r}: {name} was truncated or rewritten after the snapshot was taken",
            mend="run the same command again",
        )
    try:
        connections.query(_STILL_THERE, {"oid": oid})
    except OriginError as error:
        if isinstance(error.__cause__, UndefinedColumn):
            raise Outdated(error.what, mend="its columns changed in this moment: run the same command again") from error
        raise
    has_ranges = kind in ("r", "m") and not is_tree and connections.server_version >= 140000
    rows = connections.query(_COLUMNS, {"oid": oid})
    types = {row[0]: _make_origin_type(*row[3:]) for row in rows}
    columns = tuple(Column(row[0], natural_type(types[row[0]]), row[1], not row[2]) for row in rows)
    key = tuple(row[0] for row in connections.query(PRIMARY_KEY, {"oid": oid}))
    return Relation(
        Table(name, columns, key),
        types,
        rows=None if estimate is None else int(estimate),
        bytes=size if kind in ("r", "p", "m") else None,
        pages=pages if has_ranges and is_whole else 0,
        forms=describe_forms(connections, [oid]).get(oid, ()),
        readable=readable,
    )


def _unreadable(connections: Connections, name: TableName, *, usable: bool) -> OriginError:
    user = find_user(connections)
    mend = f"GRANT USAGE ON SCHEMA {quote_identifier(name.schema)} TO {user};"
    if usable:
        on = f"ON {quote_table_name(name)} TO {user};"
        mend = f"GRANT SELECT {on} or only what lands, with the others in columns: {{exclude: [...]}}:"
        mend += f" GRANT SELECT (column, ...) {on}"
    return OriginError(f"origin {connections.name!r}: no privilege to read {name}", mend=mend)


def find_user(connections: Connections) -> str:
    """The role, as SQL writes it."""
    return str(connections.query("SELECT quote_ident(current_user)")[0][0])


def require_columns(connections: Connections, relation: Relation, columns: Iterable[str]) -> None:
    """Refuse to read what is not there, or may not be read.

    Raises:
        OriginError: a column is absent, or the role has no privilege on it.
    """
    wanted = tuple(dict.fromkeys(columns))
    name = relation.table.name
    for column in wanted:
        if column not in relation.types:
            near = get_close_matches(column, relation.types, n=1)
            raise OriginError(
                f"origin {connections.name!r}: {name} has no column {column!r}",
                mend=f"did you mean {near[0]!r}?" if near else "take it out of the table's columns",
            )
    hidden = [c for c in wanted if relation.readable is not None and c not in relation.readable]
    if hidden:
        granted = ", ".join(map(quote_identifier, hidden))
        raise OriginError(
            f"origin {connections.name!r}: no privilege to read {name}, column {', '.join(map(repr, hidden))}",
            mend=f"columns: {{exclude: [{', '.join(map(quote_in_yaml, hidden))}]}} where that is not to land, or"
            f" GRANT SELECT ({granted}) ON {quote_table_name(name)} TO {find_user(connections)};",
        )


@dataclass(frozen=True, slots=True)
class ResolvedColumns:
    """Columns with their natural Arrow types, and their types at the origin by name."""

    columns: tuple[Column, ...]
    types: dict[str, OriginType]


def resolve_columns(connections: Connections, columns: Sequence[WireColumn]) -> ResolvedColumns:
    """What the catalog knows of the types of columns that the server describes by oid and modifier.

    A type that is gone from the catalog travels as text, as any type that is not built in.
    """
    names = [column.name for column in columns]
    oids, modifiers = [column.type_oid for column in columns], [column.modifier for column in columns]
    rows = {row[0]: row for row in connections.query(_TYPES, {"names": names, "oids": oids, "modifiers": modifiers})}
    resolved = []
    types = {}
    for name in names:
        row = rows.get(name)
        types[name] = _make_origin_type(*row[3:]) if row else OriginType("")
        resolved.append(Column(name, natural_type(types[name]), row[1] if row else ""))
    return ResolvedColumns(tuple(resolved), types)


def _make_origin_type(
    modifier: int, name: str | None, is_array: bool, element: str | None, own: int | None
) -> OriginType:
    if not is_array:
        return OriginType(name or "", modifier)
    inner = OriginType(element or "", own if own is not None and own != -1 else modifier)
    return OriginType("", modifier, inner)


_LISTED = 12  # names that an error lists, where none is like the wanted one


def _suggest_name(wanted: str, names: list[str], what: str) -> str:
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    listed = f": {', '.join(names)}" if 0 < len(names) <= _LISTED else ""
    return f"name {what} that exists{listed}"
