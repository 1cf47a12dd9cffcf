"""Rows of a SQL origin by their keys, in queries of some hundred keys each.

The database finds candidates by bound values, and only rows whose key is exactly one of those that were asked for are
passed on: a collation may take `a` for `A`, and a stored text may have several forms of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from dbt_bridge.nouns.table import Column

# SQLite takes 32,766 parameters and an expression 1,000 deep (sqlite.org/limits.html), each OR being one deeper.
_SINGLE, _COMPOSITE = 5_000, 250


@dataclass(frozen=True, slots=True)
class Lookup:
    """How a column is searched for a value.

    Attributes:
        expression: what is compared.
        values: from a value of the column's Arrow type, as Python's, to what `expression` may equal where the row has
            it: at least one, and more where there are several forms.
    """

    expression: ColumnElement[Any]
    values: Callable[[Any], list[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """One query's share of the keys.

    Attributes:
        condition: None for every row of the table.
    """

    condition: ColumnElement[bool] | None
    keys: Collection[tuple[Any, ...]]

    def keeps(self, arrays: Sequence[pa.Array]) -> pa.Array:
        """Which rows have one of the keys, given the key columns of a batch."""
        return pa.array([key in self.keys for key in tuples(arrays)], pa.bool_())


def tuples(arrays: Sequence[pa.Array]) -> list[tuple[Any, ...]]:
    """Rows as values that can be looked up; NULL equals NULL, and NaN equals NaN."""
    columns = [[("NaN",) if value != value else value for value in array.to_pylist()] for array in arrays]  # noqa: PLR0124
    return list(zip(*columns, strict=True))


def parts(lookup: Callable[[Column], Lookup | None], columns: Sequence[Column], keys: pa.Table) -> Iterator[Part]:
    """The queries; no row is kept by two of them.

    Args:
        lookup: the dialect's; None for a column whose stored values cannot be told from a key's.
        columns: of the keys, in their order.
    """
    found = [lookup(column) for column in columns]
    wanted = list(dict.fromkeys(tuples([keys[c.name].combine_chunks() for c in columns])))
    if not wanted:
        return
    if not any(found):
        yield Part(None, frozenset(wanted))
        return
    size = _SINGLE if len(columns) == 1 else _COMPOSITE
    for start in range(0, len(wanted), size):
        some = wanted[start : start + size]
        yield Part(_single(found[0], some) if len(columns) == 1 else _composite(found, some), frozenset(some))


def _single(lookup: Lookup | None, keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    assert lookup is not None, "a table is read whole where no column can be searched"
    values = [form for (value,) in keys if value is not None for form in lookup.values(_plain(value))]
    conditions = [lookup.expression.in_([_bound(value) for value in values])] if values else []
    if any(value is None for (value,) in keys):
        conditions.append(lookup.expression.is_(None))
    return sa.or_(*conditions)


def _composite(lookups: Sequence[Lookup | None], keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    alternatives = []
    for key in keys:
        equal = [_equal(lookup, value) for lookup, value in zip(lookups, key, strict=True) if lookup is not None]
        alternatives.append(sa.and_(*equal))
    return sa.or_(*alternatives)


def _equal(lookup: Lookup, value: Any) -> ColumnElement[bool]:
    if value is None:
        return lookup.expression.is_(None)
    forms = lookup.values(_plain(value))
    return lookup.expression == _bound(forms[0]) if len(forms) == 1 else lookup.expression.in_(map(_bound, forms))


def _plain(value: Any) -> Any:
    return float("nan") if value == ("NaN",) else value


def _bound(value: Any) -> ColumnElement[Any]:
    """Bound as what it is: SQLAlchemy would make it a value of the compared expression's type."""
    return sa.literal(value)
