"""A table as pgoutput describes it: the Relation message, which comes before the first change of a table.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

from dataclasses import dataclass

from dbt_bridge.nouns.table import TableName


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column of a Relation message.

    Attributes:
        type_oid, modifier: `pg_attribute.atttypid` and `atttypmod`; of a domain its own oid.
        is_key: part of the replica identity.
    """

    name: str
    type_oid: int
    modifier: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A Relation message: what the tuples that follow it are made of.

    Attributes:
        identity: `pg_class.relreplident`: d(efault), n(othing), f(ull), i(ndex).
    """

    oid: int
    name: TableName
    identity: str
    columns: tuple[RelationColumn, ...]
