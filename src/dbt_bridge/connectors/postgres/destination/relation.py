"""What stands under a name in Postgres: its columns, what hangs on it, and whether it is a ghost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Cursor, sql

from dbt_bridge.errors import DestinationError, UsageError
from dbt_bridge.nouns.names import POSTGRES
from dbt_bridge.nouns.table import GHOST_MARK, TableName

LONGEST_NAME = POSTGRES.longest or 0
"""In bytes. Postgres cuts off the rest without a word, so that a name may be that of another table."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view or other relation.

    Attributes:
        kind: `pg_class.relkind`.
        columns: name -> SQL type as `format_type` spells it (a domain's base type), in order, without generated ones.
        enums: columns whose type is an enum (or a domain over one).
        is_ghost: a view that stands for a source that has not landed.
    """

    oid: int
    name: TableName
    kind: str
    columns: Mapping[str, str]
    enums: frozenset[str]
    is_ghost: bool


def identifier(name: TableName) -> sql.Identifier:
    """Raises UsageError: Postgres would cut the name off."""
    if len(name.schema.encode()) > LONGEST_NAME or len(name.name.encode()) > LONGEST_NAME:
        raise UsageError(
            f"{name}: Postgres keeps {LONGEST_NAME} bytes of a name, so this may be another table's",
            mend="give it a shorter name",
        )
    return sql.Identifier(name.schema, name.name)


def find_relation(cur: Cursor[Any], name: TableName) -> Relation | None:
    """The relation under exactly this name."""
    cur.execute(
        "SELECT c.oid, c.relkind::text,\n"
        "  CASE WHEN c.relkind = 'v' THEN position(%s IN pg_get_viewdef(c.oid)) > 0 ELSE false END\n"
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n"
        "WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        [GHOST_MARK, name.schema, name.name],
    )
    row = cur.fetchone()
    if row is None:
        return None
    oid, kind, is_ghost = row
    cur.execute(
        "SELECT a.attname,\n"
        "  CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod)\n"
        "    ELSE format_type(a.atttypid, a.atttypmod) END,\n"
        "  coalesce(b.typtype, t.typtype) = 'e'\n"
        "FROM pg_attribute a\n"
        "JOIN pg_type t ON t.oid = a.atttypid\n"
        "LEFT JOIN pg_type b ON b.oid = t.typbasetype\n"
        "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''\n"
        "ORDER BY a.attnum",
        [oid],
    )
    rows = cur.fetchall()
    return Relation(
        oid,
        name,
        kind,
        {column: type_ for column, type_, _ in rows},
        frozenset(column for column, _, is_enum in rows if is_enum),
        is_ghost,
    )


def find_table(cur: Cursor[Any], name: TableName) -> Relation | None:
    """The table to be changed, or None; a ghost view counts as none.

    Raises:
        DestinationError: a view that is not ours has the name.
    """
    found = find_relation(cur, name)
    if found is None or found.is_ghost:
        return None
    if found.kind in ("v", "m"):
        raise DestinationError(
            f"{name} is a view that dbt-bridge did not make, so no rows can land under its name",
            mend="name another one: `table:` of an exposure, `identifier:` of a source's table",
        )
    return found


# What a DROP and RENAME would lose. Whoever made these on the table wants them kept: then its rows are replaced in
# place. pg_depend has the views (through their rules), foreign keys, policies and publications that name it.
_ATTACHED = """
SELECT c.relkind <> 'r'
    OR c.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
    OR c.relacl IS DISTINCT FROM (SELECT s.relacl FROM pg_class s WHERE s.oid = %(staging)s)
    OR c.relhasrules OR c.relhastriggers OR c.relhasindex OR c.relhassubclass OR c.relispartition
    OR c.relrowsecurity OR c.reloptions IS NOT NULL
    OR c.relpersistence <> 'p'
    OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid)
    OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = c.oid)
    OR EXISTS (SELECT FROM pg_description WHERE objoid = c.oid AND classoid = 'pg_class'::regclass
               AND NOT (objsubid = 0 AND description = %(mark)s))
    OR EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                 AND (attacl IS NOT NULL OR atthasdef OR attnotnull OR attidentity <> ''))
    OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid OR inhrelid = c.oid)
    OR EXISTS (SELECT FROM pg_depend d
               WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype NOT IN ('i', 'a'))
    OR EXISTS (SELECT FROM pg_depend d
               WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype AND d.deptype = 'n')
FROM pg_class c
WHERE c.oid = %(table)s
"""


def find_comment(cur: Cursor[Any], table: Relation) -> str | None:
    """What `COMMENT ON TABLE` said of it last."""
    row = cur.execute("SELECT obj_description(%s, 'pg_class')", [table.oid]).fetchone()
    return None if row is None else row[0]


def is_bare(cur: Cursor[Any], table: Relation, staging: Relation, mark: str = "") -> bool:
    """Whether nothing hangs on the table that replacing it by another one would lose.

    Args:
        mark: a comment of our own.
    """
    cur.execute(_ATTACHED, {"table": table.oid, "staging": staging.oid, "mark": mark})
    row = cur.fetchone()
    return row is not None and row[0] is False
