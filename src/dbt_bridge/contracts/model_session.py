"""The session in which dbt runs a Python model: what `transfer` needs of the warehouse that is open there."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from dbt_bridge.contracts.destination import Destination, Warehouse
from dbt_bridge.contracts.settings import DestinationSettings


class ModelSession(Protocol):
    """Over the connection that dbt opened for the model, which stays dbt's: nothing here closes it."""

    @property
    def warehouse(self) -> Warehouse:
        """dbt's warehouse, which keeps the receipts."""

    def find_destination(self, settings: DestinationSettings) -> Destination | None:
        """The destination, where it is reached through this session; None for every other one.

        `warehouse` itself where it means the database in which dbt builds: rows and receipts then share a transaction.
        """

    def find_rows(self, data: Any) -> pa.RecordBatchReader | None:
        """The rows of a relation of the session's own; None for other data."""

    def to_relation(self, rows: pa.Table) -> Any:
        """Rows in the form in which a model returns them to dbt."""
