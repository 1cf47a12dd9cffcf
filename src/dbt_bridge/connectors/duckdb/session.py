"""Transactions of several threads on one DuckDB file: which errors are tried again, and what they become."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import duckdb

from dbt_bridge.connectors.duckdb.memory import is_out_of_memory
from dbt_bridge.errors import BridgeError, DestinationError, scrubbed
from dbt_bridge.nouns.table import TableName
from dbt_bridge.system.retry import CONFLICT, retry

_T = TypeVar("_T")
_HOLDER = re.compile(r"lock is held in (?P<command>.*?)\s*\(?PID (?P<pid>\d+)\)?(?P<user> by user \w+)?")

# DuckDB's optimistic concurrency control answers with these when another transaction changed the same thing first;
# https://duckdb.org/docs/stable/connect/concurrency
_CONFLICTS = ("conflict", "has been altered", "has altered it", "write-write", "could not commit creation")


def is_conflict(error: BaseException) -> bool:
    """Another transaction was first: the same work may succeed when it is done again."""
    text = str(error).lower()
    return isinstance(error, duckdb.TransactionException) or (
        isinstance(error, duckdb.CatalogException | duckdb.InternalException | duckdb.ConstraintException)
        and any(word in text for word in _CONFLICTS)
    )


def retry_conflicts(work: Callable[[], _T]) -> _T:
    """Do work that leaves nothing behind when it fails, again after each conflict."""
    return retry(work, CONFLICT, is_conflict)


def in_transaction(cur: Any, work: Callable[[Any], _T]) -> _T:
    """Run `work(cur)` in one transaction; from the start again after each conflict."""

    def once() -> _T:
        cur.execute("BEGIN")
        try:
            answer = work(cur)
            cur.execute("COMMIT")
        except BaseException:
            roll_back(cur)
            raise
        return answer

    return retry_conflicts(once)


def roll_back(cur: Any) -> None:
    """End a transaction, if there still is one."""
    try:
        cur.execute("ROLLBACK")
    except duckdb.TransactionException:
        # A failed COMMIT has already ended the transaction; the caller raises what made it fail.
        return


@contextmanager
def blaming(name: TableName) -> Iterator[None]:
    """What fails is this table's fault: told as such, but for what is tried again as a whole."""
    try:
        with translate_errors(name, unless=lambda error: is_conflict(error) or is_out_of_memory(error)):
            yield
    except BridgeError as error:
        error.table = name
        raise


@contextmanager
def translate_errors(where: object, unless: Callable[[BaseException], bool] = lambda _: False) -> Iterator[None]:
    """Tell DuckDB's errors as DestinationError, naming the table, without secrets."""
    try:
        yield
    except duckdb.Error as error:
        if unless(error):
            raise
        text = scrubbed(str(error)).strip()
        raise DestinationError(f"DuckDB failed on {where}: {text}", mend=_mend(text)) from error


def _mend(text: str) -> str:
    lowered = text.lower()
    if "no space left" in lowered or "could not write" in lowered:
        return "free disk space beside the DuckDB file, then run the same command again"
    if "out of memory" in lowered:
        return "raise memory_limit in the profile where it has one, or run where there is more memory"
    if "conversion error" in lowered or "out of range" in lowered:
        return "cast the column, in the model that builds it, to a type that holds its values"
    if "depend" in lowered:
        return "drop the index or view that depends on the table, then run the same command again"
    return "run the same command again; nothing of it was written"


def name_holder(error: Exception) -> str | None:
    """The process that holds a file's lock, as DuckDB says it; None where the error is about something else."""
    message = str(error)
    if not isinstance(error, duckdb.IOException) or "Could not set lock on file" not in message:
        return None
    found = _HOLDER.search(message)
    if found is None:
        return "another process"
    return f"PID {found['pid']}{found['user'] or ''}" + (f" ({found['command']})" if found["command"] else "")
