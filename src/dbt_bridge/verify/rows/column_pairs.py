"""The compared columns of both sides, each with the canonical form that both are brought to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon, Digested, choose_canon
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.both import Both, End
from dbt_bridge.nouns.table import Column
from dbt_bridge.verify.request import Tolerance, VerifyRequest

_MEASURABLE = ("int", "decimal", "float", "date", "timestamp")


@dataclass(frozen=True, slots=True)
class ColumnPair:
    """One column of both sides.

    Attributes:
        is_compared: False for a cursor that is read only to find the rows in flight.
    """

    columns: Both[Column]
    canon: Canon
    masked: bool = False
    tolerance: Tolerance | None = None
    is_compared: bool = True

    @property
    def name(self) -> str:
        """The column's name in the result: the origin's."""
        return self.columns.origin.name

    @property
    def is_real(self) -> bool:
        """Both sides have floats of 32 bits, and people know 32.38 where the same number is 32.380001068115234."""
        return all(is_.is_float32(column.type) for column in self.columns)

    def name_at(self, end: End) -> str:
        return self.columns.at(end).name

    def as_digested(self, end: End) -> Digested:
        """The column as the side at this end digests it; a side that masks it adds the mask."""
        return Digested(self.columns.at(end), self.canon)


@dataclass(frozen=True, slots=True)
class ColumnPairs:
    """All columns that a comparison reads.

    Attributes:
        key: identify a row; empty to compare multisets of rows.
        values: are compared by their digest.
        carried: travel with every row as values: those with a tolerance, and the cursor of a bound.
    """

    key: tuple[ColumnPair, ...]
    values: tuple[ColumnPair, ...]
    carried: tuple[ColumnPair, ...] = ()

    @property
    def to_compare(self) -> tuple[ColumnPair, ...]:
        """The key's columns and all others that are compared."""
        return (*self.key, *self.beside_key)

    @property
    def beside_key(self) -> tuple[ColumnPair, ...]:
        """The columns outside of the key that are compared."""
        return tuple(pair for pair in (*self.values, *self.carried) if pair.is_compared)

    @property
    def identity(self) -> tuple[ColumnPair, ...]:
        """The columns by which rows of both sides belong together: the key, or the whole row without one."""
        return self.key or self.to_compare

    def __iter__(self) -> Iterator[ColumnPair]:
        yield from (*self.key, *self.values, *self.carried)


def pair_columns(sides: Both[Side], request: VerifyRequest) -> ColumnPairs:
    """The columns that a request compares.

    Raises:
        UsageError: a column is missing, or has a tolerance and is neither a number nor a moment.
    """
    names = dict(request.columns) or {column.name: column.name for column in sides.origin.table.columns}
    for name in request.key:
        names.setdefault(name, name)
    pairs = {name: _pair(sides, Both(name, other), request) for name, other in names.items()}
    cursor = request.bound.cursor if request.bound else None
    if cursor is not None and cursor not in pairs:
        pairs[cursor] = _pair(sides, Both(cursor, cursor), request, is_compared=False)
    carried = [name for name in pairs if name not in request.key and (name in request.tolerances or name == cursor)]
    return ColumnPairs(
        key=tuple(pairs[name] for name in request.key),
        values=tuple(pair for name, pair in pairs.items() if name not in request.key and name not in carried),
        carried=tuple(pairs[name] for name in carried),
    )


def _pair(sides: Both[Side], names: Both[str], request: VerifyRequest, *, is_compared: bool = True) -> ColumnPair:
    columns = Both(_column(sides.origin, names.origin), _column(sides.destination, names.destination))
    name = names.origin
    pair = ColumnPair(
        columns, choose_canon(*columns), name in request.masked, request.tolerances.get(name), is_compared
    )
    if pair.tolerance is not None and (pair.canon.kind not in _MEASURABLE or pair.masked or name in request.key):
        raise UsageError(
            f"column {name} of {sides.origin.name} has a tolerance, and only numbers and moments outside of the key"
            " can be nearly the same",
            mend=f"take {name} out of `tolerances:`",
        )
    return pair


def _column(side: Side, name: str) -> Column:
    if (column := side.table.column(name)) is None:
        there = ", ".join(column.name for column in side.table.columns)
        raise UsageError(
            f"{side.name} has no column {name} to compare",
            mend=f"its columns are {there}; map the name or leave it out",
        )
    return column
