"""Publications of an origin: which tables' changes a slot is sent.

A table without replica identity must not be published with updates and deletes: the origin's own UPDATE would fail. So
a slot has two publications, both made before it, as decoding looks a publication up as of each change's place in the
log, and fails where it was not made yet: `<slot>` for every operation, `<slot>_inserts` for inserts and truncates.
https://www.postgresql.org/docs/current/logical-replication-publication.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbt_bridge.connectors.postgres.changes.slot import Replication
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_literal, quote_table_name

_MADE = "made by dbt-bridge"  # begins the comment of publications that are ours to change
_FOR = " for "  # then for whom, in those since 1.0
LOCK_TIMEOUT = "60s"  # a table that is being rewritten must not stop a sync for ever
_TABLES = 500  # that are added at once
_ADD = " ADD TABLE "
_EVERYTHING = "insert, update, delete, truncate"
_INSERTS = "insert, truncate"

_PUBLICATION = """
SELECT p.oid::bigint, p.puballtables, p.pubviaroot, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
       coalesce(to_jsonb(p) ->> 'pubgencols', 'n'),
       starts_with(coalesce(obj_description(p.oid, 'pg_publication'), ''), %(made)s)
       AND pg_has_role(p.pubowner, 'USAGE')
FROM pg_publication p
WHERE p.pubname = %(name)s
"""
_MEMBERS = """
SELECT n.nspname, c.relname
FROM pg_publication_rel r
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.prpubid = %(oid)s::oid
"""
_COVERED = "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %(name)s"
_RESTRICTED = """
SELECT n.nspname, c.relname, to_jsonb(r) ->> 'prqual' IS NOT NULL
FROM pg_publication_rel r
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.prpubid = %(oid)s::oid
  AND (to_jsonb(r) ->> 'prqual' IS NOT NULL OR to_jsonb(r) ->> 'prattrs' IS NOT NULL)
ORDER BY 1, 2
"""
# A partition is written to by itself, so each must say which row it means. A deferrable primary key identifies nothing
# (relcache.c, RelationGetIndexList).
_IDENTITY = """
WITH RECURSIVE tree (root, oid) AS (
    SELECT c.oid, c.oid
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
      ON n.nspname = wanted.schema AND c.relname = wanted.name
    UNION ALL
    SELECT tree.root, i.inhrelid
    FROM tree
    JOIN pg_class p ON p.oid = tree.oid AND p.relkind = 'p'
    JOIN pg_inherits i ON i.inhparent = tree.oid
)
SELECT rn.nspname, root.relname, root.relkind::text, root.relpersistence::text,
       EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = root.oid) AND root.relkind <> 'p',
       pg_has_role(root.relowner, 'USAGE'),
       pn.nspname, part.relname, part.relreplident::text,
       part.relreplident = 'f' OR EXISTS (
           SELECT 1
           FROM pg_index x
           WHERE x.indrelid = part.oid
             AND x.indimmediate
             AND ((part.relreplident = 'd' AND x.indisprimary) OR (part.relreplident = 'i' AND x.indisreplident))
       )
