"""The compared columns of both sides, each with the canonical form that both are brought to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon, Digested, agreed
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import Column, Table
from dbt_bridge.verify.request import Tolerance, VerifyRequest

End = Literal["origin", "destination"]
ENDS: tuple[End, End] = ("origin", "destination")
_MEASURABLE = ("int", "decimal", "float", "date", "timestamp")


@dataclass(frozen=True, slots=True)
class ColumnPair:
    """One compared column.

    Attributes:
        compared: False for a cursor that is read to find the rows in flight, and not compared.
    """

    origin: Column
    destination: Column
    canon: Canon
    masked: bool = False
    tolerance: Tolerance | None = None
    compared: bool = True

    @property
    def name(self) -> str:
        """What the column is called in the result: the origin's name."""
        return self.origin.name

    @property
    def is_real(self) -> bool:
        """Both sides have floats of 32 bits, and people know 32.38 where the same number is 32.380001068115234."""
        return bool(is_.is_float32(self.origin.type) and is_.is_float32(self.destination.type))

    def at(self, end: End) -> Column:
        return self.origin if end == "origin" else self.destination

    def digested(self, end: End) -> Digested:
        """The column as the side at this end digests it; a side that masks it knows how."""
        return Digested(self.at(end), self.canon)


@dataclass(frozen=True, slots=True)
class ColumnPairs:
    """All columns that a comparison reads.

    Attributes:
        key: that find a row; empty to compare multisets of rows.
        values: that are compared by their digest.
        carried: that travel with every row as values: those with a tolerance, and the cursor of a bound.
    """

    key: tuple[ColumnPair, ...]
    values: tuple[ColumnPair, ...]
    carried: tuple[ColumnPair, ...] = ()

    @property
    def compared(self) -> tuple[ColumnPair, ...]:
        """The key's columns and all others that are compared."""
        return tuple(pair for pair in (*self.key, *self.values, *self.carried) if pair.compared)

    @property
    def beside_key(self) -> tuple[ColumnPair, ...]:
        return tuple(pair for pair in (*self.values, *self.carried) if pair.compared)

    def __iter__(self) -> Iterator[ColumnPair]:
        yield from (*self.key, *self.values, *self.carried)


def pair_columns(origin: Side, destination: Side, asked: VerifyRequest) -> ColumnPairs:
    """The columns that are compared.

    Raises:
        UsageError: a column is not there, or has a tolerance and is no number and no moment.
    """
    columns = dict(asked.columns) or {column.name: column.name for column in origin.table.columns}
    for name in asked.key:
        columns.setdefault(name, name)
    pairs = {name: _pair(origin, destination, (name, other), asked) for name, other in columns.items()}
    cursor = asked.bound.cursor if asked.bound else None
    if cursor is not None and cursor not in pairs:
        pairs[cursor] = _pair(origin, destination, (cursor, cursor), asked, compared=False)
    carried = [name for name in pairs if name not in asked.key and (name in asked.tolerances or name == cursor)]
    return ColumnPairs(
        key=tuple(pairs[name] for name in asked.key),
        values=tuple(pair for name, pair in pairs.items() if name not in asked.key and name not in carried),
        carried=tuple(pairs[name] for name in carried),
    )


def _pair(
    origin: Side, destination: Side, names: tuple[str, str], asked: VerifyRequest, *, compared: bool = True
) -> ColumnPair:
    ours, theirs = _column(origin, names[0]), _column(destination, names[1])
    pair = ColumnPair(
        ours, theirs, agreed(ours, theirs), names[0] in asked.masked, asked.tolerances.get(names[0]), compared
    )
    if pair.tolerance is not None and (pair.canon.kind not in _MEASURABLE or pair.masked or names[0] in asked.key):
        raise UsageError(
            f"column {names[0]} of {origin.name} has a tolerance, and only numbers and moments outside of the key"
            " can be nearly the same",
            mend=f"take {names[0]} out of `tolerances:`",
        )
    return pair


def _column(side: Side, name: str) -> Column:
    if (column := side.table.column(name)) is None:
        there = ", ".join(_names(side.table))
        raise UsageError(
            f"{side.name} has no column {name} to compare",
            mend=f"its columns are {there}; map the name or leave it out",
        )
    return column


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]
