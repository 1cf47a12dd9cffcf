"""The databases of one DuckDB connection: the profile's own, and those that its `attach:` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dbt_bridge.connectors.duckdb.relation import fold_case
from dbt_bridge.errors import UsageError

_WRITTEN = ("duckdb", "motherduck")
"""Kinds whose tables DuckDB itself keeps: another one's keep other types."""


@dataclass(frozen=True, slots=True)
class Database:
    """An attached database.

    Attributes:
        name: as DuckDB spells it.
        kind: `duckdb`, or the extension's that reads it, such as `postgres` or `sqlite`.
    """

    name: str
    kind: str
    is_read_only: bool


def find_database(cur: Any, name: str) -> Database:
    """The database of this name, in whatever case.

    Raises:
        UsageError: the profile attaches none of it.
    """
    rows = cur.execute("SELECT database_name, type, readonly FROM duckdb_databases() WHERE NOT internal").fetchall()
    every = [Database(*row) for row in rows]
    found = next((one for one in every if fold_case(one.name) == fold_case(name)), None)
    if found is None:
        raise UsageError(
            f"the duckdb profile has no database {name!r}; it has {', '.join(one.name for one in every)}",
            mend=f"add it to the profile: attach: [{{path: ..., alias: {name}}}], or correct `database:`",
        )
    return found


def require_writable(database: Database) -> None:
    """Raises UsageError: no rows can land in this database, and why."""
    if database.is_read_only:
        raise UsageError(
            f"the database {database.name!r} is attached read-only, so no rows can land there",
            mend="take `read_only: true` from its entry of `attach:` in the profile, or land in another `database:`",
        )
    if database.kind not in _WRITTEN:
        raise UsageError(
            f"the database {database.name!r} is attached as {database.kind}, and rows land only in DuckDB's own files",
            mend="land there by a `destination:` of its kind, or in another `database:`",
        )
