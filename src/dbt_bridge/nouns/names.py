"""Which names an engine takes for one, and what it makes of a name without quotes: asked here, and nowhere else.

engine                        a name without quotes    two names are one
PostgreSQL                    in lower case            when they are equal
DuckDB                        as it is                 also when they differ in the case of ASCII letters
Snowflake                     in upper case            when they are equal
Redshift, Databricks, Trino   in lower case, and       also when they differ in case
                              one in quotes too
BigQuery, ClickHouse          as it is                 when they are equal; BigQuery's columns also in another case
any other                     as it is                 also when they differ in case
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Folding = Callable[[str], str]

_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def keep(name: str) -> str:
    """The name as it is."""
    return name


def lower_ascii(name: str) -> str:
    """Without regard to the case of ASCII letters: `É` and `é` stay two."""
    return name.translate(_TO_LOWER)


@dataclass(frozen=True, slots=True)
class NameRules:
    """How an engine reads names of databases, schemas and tables, and of columns.

    Attributes:
        bare: what a name without quotes means.
        quoted: what one in quotes means.
        is_quoted_by_dbt: where no `quoting:` says otherwise.
        stored: what is kept of a name that the bridge writes there.
        same: two names with one answer are one name.
        same_column: the same of columns.
    """

    bare: Folding = keep
    quoted: Folding = keep
    is_quoted_by_dbt: bool = True
    stored: Folding = keep
    same: Folding = str.casefold
    same_column: Folding = str.casefold

    def meant(self, name: str, *, is_quoted: bool) -> str:
        """What a name means where dbt wrote it so."""
        return self.quoted(name) if is_quoted else self.bare(name)

    def key(self, name: str) -> str:
        """Equal for names of databases, schemas or tables that are one there, once the bridge has written them."""
        return self.same(self.stored(name))


EXACT = NameRules(same=keep, same_column=keep)
POSTGRES = NameRules(bare=lower_ascii, same=keep, same_column=keep)
DUCKDB = NameRules(same=lower_ascii, same_column=lower_ascii)
SNOWFLAKE = NameRules(bare=str.upper, is_quoted_by_dbt=False, stored=str.upper, same=keep, same_column=keep)
LOWER = NameRules(bare=str.lower, quoted=str.lower, stored=str.lower)
BIGQUERY = NameRules(same=keep)
UNKNOWN = NameRules()


def find_twins(names: Iterable[str], same: Folding) -> tuple[str, str] | None:
    """Two different names, or one that stands twice, that are one to an engine: the earlier first."""
    seen: dict[str, str] = {}
    for name in names:
        folded = same(name)
        if folded in seen:
            return seen[folded], name
        seen[folded] = name
    return None