FROM tree
JOIN pg_class root ON root.oid = tree.root
JOIN pg_namespace rn ON rn.oid = root.relnamespace
JOIN pg_class part ON part.oid = tree.oid
JOIN pg_namespace pn ON pn.oid = part.relnamespace
ORDER BY 1, 2, 7, 8
"""


@dataclass(frozen=True, slots=True)
class Publishable:
    """What the catalog says of publishing a table.

    Attributes:
        kind: `relkind`; only r(elation) and p(artitioned) can be published.
        persistence: `relpersistence`; only p(ermanent) tables can.
        has_heirs: other tables inherit from it (not as partitions): their changes come under their own names.
        is_ours: our role owns it, and may add it to a publication.
        identity: `relreplident`: d(efault), n(othing), f(ull), i(ndex).
        unidentified: the table or those partitions of it whose updates and deletes do not say which row they mean.
        parts: it and its partitions, all of which are locked with it.
    """

    name: TableName
    kind: str
    persistence: str
    has_heirs: bool
    is_ours: bool
    identity: str
    unidentified: tuple[TableName, ...] = ()
    parts: int = 1

    @property
    def identifies(self) -> bool:
        return not self.unidentified


@dataclass(frozen=True, slots=True)
class Ensured:
    """What `ensure` found and did.

    Attributes:
        names: of the publications, for START_REPLICATION.
        added: tables whose changes are sent from now on: what happened to them before was not, or not whole. One that
            was followed already has to be copied anew: somebody took it out, or restricted what is published.
        removed: tables that are sent no more.
        is_new: the publications were made now: a slot that is older must be made again.
        statements: the SQL of it.
    """

    names: tuple[str, ...]
    added: tuple[TableName, ...] = ()
    removed: tuple[TableName, ...] = ()
    is_new: bool = False
    statements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Existing:
    """A publication as the catalog has it."""

    oid: int
    all_tables: bool
    via_root: bool
    operations: str
    generated: str
    is_ours: bool


def describe_publishable(replication: Replication, names: Sequence[TableName]) -> dict[TableName, Publishable]:
    """Each table that exists, with what publishing it takes."""
    wanted = {"schemas": [name.schema for name in names], "names": [name.name for name in names]}
    found: dict[TableName, Publishable] = {}
    for schema, table, kind, persistence, heirs, ours, part_schema, part, identity, identifies in replication.query(
        _IDENTITY, wanted
    ):
        name = TableName(schema, table)
        known = found.get(name)
        lacking = known.unidentified if known else ()
        root = identity if (part == table and part_schema == schema) or known is None else known.identity
        is_root_of_parts = kind == "p" and (part_schema, part) == (schema, table)
        if not identifies and not is_root_of_parts:  # a partitioned table itself holds no rows
            lacking += (TableName(part_schema, part),)
        parts = known.parts + 1 if known else 1
        found[name] = Publishable(name, kind, persistence, heirs, ours, root, lacking, parts)
    return found


def ensure(
    replication: Replication,
    name: str,
    everything: Sequence[TableName],
    inserts: Sequence[TableName],
    owner: str = "",
) -> Ensured:
    """Make the slot's publications publish exactly these tables; all of them, as others are taken out.

    Publications that somebody else made (our role may not) are left as they are, and must publish every table whole.

    Args:
        name: the slot's and the first publication's; the second one is `<name>_inserts`.
        everything: tables that are sent with every operation.
        inserts: tables without replica identity.
        owner: for whom they are made, where they are made now.

    Raises:
        OriginError: a table cannot be added or is not published as it must be; with the SQL that mends it.
    """
    _check_identified(replication, everything)
    found = plan_publications(replication, name, everything, inserts, owner)
    # Each table that is added is locked until its transaction ends, so very many are not added whole or not at all.
    added = [statement for statement in found.statements if _ADD in statement]
    apart = added if len(found.added) > _TABLES else []
    _execute(replication, [statement for statement in found.statements if statement not in apart])
    for statement in apart:
        _execute(replication, [statement])
    return found


def _check_identified(replication: Replication, tables: Sequence[TableName]) -> None:
    """Never publish the updates of a table that has no replica identity: its owners' updates would fail."""
    for table in describe_publishable(replication, tables).values():
        if not table.identifies:
            lacking = ", ".join(map(str, table.unidentified))
            statements = " ".join(
                f"ALTER TABLE {quote_table_name(t)} REPLICA IDENTITY FULL;" for t in table.unidentified
            )
            raise OriginError(
                f"origin {replication.name!r}: {table.name} is not published with its updates and deletes, as they do"
                f" not say which row they mean (no replica identity: {lacking})",
                mend=f"{statements} or add a primary key that is not deferrable",
            )


def plan_publications(
    replication: Replication,
    name: str,
    everything: Sequence[TableName],
    inserts: Sequence[TableName],
    owner: str = "",
) -> Ensured:
    """What `ensure` would do; raises what it would, before it writes."""
    version = int(replication.query("SHOW server_version_num")[0][0])
    first = _existing(replication, name)
    parts = [_plan_publication(replication, name, first, (_EVERYTHING, everything), version)]
    mark = f"{_MADE}{_FOR}{owner}" if owner else _MADE
    second = _existing(replication, inserts_name(name))
    if second is not None or inserts or first is None or first.is_ours:  # else our role makes none, and none is needed
        parts.append(_plan_publication(replication, inserts_name(name), second, (_INSERTS, inserts), version))
    added = tuple(table for part in parts for table in part.added)
    return Ensured(
        tuple(name for part in parts for name in part.names),
        added,
        tuple(table for part in parts for table in part.removed if table not in added),
        is_new=parts[0].is_new,
        statements=tuple(s.replace(f"'{_MADE}'", quote_literal(mark)) for part in parts for s in part.statements),
    )


def read_owner(comment: str) -> str:
    """For whom a publication was made, of its comment; empty where that does not say so."""
    made, _, owner = comment.partition(_FOR)
    return owner if made == _MADE else ""


def _plan_publication(
    replication: Replication,
    name: str,
    existing: _Existing | None,
    wanted: tuple[str, Sequence[TableName]],
    version: int,
) -> Ensured:
    """One publication: which operations it publishes, and for which tables."""
    operations, tables = wanted
    options = _options(operations, version)
    statements: list[str] = []
    removed: list[TableName] = []
    members: set[TableName] = set()
    if existing is None:
        statements.append(f"CREATE PUBLICATION {quote_identifier(name)} WITH ({options})")
        statements.append(f"COMMENT ON PUBLICATION {quote_identifier(name)} IS '{_MADE}'")
    elif not existing.is_ours:
        _check_foreign(replication, name, existing, operations, tables)
        return Ensured((name,))
    else:
        members = _members(replication, existing.oid)
        whole = members - set(_list_restricted(replication, existing.oid))
        if existing.operations != operations or not existing.via_root:  # something was not sent, of any of them
            whole = set()
        if not _is_as_made(existing, operations, version):
            statements.append(f"ALTER PUBLICATION {quote_identifier(name)} SET ({options})")
        removed = sorted(members - (whole & set(tables)))
        if removed:
            statements.append(f"ALTER PUBLICATION {quote_identifier(name)} DROP TABLE {_format_tables(removed)}")
        members = whole
    added = tuple(table for table in tables if table not in members)
    statements += [
        f"ALTER PUBLICATION {quote_identifier(name)}{_ADD}{_format_tables(added[first : first + _TABLES])}"
        for first in range(0, len(added), _TABLES)
    ]
    return Ensured((name,), added, tuple(removed), existing is None, tuple(statements))


