"""By what a table's changes are in the publications of a slot, so that a gap in it is noticed.

Each row of the catalog has the transaction that wrote it last (`xmin`): a table that left a publication and came back
has another row, and a publication that was altered meanwhile, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dbt_bridge.connectors.postgres.origin.connection import Connections

_LISTED = """
SELECT w.oid::bigint, p.pubname, p.oid::bigint, p.xmin::text::bigint, r.oid::bigint, r.xmin::text::bigint, 0
FROM unnest(%(oids)s::oid[]) AS w (oid)
JOIN pg_publication p ON p.pubname = ANY(%(names)s::text[])
JOIN pg_publication_rel r
  ON r.prpubid = p.oid AND (r.prrelid = w.oid OR r.prrelid IN (SELECT relid FROM pg_partition_ancestors(w.oid)))
UNION ALL
SELECT w.oid::bigint, p.pubname, p.oid::bigint, p.xmin::text::bigint, 0, 0, 0
FROM unnest(%(oids)s::oid[]) AS w (oid)
JOIN pg_publication p ON p.pubname = ANY(%(names)s::text[]) AND p.puballtables
"""
# A table leaves a schema's publication with the schema; then the row of its type is written, which a GRANT does not.
_BY_SCHEMA = """
UNION ALL
SELECT w.oid::bigint, p.pubname, p.oid::bigint, p.xmin::text::bigint,
       s.oid::bigint, s.xmin::text::bigint, t.xmin::text::bigint
FROM unnest(%(oids)s::oid[]) AS w (oid)
JOIN pg_class c ON c.oid = w.oid
JOIN pg_type t ON t.oid = c.reltype
JOIN pg_publication p ON p.pubname = ANY(%(names)s::text[])
JOIN pg_publication_namespace s ON s.pnpubid = p.oid AND s.pnnspid = c.relnamespace
"""
_ORDER = "ORDER BY 1, 3, 5"


@dataclass(frozen=True, slots=True)
class Membership:
    """One way in which a publication has a table.

    Attributes:
        name: of the publication.
        publication, publication_row: its oid, and `xmin` of its row.
        member, member_row: of the row by which the table, or its schema, is in it; 0 of one for all tables.
        named_row: `xmin` of what names the table's schema, where it is in it by that.
    """

    name: str
    publication: int
    publication_row: int
    member: int
    member_row: int
    named_row: int = 0


def describe_memberships(
    connections: Connections, oids: Collection[int], publications: Sequence[str]
) -> dict[int, tuple[Membership, ...]]:
    """By what each table is published, by its oid; a table that is not is absent.

    Args:
        publications: the names of those that count.
    """
    if not publications:
        return {}
    by_schema = _BY_SCHEMA if connections.server_version >= 150000 else ""
    wanted = {"oids": sorted(oids), "names": list(publications)}
    found: dict[int, list[Membership]] = {}
    for oid, *rows in connections.query(f"{_LISTED}{by_schema}{_ORDER}", wanted):
        found.setdefault(oid, []).append(Membership(*rows))
    return {oid: tuple(members) for oid, members in found.items()}


def has_another(connections: Connections, remembered: Iterable[Membership], publications: Sequence[str]) -> bool:
    """Whether one of the publications is not the one any more by which tables are remembered to be published: it was
    dropped, and perhaps made again. pgoutput cannot be read from before that."""
    known: dict[str, set[int]] = {}
    for member in remembered:
        known.setdefault(member.name, set()).add(member.publication)
    rows = connections.query(
        "SELECT pubname, oid::bigint FROM pg_publication WHERE pubname = ANY(%(names)s::text[])",
        {"names": list(publications)},
    )
    now = dict(rows)
    return any(now.get(name) not in oids for name, oids in known.items() if name in publications)
