"""How tables stand at a Postgres origin: whether they are there, can be published, and are as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dbt_bridge.connectors.postgres.changes.publication import Publishable
from dbt_bridge.connectors.postgres.changes.unremembered import adopt
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.connectors.postgres.origin.catalog import PRIMARY_KEY, resolve_columns
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.membership import has_another
from dbt_bridge.connectors.postgres.origin.shape import Shape
from dbt_bridge.connectors.postgres.origin.shape_changes import find_renames, find_rewrite
from dbt_bridge.contracts.change_feed import DeclaredTable, TableFinding, TableVersion
from dbt_bridge.errors import BridgeError, ConnectionFailed, KeyRefused, OriginError
from dbt_bridge.nouns.refusals import Refusals
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_table_name
from dbt_bridge.system.retry import is_transient

_CUT_OFF = "its publication was dropped, and a slot cannot be read from before the next one was made"
_OTHER_RELATION = """
SELECT 1
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('v', 'm', 'f')
"""
# By which index a change may say which row it means: https://www.postgresql.org/docs/current/sql-altertable.html
_IDENTIFYING = """
SELECT x.relname
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indimmediate AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
  AND (SELECT bool_and(a.attnotnull AND a.attgenerated = '')
       FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
       WHERE k.n <= i.indnkeyatts)
ORDER BY i.indnkeyatts, 1
LIMIT 1
"""
# A deferrable constraint's index is not immediate (indimmediate).
_UNIQUE_AT_ONCE = """
SELECT 1
FROM pg_index i
WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indimmediate AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
  AND (SELECT array_agg(a.attname::text)
       FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
       WHERE k.n <= i.indnkeyatts) <@ %(key)s::text[]
