"""A table's shape: all that a checkpoint remembers of it at the origin. `shape_changes` tells what happened since."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dbt_bridge.connectors.postgres.origin.column_types import WireColumn
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.membership import Membership, describe_memberships
from dbt_bridge.connectors.postgres.origin.type_forms import TypeForm, describe_forms
from dbt_bridge.connectors.postgres.wire.relation import Relation, RelationColumn
from dbt_bridge.nouns.table import TableName, UnfollowedColumn

_COLUMNS = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relreplident::text, c.relfilenode::bigint,
       a.attname, a.attnum, a.atttypid::bigint, a.atttypmod, a.xmin::text::bigint, a.atthasmissing,
       a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
WHERE c.oid = ANY(%(oids)s::oid[])
ORDER BY c.oid, a.attnum
"""

_OID = """
SELECT n.nspname, c.relname, c.oid::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (schema, name)
  ON n.nspname = wanted.schema AND c.relname = wanted.name
WHERE c.relkind IN ('r', 'p')
"""

# What identifies a row in the log: the primary key's columns, those of the chosen unique index, or all of them.
_IDENTITY = """
SELECT c.oid::bigint, a.attname
FROM pg_class c
JOIN pg_index i ON i.indrelid = c.oid
  AND i.indimmediate  -- a deferrable key identifies nothing (relcache.c, RelationGetIndexList)
  AND ((c.relreplident = 'd' AND i.indisprimary) OR (c.relreplident = 'i' AND i.indisreplident))
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
WHERE c.oid = ANY(%(oids)s::oid[]) AND k.place <= i.indnkeyatts
ORDER BY c.oid, k.place
"""


# ATTACH PARTITION writes a partition's columns again; CREATE TABLE ... PARTITION OF writes them once, with tableoid's.
# DETACH ... CONCURRENTLY has its row stay for a while, of a partition that queries do not see any more.
_PARTITIONS = """
WITH RECURSIVE parts AS (
  SELECT i.inhrelid, i.inhparent, i.xmin::text::bigint AS attached
  FROM pg_inherits i
  WHERE NOT coalesce((to_jsonb(i) ->> 'inhdetachpending')::boolean, false)
), tree AS (
  SELECT inhparent AS root, inhrelid, attached FROM parts WHERE inhparent = ANY(%(oids)s::oid[])
  UNION ALL
  SELECT t.root, i.inhrelid, i.attached FROM parts i JOIN tree t ON i.inhparent = t.inhrelid
)
SELECT t.root::bigint, c.oid::bigint, c.relname::text, c.relfilenode::bigint, t.attached, EXISTS (
  SELECT 1
  FROM pg_attribute a
  JOIN pg_attribute s ON s.attrelid = a.attrelid AND s.attnum = -6
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.xmin = s.xmin AND a.cmin::text = s.cmin::text
)
FROM tree t
JOIN pg_class c ON c.oid = t.inhrelid
ORDER BY t.root, c.oid
"""


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a partitioned table, at any depth.

    Attributes:
        file: its relfilenode; 0 where it is partitioned itself.
        attached: `xmin` of its row in pg_inherits.
        made: it was made as a partition, so that all its rows were published as the root's.
    """

    oid: int
    name: str
    file: int
    attached: int
    made: bool

    @property
    def is_rewritten(self) -> bool:
        """It has not the file any more that it was made with, whose number is the table's own (heap.c, heap_create)."""
        return self.file not in (0, self.oid)


