"""A table's shape: what a checkpoint remembers of it, and how the table changed since.

pgoutput says the names and types of columns, and nothing else of an ALTER TABLE: not that a column was added with a
default (existing rows get it without a message), nor that a column was dropped and another one of its name added, nor
that values were rewritten (`ALTER COLUMN ... TYPE ... USING`). The catalog says the rest: a column keeps its number for
ever, its row in pg_attribute is new after each ALTER of it, and a rewritten table has a new file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from dbt_bridge.connectors.postgres.origin.column_types import WireColumn
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.wire.relation import Relation, RelationColumn
from dbt_bridge.nouns.table import TableName

_COLUMNS = """
SELECT n.nspname, c.relname, c.relkind::text, c.relreplident::text, c.relfilenode::bigint,
       a.attname, a.attnum, a.atttypid::bigint, a.atttypmod, a.xmin::text::bigint, a.atthasmissing, a.attgenerated::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid = %(oid)s
ORDER BY a.attnum
"""

_OID = """
SELECT c.oid::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p')
"""

# What identifies a row in the log: the primary key's columns, those of the chosen unique index, or all of them.
_IDENTITY = """
SELECT a.attname
FROM pg_class c
JOIN pg_index i ON i.indrelid = c.oid
  AND i.indimmediate  -- a deferrable key identifies nothing (relcache.c, RelationGetIndexList)
  AND ((c.relreplident = 'd' AND i.indisprimary) OR (c.relreplident = 'i' AND i.indisreplident))
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
WHERE c.oid = %(oid)s AND k.place <= i.indnkeyatts
ORDER BY k.place
"""


# ATTACH PARTITION writes a partition's columns again; CREATE TABLE ... PARTITION OF writes them once, with tableoid's.
_PARTITIONS = """
WITH RECURSIVE tree AS (
  SELECT inhrelid, xmin::text::bigint AS attached FROM pg_inherits WHERE inhparent = %(oid)s
  UNION ALL
  SELECT i.inhrelid, i.xmin::text::bigint FROM pg_inherits i JOIN tree t ON i.inhparent = t.inhrelid
)
SELECT c.oid::bigint, c.relname::text, c.relfilenode::bigint, t.attached, EXISTS (
  SELECT 1
  FROM pg_attribute a
  JOIN pg_attribute s ON s.attrelid = a.attrelid AND s.attnum = -6
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.xmin = s.xmin AND a.cmin::text = s.cmin::text
)
FROM tree t
JOIN pg_class c ON c.oid = t.inhrelid
ORDER BY c.oid
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
        return cls(**raw, identity_columns=identity, columns=columns, partitions=partitions)


def find_oid(connections: Connections, name: TableName) -> int | None:
    """The table under a name, in the connection's snapshot."""
    rows = connections.query(_OID, {"schema": name.schema, "name": name.name})
    return int(rows[0][0]) if rows else None


