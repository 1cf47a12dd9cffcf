"""What makes a load a delivery: its table may be somebody else's, and is then never altered.

A table that a delivery created carries a mark in its own comment, which goes when the table goes: what an application
drops and makes again is the application's. Everything else was there before, also what an earlier version delivered to.

    ours            columns are added and widened; `replace` may put another table in its place
    not ours        rows change, and nothing else. A value that does not fit its column, or a column that is not there,
                    is refused before the first row is written
    not ours, but   `evolve: true`: columns are added and widened, and the receipt says which. The table stays the same
                    object all the same
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

CREATED = "created the table"
MARKS = "_dbt_bridge_deliveries"
"""The table, beside those that are delivered to, in which a database remembers what arrived: of each exposure the token
of its last append, and the secret with which the keys of its rows are digested in the warehouse's ledger. The secret
lies here, where the rows are, so that whoever has only the warehouse cannot try keys."""

_OWN = "made by dbt-bridge for the deliveries of the dbt project "


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A load that is a delivery.

    Attributes:
        project: the dbt project's name: a table that its deliveries created is its own.
        node: unique_id of the exposure.
        relation: what is delivered, for people: `marts.dim_customers`.
        evolve: a table that is not ours may be altered, too.
        token: of what an append brings: kept in the transaction of its rows. Empty where it is not to be remembered.
        secret: of a merge, kept in the same way; see `MARKS`.
        deletes: keys (the columns of the table's key) whose rows go in the same transaction; for a merge.
    """

    project: str
    node: str
    relation: str
    evolve: bool = False
    token: str = ""
    secret: bytes = b""
    deletes: pa.Table | None = None

    @property
    def mark(self) -> str:
        """The comment of a table that this project's deliveries created."""
        return f"{_OWN}{self.project}"

    def owns(self, comment: str | None) -> bool:
        """Whether a table with this comment is this project's own."""
        return comment == self.mark


@runtime_checkable
class RemembersAppends(Protocol):
    """A destination that keeps an append's token in the transaction of its rows."""

    def has_arrived(self, name: TableName, delivery: Outgoing) -> bool:
        """Whether the last append of this exposure into this very table carried the delivery's token, and rows are
        still there: a table that was emptied, or made anew, has nothing of it."""


@runtime_checkable
class DeletesOwn(Protocol):
    """A destination that deletes rows by their keys in the transaction of a merge, and keeps a secret beside them."""

    def find_secret(self, name: TableName, delivery: Outgoing) -> bytes:
        """The secret that was kept with this exposure's last merge into this very table; empty without one."""


def describe_added(column: str, type_: str) -> str:
    return f"added the column {column} {type_}"


def describe_altered(column: str, before: str, after: str) -> str:
    return f"altered the column {column}: {before} -> {after}"


_MEND = (
    "cast it in the model, leave it out with `columns:`, or change the table yourself; `evolve: true` lets the bridge"
    " add and widen columns"
)


def refuse_column(name: TableName, column: str, type_: str, present: Iterable[str]) -> TypeRefused:
    """The error for a column that a table which is not ours does not have."""
    nearest = get_close_matches(column, list(present), n=1)
    return TypeRefused(
        f"{name} has no column {column!r} ({type_} in the model), and the table is not the bridge's own, so it is not"
        " altered",
        mend=(f"did you mean {nearest[0]!r}? " if nearest else "")
        + "leave it out with `columns:`, or add the column yourself; `evolve: true` lets the bridge add it",
    )


def refuse_values(name: TableName, column: str, there: str, incoming: str, why: str) -> TypeRefused:
    """The error for values that do not fit their column.

    Args:
        why: what is wrong with them: `2 rows do not fit`.
    """
    return TypeRefused(
        f"column {column!r} of {name} is {there}, the model brings {incoming}, and {why}; the table is not the bridge's"
        " own, so it is not altered",
        mend=_MEND,
    )


def refuse_nulls(name: TableName, column: str, there: str, incoming: str) -> TypeRefused:
    """The error for NULL in a column that takes none."""
    return TypeRefused(
        f"column {column!r} of {name} is {there} NOT NULL, the model brings {incoming}, and rows of it hold NULL there",
        mend="fill the column in the model, or filter those rows out",
    )


def count_rows(number: int) -> str:
    return "1 row does not fit" if number == 1 else f"{number} rows do not fit"
