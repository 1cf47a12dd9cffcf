"""What every destination asks of a replica before it follows or folds it, and the command that brings one back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dbt_bridge.contracts.destination import (
    CHANGE_LSN,
    DELETED_AT,
    VALID_FROM,
    VALID_TO,
    Replica,
)
from dbt_bridge.errors import DestinationError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.replicate.change_log import LOG_COLUMNS


def recopy_command(node: str) -> str:
    """The command that copies one table anew."""
    return f"dbt-bridge sync --full-refresh --select {format_shell_selector(node)}"


def refuse_hidden(replica: Replica) -> None:
    """Raises KeyRefused for a log whose rows are told apart by a key that does not land."""
    if hidden := [name for name in replica.table.key if replica.table.column(name) is None]:
        raise KeyRefused(
            f"{replica.table.name} is a log of changes without its key column {hidden[0]!r}, from which no state can be"
            " rebuilt",
            mend=f"take {hidden[0]!r} into `columns`, then: {recopy_command(replica.node)}",
        )


def refuse_owing(replica: Replica, rows: int) -> None:
    """Raises DestinationError for a log without a key in which so many rows went more often than they came."""
    if rows:
        raise DestinationError(
            f"{replica.table.name} is a log in which {rows} rows went more often than they came, so their state cannot"
            " be told: somebody changed it, or an earlier version wrote it",
            mend=recopy_command(replica.node),
        )


def refuse_unsent(replica: Replica, rows: int) -> None:
    """Raises DestinationError for a log in which so many rows have a value that was not sent, and cannot be told."""
    if rows:
        raise DestinationError(
            f"{replica.table.name} is a log in which {rows} rows kept a large value that was not sent again, while"
            " their key or that column's name changed, so their state cannot be rebuilt",
            mend=recopy_command(replica.node),
        )


def refuse_other_history(replica: Replica, columns: Iterable[str]) -> None:
    """Raises UsageError: what stands under the history's name is no history, but somebody else's.

    Args:
        columns: of what stands there, as the destination compares them.
    """
    if not {VALID_FROM, VALID_TO, CHANGE_LSN}.issubset(columns):
        raise UsageError(
            f"{replica.history_name} is no history of {replica.table.name}: dbt-bridge did not make that table",
            mend="rename it, or give the source's table another `identifier:`, or leave out `history:`",
        )


def check_names(replica: Replica, folded: Callable[[str], str] = str) -> None:
    """Refuse what cannot stand beside what the replica keeps.

    Args:
        folded: a column's name as the destination compares it.

    Raises:
        TypeRefused: a column of the origin has a name that the replica needs.
        KeyRefused: a history of a table without a key.
    """
    name, taken = replica.table.name, {folded(column.name): column.name for column in replica.table.columns}
    wanted = [DELETED_AT] if replica.deletes == "soft" else []
    wanted += [VALID_FROM, VALID_TO, CHANGE_LSN] if replica.history else []
    wanted += list(LOG_COLUMNS) if replica.change_log else []
    if column := next((taken[own] for own in wanted if own in taken), None):
        raise TypeRefused(
            f"{name} has a column {column!r} at its origin, a name that dbt-bridge needs itself",
            mend=f"columns: {{exclude: [{column}]}}",
        )
    if replica.history and not replica.table.key and not replica.change_log:
        raise KeyRefused(
            f"{name} has no key, so the versions of its rows cannot be told apart",
            mend="give the table a primary key at the origin, or leave out `history:`",
        )
