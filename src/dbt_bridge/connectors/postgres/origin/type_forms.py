"""What the values of a type look like, beyond its number: labels, attributes, base types.

A stored value of an enum is the number of a label, one of a composite type its attributes. When a label is renamed or
an attribute added, every row that holds one reads otherwise, and nothing of it is in the log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dbt_bridge.connectors.postgres.origin.connection import Connections

# Types of an initdb never change; a number below 16384 is one of theirs (transam.h, FirstNormalObjectId). What money
# looks like, a setting says (oid 790). An enum's labels are told apart by their numbers: a rename keeps them. An
# attribute's own name is in no value.
_FORMS = """
WITH RECURSIVE used (relation, oid) AS (
    SELECT a.attrelid, a.atttypid
    FROM pg_attribute a
    WHERE a.attrelid = ANY(%(oids)s::oid[])
      AND a.attnum > 0
      AND NOT a.attisdropped
      AND (a.atttypid >= 16384 OR a.atttypid = 790 OR a.atttypid = 791)
    UNION
    SELECT u.relation, part.oid
    FROM used u
    JOIN pg_type t ON t.oid = u.oid
    CROSS JOIN LATERAL (
        SELECT t.typelem
        UNION ALL
        SELECT t.typbasetype
        UNION ALL
        SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
        UNION ALL
        SELECT r.rngtypid FROM pg_range r WHERE t.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid
        UNION ALL
        SELECT a.atttypid
        FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) part (oid)
    WHERE part.oid >= 16384 OR part.oid = 790 OR part.oid = 791
)
SELECT u.relation::bigint, t.oid::bigint, n.nspname || '.' || t.typname, t.typtype::text,
       CASE
           WHEN t.typtype = 'e' THEN ARRAY(
               SELECT e.oid || ' ' || e.enumlabel FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid
           )
           WHEN t.typtype = 'c' THEN ARRAY(
               SELECT concat_ws(' ', a.attnum, a.atttypid::bigint, a.atttypmod)
               FROM pg_attribute a
               WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
               ORDER BY a.attnum
           )
           WHEN t.typtype = 'd' THEN ARRAY[concat_ws(' ', t.typbasetype::bigint, t.typtypmod)]
           WHEN t.typtype = 'r' THEN ARRAY(
               SELECT concat_ws(' ', r.rngsubtype::bigint, r.rngcollation::bigint)
               FROM pg_range r
               WHERE r.rngtypid = t.oid
           )
           WHEN t.oid = 790 THEN ARRAY[current_setting('lc_monetary')]
           ELSE ARRAY[]::text[]
       END
FROM used u
JOIN pg_type t ON t.oid = u.oid
JOIN pg_namespace n ON n.oid = t.typnamespace
ORDER BY u.relation, t.oid
"""


@dataclass(frozen=True, slots=True)
class TypeForm:
    """A type that a table's columns have, or that one of their types is made of.

    Attributes:
        name: with its schema.
        kind: `typtype`: e(num), c(omposite), d(omain), r(ange), m(ultirange) or b(ase).
        parts: of an enum, number and label of each value; of a composite type, number, type and modifier of each
            attribute; of a domain, its base type; of a range, its subtype and collation.
    """

    oid: int
    name: str
    kind: str
    parts: tuple[str, ...]

    @property
    def facts(self) -> tuple[str, ...]:
        """What stored values stand on: of an enum each label by itself, as others may come beside it."""
        return self.parts if self.kind == "e" else ("; ".join(self.parts),)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> TypeForm:
        """As a checkpoint has it."""
        return cls(raw["oid"], raw["name"], raw["kind"], tuple(raw["parts"]))


def describe_forms(connections: Connections, oids: Collection[int]) -> dict[int, tuple[TypeForm, ...]]:
    """The forms of the types of tables, by the tables' oids; most tables have none."""
    found: dict[int, list[TypeForm]] = {}
    for relation, oid, name, kind, parts in connections.query(_FORMS, {"oids": sorted(oids)}):
        found.setdefault(relation, []).append(TypeForm(oid, name, kind, tuple(parts)))
    return {relation: tuple(forms) for relation, forms in found.items()}


def find_reformed(known: Iterable[TypeForm], now: Iterable[TypeForm]) -> str:
    """Why stored values may read otherwise than they did; empty when they do not.

    A type that is used no more or newly used is a matter of the columns, and values that an enum got are in no row yet.
    """
    current = {form.oid: form for form in now}
    for was in known:
        form = current.get(was.oid)
        if form is None:
            continue
        if was.kind == "e" and (renamed := sorted(set(was.parts).difference(form.parts))):
            labels = ", ".join(repr(label.partition(" ")[2]) for label in renamed)
            return f"values of its type {was.name} were renamed: {labels}"
        if was.kind != "e" and was.parts != form.parts:
            return f"its type {was.name} was altered"
        if was.name != form.name:
            return f"its type {was.name} is called {form.name} now"
    return ""