LIMIT 1
"""


# What a table is a partition of, at any height.
_ABOVE = """
SELECT w.oid::bigint, n.nspname, c.relname
FROM unnest(%(oids)s::oid[]) AS w (oid)
CROSS JOIN LATERAL pg_partition_ancestors(w.oid) a
JOIN pg_class c ON c.oid = a.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.relid <> w.oid
"""


def resolve_name(origin: Connections, table: DeclaredTable) -> TableName:
    """A table's name at the origin; the default schema is known to a connection."""
    if not table.name.schema and not origin.server_version:
        origin.query("SELECT 1")
    return TableName(table.name.schema or origin.default_schema, table.name.name)


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked at together, for all tables of a source.

    Attributes:
        slot: of the source, and its publications.
        publishable: what the catalog says of publishing each table.
    """

    slot: str
    publications: tuple[str, ...]
    publishable: Mapping[TableName, Publishable]


def examine_tables(
    origin: Connections, tables: Sequence[DeclaredTable], look: Look, *, is_cut_off: bool = False
) -> dict[str, TableFinding | BridgeError]:
    """How each table stands, by node.

    Args:
        origin: of this moment.
        is_cut_off: no table goes on (`is_cut_off`).

    Raises:
        BridgeError: of the origin as a whole: it cannot be asked, or only not now.
    """
    names = {table.node: resolve_name(origin, table) for table in tables}
    oids = shapes.find_oids(origin, names.values())
    standing = shapes.describe_shapes(origin, oids.values(), look.publications)
    above = [(oid, TableName(*name)) for oid, *name in origin.query(_ABOVE, {"oids": sorted(oids.values())})]
    roots = {oid: root for oid, root in above if root in oids}
    found: dict[str, TableFinding | BridgeError] = {}
    for table in tables:
        name = names[table.node]
        try:
            if (root := roots.get(oids.get(name, 0))) is not None:
                raise _is_partition(name, root)
            finding = _examine(origin, table, (name, standing.get(oids.get(name, 0))), look)
            found[table.node] = replace(finding, lost=_CUT_OFF) if is_cut_off and table.shape else finding
        except ConnectionFailed:
            raise
        except BridgeError as error:
            if is_transient(error):
                raise
            found[table.node] = error
    return found


def describe_version(origin: Connections, table: DeclaredTable, shape: Shape) -> TableVersion:
    """The table in a shape, which need not be its last one, with the types that the catalog knows."""
    columns = resolve_columns(origin, [column.wire_column for column in shape.columns]).columns
    primary = origin.query(PRIMARY_KEY, {"oid": shape.oid})
    key = shapes.resolve_key(shape, table.key, [row[0] for row in primary])
    rotates = shape.identity == "f" and bool(key) and not _is_held_at_once(origin, shape, key)
    return TableVersion(shape.table, shape.as_json(), columns, key, shape.unsent, rotates)


def _is_held_at_once(origin: Connections, shape: Shape, key: Sequence[str]) -> bool:
    """Whether no two rows have the key at any moment, also inside of a transaction."""
    return bool(origin.query(_UNIQUE_AT_ONCE, {"oid": shape.oid, "key": list(key)}))


def is_cut_off(origin: Connections, tables: Sequence[DeclaredTable], look: Look) -> bool:
    """Whether the slot cannot be read from where it stands: a publication was dropped, and perhaps made again since.

    pgoutput looks it up as of each change.
    """
    shaped = [Shape.from_json(table.shape) for table in tables if table.shape]
    remembered = [member for shape in shaped for member in shape.published or ()]
    return has_another(origin, remembered, look.publications)


def _examine(
    origin: Connections, table: DeclaredTable, there: tuple[TableName, Shape | None], look: Look
) -> TableFinding:
    name, now = there
    if now is None or name not in look.publishable:  # or was dropped between the two looks
        raise _missing(origin, name, table)
    refused = _find_refusal(origin, look.publishable[name], now, table)
    if not table.shape:
        version = describe_version(origin, table, now)
        return TableFinding(name, version, now.as_json(), latest=version, refused=refused)
    before, unknown = adopt(origin, look.slot, Shape.from_json(table.shape), now)
    is_same = before.oid == now.oid
    lost = find_rewrite(before, now) or unknown if is_same else "it is another table of the same name at the origin"
    renamed = find_renames(before, now) if is_same else {}
    # The same columns, untouched: a new file alone is a TRUNCATE or VACUUM FULL, which changes no stored value.
    is_as_it_was = before.columns == now.columns and before.table == now.table
    goes_on = now if lost or is_as_it_was else replace(before, partitions=now.partitions, unsent=now.unsent)
    version = describe_version(origin, table, goes_on)
    latest = describe_version(origin, table, now) if table.asks_latest else None
    is_late = goes_on.relation != now.relation
    return TableFinding(name, version, now.as_json(), lost, renamed, is_late, latest, refused)


def _find_refusal(
    origin: Connections, published: Publishable, now: Shape, declared: DeclaredTable
) -> BridgeError | None:
    """Everything for which the table cannot be followed whole."""
    refusals = Refusals()
    with refusals.gather():
        _check_publishable(published, declared)
    with refusals.gather():
        _check_key_is_sent(origin, now, declared)
    return refusals.join()


def _check_publishable(table: Publishable, declared: DeclaredTable) -> None:
    """Refuse a table that cannot be followed whole, before it is in a publication.

    Raises:
        OriginError: its rows are not, or not all, in the log under its name.
        KeyRefused: its updates and deletes do not say which row they mean, and they are not only appended.
    """
    if table.persistence != "p":
        raise OriginError(
            f"{table.name} is not in the log: it is unlogged, or temporary",
            mend=f"ALTER TABLE {quote_table_name(table.name)} SET LOGGED; or replication: initial_copy",
        )
    if table.has_heirs:
        raise OriginError(
            f"other tables inherit from {table.name}, and their changes come under their own names",
            mend=f"replication: initial_copy or incremental for {table.name.name}, which has their rows too; they"
            " themselves can be followed",
        )
    if table.identifies or declared.log_only:
        return
    lacking = ", ".join(map(str, table.unidentified))
    full = " ".join(f"ALTER TABLE {quote_table_name(name)} REPLICA IDENTITY FULL;" for name in table.unidentified)
    raise KeyRefused(
        f"updates and deletes of {table.name} do not say which row they mean: no primary key and no other replica"
        f" identity (of {lacking})",
        mend=f"ALTER TABLE ... ADD PRIMARY KEY (...); or {full} or `write_disposition: append` in its bridge block,"
        " which lands its inserts as a log",
    )


def _check_key_is_sent(origin: Connections, shape: Shape, declared: DeclaredTable) -> None:
    """Raises KeyRefused: rows are named by a column that the log does not have."""
    unsent = [column for column in shape.unsent if column.name in shape.identity_columns]
    if unsent and not declared.log_only:
        indexes = origin.query(_IDENTIFYING, {"oid": shape.oid})
        identity = f"USING INDEX {quote_identifier(indexes[0][0])}" if indexes else "FULL"
        raise KeyRefused(
            f"updates and deletes of {shape.table} name their row by {unsent[0]}",
            mend=f"ALTER TABLE {quote_table_name(shape.table)} REPLICA IDENTITY {identity}; then dbt-bridge sync",
        )


def _is_partition(name: TableName, root: TableName) -> OriginError:
    return OriginError(
        f"{name} is a partition of {root}, which is followed too, and its changes come as those of {root}",
        mend=f"take one of the two out of the dbt source; or replication: initial_copy for {name.name}",
    )


def _missing(origin: Connections, name: TableName, table: DeclaredTable) -> OriginError:
    if origin.query(_OTHER_RELATION, {"schema": name.schema, "name": name.name}):
        return OriginError(
            f"origin {origin.name!r}: {name} is no table but a view or a foreign table, whose rows are in no log",
            mend="replication: initial_copy or incremental in its bridge block; or exclude it",
        )
    what = f"origin {origin.name!r} has no table {name}"
    if not table.shape:
        return OriginError(what, mend="correct the table's name in the dbt source, or `identifier:`")
    now = shapes.describe_shape(origin, Shape.from_json(table.shape).oid)
    if now is None:
        return OriginError(
            f"{what}: it was dropped, and its landing table stays as it last was",
            mend="take the table out of the dbt source, or create it at the origin again",
        )
    return OriginError(f"{what}: it was renamed to {now.table}", mend=f"identifier: {now.name} in the dbt source")
