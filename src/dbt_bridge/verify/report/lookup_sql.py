"""SQL with which an engineer looks at rows that differ, at both sides.

It is standard SQL (identifiers in double quotes), made only of relations whose names cannot be misread, and of keys
that were told: it is shown, never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dbt_bridge.nouns.parity import DELIVERED, LANDED, Parity
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_literal, quote_table_name

_NAMED = re.compile(r"[^:]*: ([^\s.:()]+)\.([^\s.:()]+)")
_KEYS = 10


def write_lookups(parity: Parity) -> list[tuple[str, str]]:
    """(the side, its SQL); none where the relation is a query, or the rows have no key that can be written."""
    if parity.words not in (LANDED, DELIVERED) or not parity.key:
        return []
    keys = [d.key for d in parity.examples if all(_can_be_written(d.key.get(column, "\0")) for column in parity.key)]
    if not keys:
        return []
    condition = _condition(parity.key, keys[:_KEYS])
    sides = ((parity.words[0], parity.origin), (parity.words[1], parity.destination))
    return [
        (side, f"SELECT *\nFROM {quote_table_name(TableName(named[1], named[2]))}\nWHERE {condition};")
        for side, text in sides
        if (named := _NAMED.fullmatch(text))
    ]


def _condition(columns: tuple[str, ...], keys: list[Mapping[str, str | None]]) -> str:
    """One key per line; NULL is a key of its own."""
    if len(columns) == 1 and all(key[columns[0]] is not None for key in keys):
        values = ", ".join(quote_literal(key[columns[0]] or "") for key in keys)
        return f"{quote_identifier(columns[0])} IN ({values})"
    rows = [" AND ".join(_equals(column, key[column]) for column in columns) for key in keys]
    return "\n   OR ".join(f"({row})" for row in rows)


def _equals(column: str, value: str | None) -> str:
    return (
        f"{quote_identifier(column)} IS NULL"
        if value is None
        else f"{quote_identifier(column)} = {quote_literal(value)}"
    )


def _can_be_written(value: str | None) -> bool:
    """What has backslashes or cannot be seen means something else from engine to engine."""
    return value is None or (value.isprintable() and "\\" not in value)
