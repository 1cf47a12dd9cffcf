"""Which names an engine takes for one, what it makes of a name without quotes, and how long a name may be; and the
names that the bridge makes itself: asked here, and nowhere else.

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

import hashlib
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
        longest: how many bytes of a name are kept; None where every name is.
    """

    bare: Folding = keep
    quoted: Folding = keep
    is_quoted_by_dbt: bool = True
    stored: Folding = keep
    same: Folding = str.casefold
    same_column: Folding = str.casefold
    longest: int | None = None

    def meant(self, name: str, *, is_quoted: bool) -> str:
        """What a name means where dbt wrote it so."""
        return self.quoted(name) if is_quoted else self.bare(name)

    def key(self, name: str) -> str:
        """Equal for names of databases, schemas or tables that are one there, once the bridge has written them."""
        return self.same(self.stored(name))

    def make(self, name: str, suffix: str = "") -> str:
        """A name of the bridge's own beside one of the origin's; see `make_name`."""
        return make_name(name, suffix, self.longest)


EXACT = NameRules(same=keep, same_column=keep)
FILES = NameRules(same=keep, same_column=keep, longest=255)
POSTGRES = NameRules(bare=lower_ascii, same=keep, same_column=keep, longest=63)
DUCKDB = NameRules(same=lower_ascii, same_column=lower_ascii)
SNOWFLAKE = NameRules(bare=str.upper, is_quoted_by_dbt=False, stored=str.upper, same=keep, same_column=keep)
LOWER = NameRules(bare=str.lower, quoted=str.lower, stored=str.lower)
BIGQUERY = NameRules(same=keep)
UNKNOWN = NameRules()

OWN_NAMES = "_dbt_bridge"
"""With this begins what the bridge keeps in a database beside the tables that a project names: staging tables, indexes,
marks of deliveries, and the schema of its audit tables."""


def is_own_name(name: str) -> bool:
    """Whether it is one of the bridge's own, in any case of its letters."""
    return name.casefold().startswith(OWN_NAMES)


def make_name(name: str, suffix: str, longest: int | None) -> str:
    """`<name><suffix>`, which an engine keeps as it is.

    Where that is too long: as much of the name as there is room for, `_`, the first 8 hexadecimal digits of the
    SHA-256 of the whole name, and the suffix. So `ls` shows where it belongs, and two long names never meet.

    Args:
        longest: in bytes of UTF-8; None where there is no bound.
    """
    whole = f"{name}{suffix}"
    if longest is None or len(whole.encode()) <= longest:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    room = longest - len(suffix.encode()) - len(digest) - 1
    return f"{name.encode()[:room].decode(errors='ignore')}_{digest}{suffix}"


def find_twins(names: Iterable[str], same: Folding) -> tuple[str, str] | None:
    """Two different names, or one that stands twice, that are one to an engine: the earlier first."""
    seen: dict[str, str] = {}
    for name in names:
        folded = same(name)
        if folded in seen:
            return seen[folded], name
        seen[folded] = name
    return None
