"""SQL with which an engineer looks at rows that differ, at both sides.

It is standard SQL (identifiers in double quotes), made only of relations whose names cannot be misread, and of keys
that are in the report: it is shown, never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dbt_bridge.nouns.parity import DELIVERED, LANDED, Parity
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_literal, quote_table_name

_RELATION = re.compile(r"[^:]*: ([^\s.:()]+)\.([^\s.:()]+)")
_KEYS = 10


@dataclass(frozen=True, slots=True)
class Lookup:
    """A statement for one side.

    Attributes:
        side: what the side is called.
    """

    side: str
    sql: str


def write_lookups(parity: Parity) -> list[Lookup]:
    """None for a side that is a query, and for rows that have no key that can be written."""
    if parity.words not in (LANDED, DELIVERED) or not parity.key:
        return []
    keys = [d.key for d in parity.examples if all(_can_be_written(d.key.get(column, "\0")) for column in parity.key)]
    if not keys:
        return []
    condition = _condition(parity.key, keys[:_KEYS])
    return [
        Lookup(side, f"SELECT *\nFROM {quote_table_name(TableName(match[1], match[2]))}\nWHERE {condition};")
        for side, relation in zip(parity.words, (parity.origin, parity.destination), strict=True)
        if (match := _RELATION.fullmatch(relation))
    ]


def _condition(columns: tuple[str, ...], keys: list[Mapping[str, str | None]]) -> str:
    """One key per line; NULL is a key of its own."""
    if len(columns) == 1 and all(key[columns[0]] is not None for key in keys):
        values = ", ".join(quote_literal(key[columns[0]] or "") for key in keys)
        return f"{quote_identifier(columns[0])} IN ({values})"
    rows = [" AND ".join(_equals(column, key[column]) for column in columns) for key in keys]
    return "\n   OR ".join(f"({row})" for row in rows)


def _equals(column: str, value: str | None) -> str:
    name = quote_identifier(column)
    return f"{name} IS NULL" if value is None else f"{name} = {quote_literal(value)}"


def _can_be_written(value: str | None) -> bool:
    """What has backslashes or cannot be seen means something else from engine to engine."""
    return value is None or (value.isprintable() and "\\" not in value)
