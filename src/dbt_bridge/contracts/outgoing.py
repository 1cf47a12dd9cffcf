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
from typing import TYPE_CHECKING

from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

CREATED = "created the table"
MARKS = "_dbt_bridge_deliveries"
"""The table, beside those that are delivered to, in which a destination remembers what arrived; see `Sent`."""

_OWN = "made by dbt-bridge for the deliveries of the dbt project "


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A load that is a delivery.

    Attributes:
        project: the dbt project's name: a table that its deliveries created is its own.
        node: unique_id of the exposure.
        relation: what is delivered, for people: `marts.dim_customers`.
        evolve: a table that is not ours may be altered, too.
        token: of what an append brings: one that carries the token of the last one brings nothing new. Empty where an
            append is not remembered.
        deletes: keys (the columns of the table's key) whose rows go in the same transaction; for a merge.
    """

    project: str
    node: str
    relation: str
    evolve: bool = False
    token: str = ""
    deletes: pa.Table | None = None

    @property
    def mark(self) -> str:
        """The comment of a table that this project's deliveries created."""
        return f"{_OWN}{self.project}"

    def owns(self, comment: str | None) -> bool:
        """Whether a table with this comment is this project's own."""
        return comment == self.mark


@dataclass(frozen=True, slots=True)
class Sent:
    """What a destination remembers of one exposure's deliveries into one table.

    Attributes:
        token: of the last append that arrived, written in the transaction of its rows.
        load_id: of that append.
        secret: with which the keys in the warehouse's ledger are digested. It lies here, where the rows are, so that
            whoever has only the warehouse cannot try keys; and a ledger whose table is another one now finds no key.
    """

    token: str = ""
    load_id: str = ""
    secret: bytes = b""


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
