"""A database that answers queries in its own SQL: a legacy system, or the warehouse of a reconciliation."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from dbt_bridge.contracts.side import Side
from dbt_bridge.nouns.reconciliation import Selection
from dbt_bridge.nouns.table import Column, TableName


class Queries(Protocol):
    """A database that answers queries in its own SQL, all in one state where it has snapshots.

    Raises (from every method): BridgeError, also for SQL that the database refuses.
    """

    name: str

    def quote_identifier(self, identifier: str) -> str: ...

    def relation(self, name: TableName) -> str:
        """A relation as it stands after FROM."""

    def names(self, rows: str) -> list[str]:
        """The columns of what stands after FROM."""

    def key(self, name: TableName) -> tuple[str, ...]:
        """A relation's primary key; empty without one."""

    def side(self, name: str, selection: Selection) -> Side:
        """The selected rows.

        Args:
            name: for people.
        """

    def result(self, sql: str) -> tuple[tuple[Column, ...], pa.Table]:
        """The few rows of a query, and its columns."""

    def close(self) -> None: ...
