"""How names are spelled at a destination that dlt loads: as they are, but for Snowflake's.

dbt writes a relation's name there without quotes, which Snowflake stores in upper case
(https://docs.snowflake.com/en/sql-reference/identifiers-syntax; dbt's `quoting` is off for Snowflake alone). dlt's
`direct` naming would quote it in the origin's case, where dbt's `source()` does not find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dlt.common.normalizers.naming.direct import NamingConvention as Direct

from dbt_bridge.connectors.dlt.name_rules import NAME_RULES
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.names import UNKNOWN, find_twins
from dbt_bridge.nouns.table import TableName


class NamingConvention(Direct):
    """dlt's `direct`, whose names are then written in the case that the warehouse gives to those without quotes."""

    @property
    def is_case_sensitive(self) -> bool:
        return False


def naming_of(destination: Any) -> str:
    """What dlt's schema takes for `names`."""
    return __name__ if _is_upper(destination.capabilities().casefold_identifier) else "direct"


def folding_of(destination: Any) -> Callable[[str], str]:
    """From a name to what the destination stores of it."""
    able = destination.capabilities()
    fold: Callable[[str], str] = able.casefold_identifier
    return str if able.has_case_sensitive_identifiers and not _is_upper(fold) else fold


def sameness_of(destination: Any) -> Callable[[str], str]:
    """From a column's name to what all names have that are one with it there."""
    fold = folding_of(destination)
    rules = NAME_RULES.get(str(destination.destination_type).rsplit(".", 1)[-1], UNKNOWN)
    return lambda name: rules.same_column(fold(name))


def name_columns(
    stored: Iterable[str], known: Iterable[str], fold: Callable[[str], str], table: TableName
) -> Mapping[str, str]:
    """A stored column's name -> as the bridge says it: as it is known, else in lower case where that is the same.

    Raises:
        TypeRefused: two columns have one name but for its case, so that SQL would take one for the other.
    """
    names: dict[str, str] = {}
    meant = {fold(name): name for name in known}
    for name in stored:
        own = meant.get(name) or (name.lower() if fold(name.lower()) == name else name)
        names[name] = own
    check_distinct(names, fold, table)
    return names


def check_distinct(names: Iterable[str], fold: Callable[[str], str], table: TableName) -> None:
    """Raises TypeRefused: two columns are one to the destination."""
    if twins := find_twins(names, fold):
        other, name = twins
        raise TypeRefused(
            f"{table} has the columns {other!r} and {name!r}, which are one name to the warehouse",
            mend=f"columns: {{exclude: [{name}]}}, or another name at the origin",
        )


def _is_upper(fold: Callable[[str], str]) -> bool:
    return fold("a") == "A"
