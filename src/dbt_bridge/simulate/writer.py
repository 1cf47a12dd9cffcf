"""What makes transactions of the three kinds: the demo's shop as a whole, or single rows of any tables."""

from __future__ import annotations

from collections import Counter
from typing import Literal, Protocol

from dbt_bridge.errors import OriginError

Kind = Literal["insert", "update", "delete"]
KINDS: tuple[Kind, ...] = ("insert", "update", "delete")


class NothingToChange(OriginError):
    """No row is left that can be updated or deleted; inserts may make some."""


class Writer(Protocol):
    """Makes one transaction at a time."""

    def write(self, kind: Kind) -> Counter[tuple[str, str]]:
        """Make one transaction of a kind; answer the rows that it changed, by table and what was done to them.

        Raises:
            NothingToChange: no row can be changed so.
        """
