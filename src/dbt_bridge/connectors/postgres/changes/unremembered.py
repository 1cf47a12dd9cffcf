"""Checkpoints of versions that did not remember a table's types and publications: whether these are as they were.

All transactions below a slot's `catalog_xmin` had ended at a place of the log that the slot was confirmed beyond, so
before the checkpoint. What the catalog has from one of them is as it was there; of the rest nobody knows.
https://www.postgresql.org/docs/current/view-pg-replication-slots.html
"""

from __future__ import annotations

from dataclasses import replace

from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.shape import Shape

_NEWER = """
SELECT count(*)
FROM (
    SELECT t.xmin AS written FROM pg_type t WHERE t.oid = ANY(%(types)s::oid[])
    UNION ALL
    SELECT e.xmin FROM pg_enum e WHERE e.enumtypid = ANY(%(types)s::oid[])
    UNION ALL
    SELECT a.xmin
    FROM pg_type t
    JOIN pg_attribute a ON a.attrelid = t.typrelid
    WHERE t.oid = ANY(%(types)s::oid[]) AND t.typtype = 'c'
    UNION ALL
    SELECT p.xmin FROM pg_publication p WHERE p.oid = ANY(%(publications)s::oid[])
    UNION ALL
    SELECT r.xmin FROM pg_publication_rel r WHERE r.oid = ANY(%(members)s::oid[])
    {by_schema}
) AS catalog
WHERE NOT coalesce(
    (SELECT age(catalog.written) > age(s.catalog_xmin) FROM pg_replication_slots s WHERE s.slot_name = %(slot)s), false
)
"""
# A table that moves to another schema is written in the row of its type (see `membership`).
_BY_SCHEMA = """
    UNION ALL
    SELECT s.xmin FROM pg_publication_namespace s WHERE s.oid = ANY(%(members)s::oid[])
    UNION ALL
    SELECT t.xmin
    FROM pg_class c
    JOIN pg_type t ON t.oid = c.reltype
    JOIN pg_publication_namespace s ON s.pnnspid = c.relnamespace
    WHERE c.oid = %(table)s::oid AND s.oid = ANY(%(members)s::oid[])
"""


def adopt(origin: Connections, slot: str, before: Shape, now: Shape) -> tuple[Shape, str]:
    """A remembered shape with what it lacks, as it is now; and why that is not known to have been so, if it is not.

    Args:
        origin: of the moment in which `now` was described.
    """
    if before.forms is not None and before.published is not None:
        return before, ""
    adopted = replace(before, forms=now.forms, published=now.published)
    types = [form.oid for form in now.forms or ()]
    members = now.published or ()
    wanted = {
        "slot": slot,
        "types": types,
        "publications": [member.publication for member in members],
        "members": [member.member for member in members],
        "table": now.oid,
    }
    by_schema = _BY_SCHEMA if origin.server_version >= 150000 else ""
    ((newer,),) = origin.query(_NEWER.replace("{by_schema}", by_schema), wanted)
    why = "its types or its publication may have changed before this version remembered them" if newer else ""
    return adopted, why
