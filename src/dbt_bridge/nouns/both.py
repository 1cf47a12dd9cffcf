"""One value for each side of a comparison, so that the two are never told apart by a place in a tuple."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

End = Literal["origin", "destination"]
"""The two sides of a comparison."""


@dataclass(frozen=True)  # without slots: a frozen class with them breaks `Both[int](1, 2)` in Python 3.11
class Both(Generic[T_co]):
    """What both sides have of one thing; iterates as origin, destination.

    Attributes:
        origin: what the rows come from: an origin's table, a delivered model, the legacy system.
        destination: what should hold the same rows.
    """

    origin: T_co
    destination: T_co

    def __iter__(self) -> Iterator[T_co]:
        yield self.origin
        yield self.destination

    def at(self, end: End) -> T_co:
        return self.origin if end == "origin" else self.destination

    def map(self, change: Callable[[T_co], U]) -> Both[U]:
        """The same function of each side; of the origin first."""
        return Both(change(self.origin), change(self.destination))


ENDS: Both[End] = Both("origin", "destination")
