"""Which of a table's columns land, and in which types: overrides, include and exclude, masks, the destination."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase

from dbt_bridge.arrow.type_names import apply_overrides
from dbt_bridge.contracts.destination import Destination
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import LandingTable
from dbt_bridge.nouns.refusals import Refusals
from dbt_bridge.nouns.table import Column, Table


def landing_columns(table: Table, declared: LandingTable, destination: Destination) -> tuple[Column, ...]:
    """The columns that land, in order, as they travel. A masked one travels as text, which is what is hashed.

    Raises:
        UsageError: `columns`, `mask` or `types` names a column that the table does not have.
        TypeRefused: the destination has no exact form of a type; names every such column.
    """
    refusals = Refusals()
    columns = find_landing_columns(table, declared, destination, refusals)
    refusals.raise_all()
    return columns


def find_landing_columns(
    table: Table, declared: LandingTable, destination: Destination, refusals: Refusals
) -> tuple[Column, ...]:
    """Those that land of `landing_columns`, where others are refused, and the refusals.

    Raises:
        UsageError: see `landing_columns`.
    """
    check_names(table, declared)
    landing = [
        column for column in apply_overrides(table, declared.types).columns if declared.columns.lets_land(column.name)
    ]
    columns: list[Column] = []
    for column in landing:
        with refusals.gather():
            columns.append(destination.map_column(column.as_text() if column.name in declared.mask else column))
    return tuple(columns)


def check_names(table: Table, declared: LandingTable) -> None:
    """Refuse a name in `columns` or `mask` that no column has: a slip there would let a value through.

    What the source says for all of its tables need not be in each.

    Raises:
        UsageError: names the nearest column.
    """
    names = [column.name for column in table.columns]
    said = [("columns", name) for name in (*declared.columns.include, *declared.columns.exclude)]
    for option, name in [*said, *(("mask", name) for name in declared.mask)]:
        if name in declared.of_source:
            continue
        if not any(fnmatchcase(column, name) if option == "columns" else column == name for column in names):
            nearest = get_close_matches(name, names, n=1)
            raise UsageError(
                f"{option}: {table.name} has no column {name!r}",
                mend=f"did you mean {nearest[0]!r}?" if nearest else f"name one of {', '.join(names)}",
            )
    hidden = [name for name in declared.mask if not declared.columns.lets_land(name) and name not in declared.of_source]
    if hidden:
        raise UsageError(
            f"mask: the column {hidden[0]!r} of {table.name} does not land", mend=f"take {hidden[0]!r} out of `mask`"
        )


def shows(name: str, declared: LandingTable) -> bool:
    """Whether the values of a column of this name land as they are."""
    return declared.columns.lets_land(name) and name not in declared.mask