def describe_shape(connections: Connections, oid: int) -> Shape | None:
    """The table as the catalog has it in the connection's snapshot; None when it is gone."""
    rows = connections.query(_COLUMNS, {"oid": oid})
    if not rows:
        return None
    identity = tuple(row[0] for row in connections.query(_IDENTITY, {"oid": oid}))
    published = {"", "s"} if connections.server_version >= 180000 else {""}
    schema, name, kind, replica_identity, file = rows[0][:5]
    columns = tuple(ShapeColumn(*row[5:]) for row in rows if row[5] is not None and row[11] in published)
    parts = connections.query(_PARTITIONS, {"oid": oid}) if kind == "p" else []
    partitions = tuple(Partition(*row) for row in parts)
    return Shape(oid, schema, name, kind, replica_identity, identity, int(file), columns, partitions)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a table changed between two of its shapes.

    Attributes:
        shape: what the table has now; None when the table must be copied anew.
        lost: why it must: the stored rows may have changed without a message; empty when they did not.
        is_changed: columns came, went or have another name or type.
        renames: old name -> new name.
    """

    shape: Shape | None
    lost: str = ""
    is_changed: bool = False
    renames: Mapping[str, str] = field(default_factory=dict)


def compare_shapes(known: Shape, sent: Relation, now: Shape | None) -> Verdict:
    """Decide on a Relation message.

    Args:
        known: the shape that the landing table was last applied in.
        sent: the message: the shape at its place in the log.
        now: the catalog's, which may be further than the log; None when the table is gone.
    """
    was = [column.wire_column for column in known.columns]
    here = [WireColumn(column.name, column.type_oid, column.modifier) for column in sent.columns]
    if now is None:
        return Verdict(known) if was == here else _copy_anew("it changed, and was dropped since")
    if why := find_rewrite(known, now):
        return _copy_anew(why)
    current = [column.wire_column for column in now.columns]
    if was == here:
        return Verdict(now if current == here else known)
    if current != here:
        return _copy_anew("its columns changed more than once since the last sync")
    return _judge_alteration(known, now)


def find_rewrite(known: Shape, now: Shape) -> str:
    """Why the stored rows may have changed without a message; empty when they did not."""
    by_number = {column.number: column for column in now.columns}
    by_name = {column.name: column for column in now.columns}
    for column in known.columns:
        same = by_name.get(column.name)
        if same is not None and same.number != column.number and column.number not in by_number:
            return f"its column {column.name!r} was dropped, and another one of that name added"
    file_changed = known.file != now.file or known.kind == "p"
    for column in known.columns:
        there = by_number.get(column.number)
        if file_changed and there is not None and there.touched != column.touched:
            return f"its column {there.name!r} was altered, and the table rewritten"
    return _find_repartition(known, now)


def _find_repartition(known: Shape, now: Shape) -> str:
    """Why rows may have come or gone with a partition: pgoutput says nothing of what is done to it by its own name.

    https://www.postgresql.org/docs/current/sql-createpublication.html (publish_via_partition_root: TRUNCATE performed
    directly on partitions is not replicated)
    """
    here = {partition.oid: partition for partition in now.partitions}
    for was in known.partitions:
        partition = here.pop(was.oid, None)
        if partition is None or partition.attached != was.attached:
            return f"its partition {was.name!r} was detached or dropped"
        if partition.file != was.file:
            return f"its partition {was.name!r} was truncated or rewritten"
    joined = [partition.name for partition in here.values() if not partition.made]
    return f"the table {joined[0]!r} was attached as its partition" if joined else ""


def find_renames(known: Shape, now: Shape) -> dict[str, str]:
    """Old name -> new name."""
    names = {column.number: column.name for column in now.columns}
    there = {column.name: names.get(column.number, column.name) for column in known.columns}
    return {old: new for old, new in there.items() if old != new}


def _judge_alteration(known: Shape, now: Shape) -> Verdict:
    before = {column.number: column for column in known.columns}
    renames = {}
    for column in now.columns:
        old = before.get(column.number)
        if old is None:
            if column.has_missing or column.generated or known.file != now.file or known.kind == "p":
                return _copy_anew(f"its column {column.name!r} was added with values for the rows that stand")
        elif old.name != column.name:
            renames[old.name] = column.name
        if old is not None and old.type_oid != column.type_oid:
            return _copy_anew(f"the type of its column {column.name!r} changed")
    return Verdict(now, is_changed=True, renames=renames)


def _copy_anew(why: str) -> Verdict:
    return Verdict(None, why)


def resolve_key(shape: Shape, wanted: Sequence[str], primary: Sequence[str]) -> tuple[str, ...]:
    """The columns that find a row in the log: the declared or primary key where the log has it, else the identity's.

    Empty for a table whose rows are matched as a whole (full identity without a key), or not at all.
    """
    key = tuple(wanted or primary)
    if shape.identity == "f":
        return key
    return key if key and set(key) <= set(shape.identity_columns) else shape.identity_columns
