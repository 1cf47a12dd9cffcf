"""What some origins, destinations and states can do beyond their contract; whoever needs it asks with `isinstance`.

AnswersQueries      a warehouse whose relations are asked in SQL: reconcile
OpensOnce           a database that one process can open only once: DuckDB
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from dbt_bridge.contracts.connector import OriginSettings
    from dbt_bridge.nouns.reconciliation import Queries


@runtime_checkable
class AnswersQueries(Protocol):
    """A warehouse that is asked in SQL."""

    def queries(self, schema: str) -> Queries:
        """Its relations, to be closed by the caller.

        Args:
            schema: that of the dbt profile, for databases whose names need one.
        """


@runtime_checkable
class OpensOnce(Protocol):
    """A database that cannot be opened a second time in this process."""

    def is_database_of(self, settings: OriginSettings) -> bool:
        """Whether an origin's credentials mean this very database."""
