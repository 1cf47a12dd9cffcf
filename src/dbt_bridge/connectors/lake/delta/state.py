"""Delta tables as they are at a version: what is unfinished in them, as a crash left it, is not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_bridge.connectors.lake.dataset_state import DatasetState
from dbt_bridge.connectors.lake.delta.landing_table import UNFINISHED
from dbt_bridge.nouns.table import TableName

if TYPE_CHECKING:
    from dbt_bridge.connectors.lake.delta.destination import DeltaDestination


class DeltaState(DatasetState):
    """Each table at the version that it has when it is asked for first. Delta has no state of several tables."""

    def __init__(self, destination: DeltaDestination) -> None:
        super().__init__(lambda name: _pinned(destination, name))


def _pinned(destination: DeltaDestination, name: TableName) -> Any:
    table = destination.open(name)
    if table is None:
        return None
    if mark := int(table.transaction_version(UNFINISHED) or 0):
        table.load_as_version(mark - 1)
    return table.to_pyarrow_dataset()