def drop(replication: Replication, name: str) -> list[str]:
    """Drop the slot's publications as far as they are ours; answers their names."""
    dropped = []
    for publication in (name, inserts_name(name)):
        existing = _existing(replication, publication)
        if existing is not None and existing.is_ours:
            _execute(replication, [f"DROP PUBLICATION {quote_identifier(publication)}"])
            dropped.append(publication)
    return dropped


def list_existing(replication: Replication, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the publications that are there."""
    return tuple(name for name in names if _existing(replication, name) is not None)


def inserts_name(name: str) -> str:
    """The publication of tables without replica identity; Postgres's names have at most 63 bytes."""
    return f"{name[: 63 - len('_inserts')]}_inserts"


def _existing(replication: Replication, name: str) -> _Existing | None:
    rows = replication.query(_PUBLICATION, {"name": name, "made": _MADE})
    if not rows:
        return None
    oid, all_tables, via_root, inserts, updates, deletes, truncates, generated, ours = rows[0]
    flags = zip(_EVERYTHING.split(", "), (inserts, updates, deletes, truncates), strict=True)
    return _Existing(oid, all_tables, via_root, ", ".join(o for o, on in flags if on), generated, ours)


def _members(replication: Replication, oid: int) -> set[TableName]:
    return {TableName(*row) for row in replication.query(_MEMBERS, {"oid": oid})}


def _options(operations: str, version: int) -> str:
    generated = ", publish_generated_columns = stored" if version >= 180000 else ""
    return f"publish = '{operations}', publish_via_partition_root = true{generated}"


def _is_as_made(existing: _Existing, operations: str, version: int) -> bool:
    generated = "s" if version >= 180000 else "n"
    return existing.via_root and existing.operations == operations and existing.generated == generated


def _check_foreign(
    replication: Replication, name: str, existing: _Existing, operations: str, tables: Sequence[TableName]
) -> None:
    """Somebody's publication publishes every row, column and operation of the tables, under their own names."""
    place = f"origin {replication.name!r}: publication {name!r}, which dbt-bridge did not make,"
    altered = f"ALTER PUBLICATION {quote_identifier(name)}"
    for restricted, is_filter in _list_restricted(replication, existing.oid).items():
        if restricted in tables:
            what = "leaves out rows of" if is_filter else "leaves out columns of"
            name = quote_table_name(restricted)
            listed = f"{altered} DROP TABLE {name}; {altered} ADD TABLE {name};"
            raise OriginError(f"{place} {what} {restricted}", mend=listed)
    silent = [operation for operation in operations.split(", ") if operation not in existing.operations.split(", ")]
    if tables and silent:
        raise OriginError(
            f"{place} does not publish {', '.join(silent)}", mend=f"{altered} SET (publish = '{operations}');"
        )
    covered = {TableName(*row) for row in replication.query(_COVERED, {"name": name})}
    known = describe_publishable(replication, [table for table in tables if table not in covered])
    roots = [table for table in known.values() if table.kind == "p"]
    missing = [name for name in known if not roots or existing.via_root or known[name].kind != "p"]
    if missing:
        mend = f"{altered} ADD TABLE {_format_tables(missing)};"
        raise OriginError(f"{place} lacks {', '.join(map(str, missing))}", mend=mend)
    if roots:
        mend = f"{altered} SET (publish_via_partition_root = true);"
        raise OriginError(f"{place} publishes partitions under their own names", mend=mend)


def _list_restricted(replication: Replication, oid: int) -> dict[TableName, bool]:
    """Tables that are published without some of their rows (True) or columns (False)."""
    rows = replication.query(_RESTRICTED, {"oid": oid})
    return {TableName(schema, table): is_filter for schema, table, is_filter in rows}


def _execute(replication: Replication, statements: Sequence[str]) -> None:
    """In one transaction: all of it or nothing."""
    if not statements:
        return
    sql = "; ".join(statements)
    try:
        replication.query(f"BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {sql}; COMMIT")
    except OriginError as error:
        replication.query("ROLLBACK")
        if "in a read-only transaction" in error.what:  # a standby, above all
            raise OriginError(error.what, mend=f"at the primary: {sql};") from error
        if "must be owner" in error.what or "permission denied" in error.what:
            raise OriginError(error.what, mend=f"as the owner of the tables, or a superuser: {sql};") from error
        raise


def _format_tables(names: Sequence[TableName]) -> str:
    """ONLY: tables that inherit are their own; partitions follow their root all the same."""
    return ", ".join(f"ONLY {quote_table_name(name)}" for name in names)
