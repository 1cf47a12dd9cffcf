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

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dbt_bridge.errors import DestinationError, TypeRefused
from dbt_bridge.nouns.table import TableName

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    import pyarrow as pa

CREATED = "created the table"
TOKEN_DIGITS = 15  # hexadecimal: what fits the numbers that Delta keeps
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
        token: of what an append brings, or of this one merge: kept in the transaction of its rows. Empty where it is
            not to be remembered.
        secret: of a merge, kept in the same way; see `MARKS`.
        follows: the token that this merge was made after. With another one by then, another run came in between, and
            nothing is written; None for whatever there is.
        deletes: keys (the columns of the table's key) whose rows go in the same transaction; for a merge.
    """

    project: str
    node: str
    relation: str
    evolve: bool = False
    token: str = ""
    secret: bytes = field(default=b"", repr=False)
    follows: str | None = None
    deletes: pa.Table | None = None

    @property
    def mark(self) -> str:
        """The comment of a table that this project's deliveries created."""
        return f"{_OWN}{self.project}"

    def owns(self, comment: str | None) -> bool:
        """Whether a table with this comment is this project's own."""
        return comment == self.mark


@dataclass(frozen=True, slots=True)
class Mark:
    """What a table's database remembers of an exposure's last delivery into it; empty without one.

    Attributes:
        token, secret: as in `Outgoing`.
    """

    token: str = ""
    secret: bytes = field(default=b"", repr=False)


@runtime_checkable
class RemembersAppends(Protocol):
    """A destination that keeps an append's token in the transaction of its rows."""

    def has_arrived(self, name: TableName, delivery: Outgoing) -> bool:
        """Whether the last append of this exposure into this very table carried the delivery's token, and rows are
        still there: a table that was emptied, or made anew, has nothing of it."""


@runtime_checkable
class DeletesOwn(Protocol):
    """A destination that deletes rows by their keys in the transaction of a merge, and keeps a mark beside them."""

    def find_mark(self, name: TableName, delivery: Outgoing) -> Mark:
        """What was kept with this exposure's last merge into this very table."""

    def hold(self, name: TableName, delivery: Outgoing) -> AbstractContextManager[None]:
        """Keep other runs from delivering this exposure into this table, as far as the destination can; what it
        cannot keep away is found by `Outgoing.follows`.

        Raises:
            DestinationError: another run delivers it now, also after the time that there is patience for.
        """


def refuse_overtaken(name: TableName, delivery: Outgoing) -> DestinationError:
    """The error for a merge that another run came before."""
    return DestinationError(
        f"another run delivered {delivery.node} into {name} meanwhile, so nothing was written",
        mend="run the same command again",
    )


def refuse_held(name: TableName, delivery: Outgoing) -> DestinationError:
    """The error for a delivery that another run makes at the same time."""
    return DestinationError(
        f"another run is delivering {delivery.node} into {name}, so nothing was written",
        mend="let it end, then run the same command again; or wait longer for it: --lock-wait 10m",
    )


def describe_added(column: str, type_: str) -> str:
    return f"added the column {column} {type_}"


def describe_altered(column: str, before: str, after: str) -> str:
    return f"altered the column {column}: {before} -> {after}"


_MEND = (
    "cast it in the model, leave it out with `columns:`, or change the table yourself; `evolve: true` (in a transfer"
    " `evolve=True`) lets the bridge add and widen columns"
)


def refuse_column(name: TableName, column: str, type_: str, present: Iterable[str]) -> TypeRefused:
    """The error for a column that a table which is not ours does not have."""
    nearest = get_close_matches(column, list(present), n=1)
    return TypeRefused(
        f"{name} has no column {column!r} ({type_} in the model), and the table is not the bridge's own, so it is not"
        " altered",
        mend=(f"did you mean {nearest[0]!r}? " if nearest else "")
        + "leave it out with `columns:`, or add the column yourself; `evolve: true` (in a transfer `evolve=True`) lets"
        " the bridge add it",
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
