"""What is compared, and how: the request that `compare` answers with a `Parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from dbt_bridge.nouns.parity import Level, Method


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two numbers (or moments, in seconds) may be apart: |a - b| <= amount, or <= amount * |origin's|."""

    amount: Decimal
    relative: bool = False

    def __str__(self) -> str:
        """As it is declared: `5`, `0.01%`."""
        if not self.relative:
            return f"{self.amount.normalize():f}"
        return f"{(self.amount * 100).normalize():f}%"


@dataclass(frozen=True, slots=True)
class Bound:
    """Leaves out rows in flight, on both sides by their key: those whose cursor at the origin is above `at_most`.

    A row that only the destination has is in flight too where its cursor there is above `at_most`.

    Attributes:
        cursor: the column's name at the origin; it need not be among the compared ones.
        at_most: a value of the cursor as text, in the origin's form.
    """

    cursor: str
    at_most: str


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What is compared, and how.

    Attributes:
        key: the columns that identify a row, by their names at the origin; empty to compare as multisets. A key that
            has several rows at a side is a difference, even where the other side has the same rows.
        columns: all compared columns (the key's too), origin's name -> destination's name; empty for all columns of
            the origin, by their own names.
        masked: columns whose values are reported nowhere.
        tolerances: column -> tolerance. Such a column is compared by value in every row.
        extra: what rows that only the destination has are: `different`, or `allowed` where the write disposition never
            deletes any. (Counts then allow more rows there; aggregates cannot tell rows apart, and are of all rows.)
        shown: how many differences are reported in full.
        progress: called with the number of rows compared so far.
    """

    level: Level = "rows"
    method: Method = "auto"
    key: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    masked: frozenset[str] = frozenset()
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    bound: Bound | None = None
    extra: Literal["different", "allowed"] = "different"
    shown: int = 100
    memory_mb: int = 256
    progress: Callable[[int], None] = lambda _: None
