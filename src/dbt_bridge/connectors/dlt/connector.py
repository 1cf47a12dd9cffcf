"""dlt: every destination and warehouse that no other connector names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_bridge.connectors.dlt.name_rules import NAME_RULES
from dbt_bridge.contracts.connector import ANY, Connector, DeliveryKind
from dbt_bridge.contracts.settings import DestinationSettings, WarehouseSettings

if TYPE_CHECKING:
    from dbt_bridge.connectors.dlt.destination import DltDestination
    from dbt_bridge.connectors.dlt.warehouse import DltWarehouse


def _open_destination(settings: DestinationSettings) -> DltDestination:
    destination = settings.dlt_destination()
    from dbt_bridge.connectors.dlt.destination import DltDestination

    settings.dlt_configuration()  # a missing setting is an error now, not after the rows were read
    return DltDestination(settings.name, destination)


def _open_warehouse(settings: WarehouseSettings) -> DltWarehouse:
    from dbt_bridge.connectors.dlt.profile import open_dlt_warehouse

    return open_dlt_warehouse(settings)


def _find_refusal(kind: DeliveryKind) -> str:
    if kind.deletes == "own":
        return "what is reached through dlt deletes no rows in the transaction of a merge"
    return ""


DLT = Connector(
    name="dlt",
    adapters=frozenset({ANY}),
    destination_types=frozenset({ANY}),
    names=NAME_RULES,
    open_destination=_open_destination,
    open_warehouse=_open_warehouse,
    holds_databases=True,
    find_refusal=_find_refusal,
)
