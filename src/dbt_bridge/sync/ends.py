"""The two ends of a landing, and where its checkpoints and receipts are kept."""

from __future__ import annotations

from dataclasses import dataclass

from dbt_bridge.contracts.destination import Destination, Ledger, Warehouse
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.nouns.names import UNKNOWN, NameRules
from dbt_bridge.project.destinations import open_place


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the rows come from, where they go, and where checkpoints and receipts are kept.

    Attributes:
        names: how the destination reads names.
    """

    origin: Origin
    destination: Destination
    ledger: Ledger
    names: NameRules = UNKNOWN


def find_ledger(warehouse: Ledger, database: str, *, to_write: bool = False) -> Ledger:
    """Where checkpoints and receipts are kept of what lands in a database of the warehouse.

    What keeps rows and checkpoints in one transaction keeps them in one database.

    Raises:
        UsageError: the warehouse does not reach it, or cannot write there.
    """
    place = open_place(warehouse, database, to_write=to_write)
    return place if isinstance(place, Warehouse) else warehouse


def find_ends(
    origin: Origin, destination: Destination | None, warehouse: Ledger, database: str, names: NameRules = UNKNOWN
) -> Ends:
    """The ends of tables that land in one database.

    Args:
        destination: the source's own; None where it lands in the warehouse.
        database: of the warehouse; empty for that of dbt's profile.
        names: how the destination, or the warehouse, reads names.

    Raises:
        UsageError: no rows can land there.
    """
    if destination is not None:
        return Ends(origin, destination, warehouse, names)
    place = open_place(warehouse, database, to_write=True)
    return Ends(origin, place, place if isinstance(place, Warehouse) else warehouse, names)
