"""Rows of a SQL origin by their keys, in queries of some hundred keys each.

The database finds candidates by bound values. Of these, only rows whose key is exactly one of the wanted ones are
passed on: a collation may take `a` for `A`, and one moment may be stored in several text forms.
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
        values: takes a value of the column's Arrow type, as Python's, and gives the values that `expression` may equal
            in a row that has it: at least one, and more where the value can be stored in several forms.
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
        return pa.array([key in self.keys for key in to_tuples(arrays)], pa.bool_())


def to_tuples(arrays: Sequence[pa.Array]) -> list[tuple[Any, ...]]:
    """Rows as values that can be looked up; NULL equals NULL, NaN equals NaN, and -0.0 equals 0.0.

    `replicate.stored_values.Keys` finds the same rows, but by texts and whole numbers in place of floats and moments.
    Here the values are bound in the query too, so they stay Python's own, but for NaN; see `Lookup.values`. Nested
    values, which Python cannot look up, do not occur: no column of these origins travels as a list or a struct.
    """
    columns = [[("NaN",) if value != value else value for value in array.to_pylist()] for array in arrays]  # noqa: PLR0124
    return list(zip(*columns, strict=True))


def split_keys(lookup: Callable[[Column], Lookup | None], columns: Sequence[Column], keys: pa.Table) -> Iterator[Part]:
    """One query after another; no row is kept by two of them.

    Args:
        lookup: the dialect's `resolve_lookup`; it gives None for a column that cannot be searched by a key's value.
        columns: of the keys, in their order.
    """
    lookups = [lookup(column) for column in columns]
    wanted = list(dict.fromkeys(to_tuples([keys[c.name].combine_chunks() for c in columns])))
    if not wanted:
        return
    if not any(lookups):
        yield Part(None, frozenset(wanted))
        return
    size = _SINGLE if len(columns) == 1 else _COMPOSITE
    for start in range(0, len(wanted), size):
        some = wanted[start : start + size]
        condition = _match_single(lookups[0], some) if len(columns) == 1 else _match_composite(lookups, some)
        yield Part(condition, frozenset(some))


def _match_single(lookup: Lookup | None, keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    assert lookup is not None, "a table is read whole where no column can be searched"
    values = [form for (value,) in keys if value is not None for form in lookup.values(_restore_nan(value))]
    conditions = [lookup.expression.in_([_bind(value) for value in values])] if values else []
    if any(value is None for (value,) in keys):
        conditions.append(lookup.expression.is_(None))
    return sa.or_(*conditions)


def _match_composite(lookups: Sequence[Lookup | None], keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    alternatives = []
    for key in keys:
        equal = [_match_value(lookup, value) for lookup, value in zip(lookups, key, strict=True) if lookup is not None]
        alternatives.append(sa.and_(*equal))
    return sa.or_(*alternatives)


def _match_value(lookup: Lookup, value: Any) -> ColumnElement[bool]:
    if value is None:
        return lookup.expression.is_(None)
    forms = lookup.values(_restore_nan(value))
    return lookup.expression == _bind(forms[0]) if len(forms) == 1 else lookup.expression.in_(map(_bind, forms))


def _restore_nan(value: Any) -> Any:
    return float("nan") if value == ("NaN",) else value


def _bind(value: Any) -> ColumnElement[Any]:
    """A parameter of the value's own type: SQLAlchemy would give it the type of the compared expression."""
    return sa.literal(value)
