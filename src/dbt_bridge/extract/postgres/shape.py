"""A table's shape: what a checkpoint remembers of it, and what became of it since.

pgoutput says the names and types of columns, and nothing else of an ALTER TABLE: not that a column was added with a
default (rows that stand get it without a message), nor that a column was dropped and another one of its name added, nor
that values were rewritten (`ALTER COLUMN ... TYPE ... USING`). The catalog says the rest: a column keeps its number for
ever, its row in pg_attribute is new after each ALTER of it, and a rewritten table has a new file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from dbt_bridge.extract.postgres.connection import Connections
from dbt_bridge.extract.postgres.messages import Relation, RelationColumn
from dbt_bridge.table import TableName

_COLUMNS = """
SELECT n.nspname, c.relname, c.relkind::text, c.relreplident::text, pg_relation_filenode(c.oid),
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
    def sent_as(self) -> tuple[str, int, int]:
        """What a Relation message says of it."""
        return self.name, self.type_oid, self.modifier


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as the catalog has it.

    Attributes:
        kind: `relkind`: r, or p for a partitioned one.
        identity: `relreplident`: d(efault), n(othing), f(ull), i(ndex).
        identity_columns: of the key or index that identifies a row; empty for full and nothing.
        file: its relfilenode; 0 for a partitioned table.
        columns: those that pgoutput sends.
    """

    oid: int
    schema: str
    name: str
    kind: str
    identity: str
    identity_columns: tuple[str, ...]
    file: int
    columns: tuple[ShapeColumn, ...]

    @property
    def table(self) -> TableName:
        return TableName(self.schema, self.name)

    @property
    def identifies(self) -> bool:
        """Whether updates and deletes say which row they mean."""
        return self.identity == "f" or bool(self.identity_columns)

    @property
    def relation(self) -> Relation:
        """The Relation message that pgoutput would send of it."""
        keys = {c.name for c in self.columns} if self.identity == "f" else set(self.identity_columns)
        columns = tuple(RelationColumn(*c.sent_as, c.name in keys) for c in self.columns)
        return Relation(self.oid, self.table, self.identity, columns)

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def of_json(cls, text: str) -> Shape:
        raw = json.loads(text)
        columns = tuple(ShapeColumn(**column) for column in raw.pop("columns"))
        return cls(**{**raw, "identity_columns": tuple(raw["identity_columns"])}, columns=columns)


def oid_of(connections: Connections, name: TableName) -> int | None:
    """The table under a name, in the connection's snapshot."""
    rows = connections.query(_OID, {"schema": name.schema, "name": name.name})
    return int(rows[0][0]) if rows else None


def shape_of(connections: Connections, oid: int) -> Shape | None:
    """The table as the catalog has it in the connection's snapshot; None when it is gone."""
    rows = connections.query(_COLUMNS, {"oid": oid})
    if not rows:
        return None
    identity = tuple(row[0] for row in connections.query(_IDENTITY, {"oid": oid}))
    published = {"", "s"} if connections.server_version >= 180000 else {""}
    schema, name, kind, replica_identity, file = rows[0][:5]
    columns = tuple(ShapeColumn(*row[5:]) for row in rows if row[5] is not None and row[11] in published)
    return Shape(oid, schema, name, kind, replica_identity, identity, int(file or 0), columns)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a table between two of its shapes.

    Attributes:
        shape: what the table has now; None when only a new copy tells.
        lost: why the rows that stand can only be had by copying the table anew; empty when they are as they were.
        is_changed: columns came, went or have another name or type.
        renamed: old name -> new name.
    """

    shape: Shape | None
    lost: str = ""
    is_changed: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)


def compared(known: Shape, sent: Relation, now: Shape | None) -> Verdict:
    """Decide on a Relation message.

    Args:
        known: the shape that the landing table was last applied in.
        sent: the message: the shape at its place in the log.
        now: the catalog's, which may be further than the log; None when the table is gone.
    """
    was = [column.sent_as for column in known.columns]
    here = [(column.name, column.type_oid, column.modifier) for column in sent.columns]
    if now is None:
        return Verdict(known) if was == here else _lost("it changed, and was dropped since")
    if why := rewritten(known, now):
        return _lost(why)
    current = [column.sent_as for column in now.columns]
    if was == here:
        return Verdict(now if current == here else known)
    if current != here:
        return _lost("its columns changed more than once since the last sync")
    return _evolved(known, now)


def rewritten(known: Shape, now: Shape) -> str:
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
    return ""


def _evolved(known: Shape, now: Shape) -> Verdict:
    before = {column.number: column for column in known.columns}
    renamed = {}
    for column in now.columns:
        old = before.get(column.number)
        if old is None:
            if column.has_missing or column.generated or known.file != now.file or known.kind == "p":
                return _lost(f"its column {column.name!r} was added with values for the rows that stand")
        elif old.name != column.name:
            renamed[old.name] = column.name
        if old is not None and old.type_oid != column.type_oid:
            return _lost(f"the type of its column {column.name!r} changed")
    return Verdict(now, is_changed=True, renamed=renamed)


def _lost(why: str) -> Verdict:
    return Verdict(None, why)


def same_table(known: Shape, now: Shape | None, declared: TableName) -> str:
    """Why a followed table is not the declared one any more; empty while it is."""
    if now is None:
        return f"{declared} was dropped at the origin"
    if now.table != declared:
        return f"{declared} was renamed to {now.table} at the origin"
    return ""


def key_of(shape: Shape, wanted: Sequence[str], primary: Sequence[str]) -> tuple[str, ...]:
    """The columns that find a row in the log: the declared or primary key where the log has it, else the identity's.

    Empty for a table whose rows are matched as a whole (full identity without a key), or not at all.
    """
    key = tuple(wanted or primary)
    if shape.identity == "f":
        return key
    return key if key and set(key) <= set(shape.identity_columns) else shape.identity_columns