@dataclass(frozen=True, slots=True)
class ShapeColumn:
    """A column as the catalog has it.

    Attributes:
        number: `attnum`.
        type_oid, modifier: `atttypid`, `atttypmod`.
        touched: `xmin` of its row in pg_attribute.
        has_missing: rows older than the column have its default without holding it (`atthasmissing`).
        generated: `attgenerated`: s(tored), v(irtual) or empty.
    """

    name: str
    number: int
    type_oid: int
    modifier: int
    touched: int
    has_missing: bool = False
    generated: str = ""

    @property
    def wire_column(self) -> WireColumn:
        """What a Relation message says of it."""
        return WireColumn(self.name, self.type_oid, self.modifier)


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as the catalog has it.

    Attributes:
        kind: `relkind`: r, or p for a partitioned one.
        identity: `relreplident`: d(efault), n(othing), f(ull), i(ndex).
        identity_columns: of the key or index that identifies a row; empty for full and nothing.
        file: its relfilenode; 0 for a partitioned table.
        columns: those that pgoutput sends.
        partitions: of a partitioned table.
        forms: what the values of its columns look like, beyond what their types' numbers say; None in a checkpoint of
            an older version, which did not ask.
        published: by what the slot's publications have its changes; None in one of an older version, too.
        unsent: columns that pgoutput does not send, by name: generated ones, with their expressions.
    """

    oid: int
    schema: str
    name: str
    kind: str
    identity: str
    identity_columns: tuple[str, ...]
    file: int
    columns: tuple[ShapeColumn, ...]
    partitions: tuple[Partition, ...] = ()
    forms: tuple[TypeForm, ...] | None = None
    published: tuple[Membership, ...] | None = None
    unsent: tuple[UnfollowedColumn, ...] = ()

    @property
    def table(self) -> TableName:
        return TableName(self.schema, self.name)

    @property
    def relation(self) -> Relation:
        """The Relation message that pgoutput would send of it."""
        keys = {c.name for c in self.columns} if self.identity == "f" else set(self.identity_columns)
        columns = tuple(RelationColumn(c.name, c.type_oid, c.modifier, c.name in keys) for c in self.columns)
        return Relation(self.oid, self.table, self.identity, columns)

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Shape:
        raw = json.loads(text)
        columns = tuple(ShapeColumn(**column) for column in raw.pop("columns"))
        partitions = tuple(Partition(**partition) for partition in raw.pop("partitions", ()))
        identity = tuple(raw.pop("identity_columns"))
        forms, published = raw.pop("forms", None), raw.pop("published", None)
        unsent = tuple(UnfollowedColumn(**column) for column in raw.pop("unsent", ()))
        return cls(
            **raw,
            identity_columns=identity,
            columns=columns,
            partitions=partitions,
            forms=None if forms is None else tuple(TypeForm.of(form) for form in forms),
            published=None if published is None else tuple(Membership(**member) for member in published),
            unsent=unsent,
        )


def find_oids(connections: Connections, names: Collection[TableName]) -> dict[TableName, int]:
    """The tables under these names, in the connection's snapshot; those that are not there are absent."""
    wanted = {"schemas": [name.schema for name in names], "names": [name.name for name in names]}
    return {TableName(schema, name): oid for schema, name, oid in connections.query(_OID, wanted)}


def find_oid(connections: Connections, name: TableName) -> int | None:
    """The table under a name."""
    return find_oids(connections, [name]).get(name)


def describe_shapes(
    connections: Connections, oids: Collection[int], publications: Sequence[str] = ()
) -> dict[int, Shape]:
    """Tables as the catalog has them in the connection's snapshot, by oid; those that are gone are absent.

    Args:
        publications: those of the slot.
    """
    wanted = {"oids": sorted(oids)}
    rows = _group(connections.query(_COLUMNS, wanted)) if oids else {}
    if not rows:
        return {}
    identities = _group(connections.query(_IDENTITY, wanted))
    roots = [oid for oid, of_table in rows.items() if of_table[0][2] == "p"]
    partitions = _group(connections.query(_PARTITIONS, {"oids": roots})) if roots else {}
    forms = describe_forms(connections, oids)
    members = describe_memberships(connections, oids, publications)
    sent = {"", "s"} if connections.server_version >= 180000 else {""}
    found = {}
    for oid, of_table in rows.items():
        schema, name, kind, identity, file = of_table[0][:5]
        there = [row for row in of_table if row[5] is not None]
        found[oid] = Shape(
            oid,
            schema,
            name,
            kind,
            identity,
            tuple(row[0] for row in identities.get(oid, ())),
            int(file),
            tuple(ShapeColumn(*row[5:12]) for row in there if row[11] in sent),
            tuple(Partition(*row) for row in partitions.get(oid, ())),
            forms.get(oid, ()),
            members.get(oid, ()),
            tuple(UnfollowedColumn(row[5], row[12]) for row in there if row[11] not in sent),
        )
    return found


def describe_shape(connections: Connections, oid: int, publications: Sequence[str] = ()) -> Shape | None:
    """One table; None when it is gone. See `describe_shapes`."""
    return describe_shapes(connections, [oid], publications).get(oid)


def _group(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    """Rows that begin with a table's oid, by it and without it."""
    grouped: dict[int, list[tuple[Any, ...]]] = {}
    for oid, *row in rows:
        grouped.setdefault(oid, []).append(tuple(row))
    return grouped


def resolve_key(shape: Shape, wanted: Sequence[str], primary: Sequence[str]) -> tuple[str, ...]:
    """The columns that find a row in the log: the declared or primary key where the log has it, else the identity's.

    Empty for a table whose rows are matched as a whole (full identity without a key), or not at all.
    """
    unsent = {column.name for column in shape.unsent}
    key = tuple(wanted or (() if unsent.intersection(primary) else primary))
    if shape.identity == "f":
        return key
    return key if key and set(key) <= set(shape.identity_columns) else shape.identity_columns
