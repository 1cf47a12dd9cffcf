"""Whether a delivered model still holds the rows that were tested, whoever has built it meanwhile.

Not every run of dbt is seen: another machine makes it, or the next command writes over what it has left. Its rows are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dbt_bridge.contracts.capabilities import FingerprintsRows
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.deliver.build_record import Known
from dbt_bridge.deliver.gate import describe_node, find_refusal, format_again, format_time
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns.node_record import NodeRecord
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.project.destinations import open_place


def take_fingerprints(deliveries: Iterable[Delivery], known: Known, warehouse: Ledger) -> dict[str, NodeRecord]:
    """The records of the models that may be delivered now and have no fingerprint, with one."""
    taken: dict[str, NodeRecord] = {}
    for delivery in deliveries:
        record = known.get(delivery.model)
        if record is None or record.fingerprint or find_refusal(delivery, known) is not None:
            continue
        if found := _fingerprint(delivery, warehouse):
            taken[delivery.model] = replace(record, fingerprint=found)
    return taken


def find_change(delivery: Delivery, known: Known, warehouse: Ledger, options: str = "") -> str | None:
    """Why rows that passed once must not be delivered any more, and the next command; None when they are the same."""
    record = known.get(delivery.model)
    if record is None or not record.fingerprint or _fingerprint(delivery, warehouse) in ("", record.fingerprint):
        return None
    return (
        f"{describe_node(delivery.model)} holds other rows than those that were built and tested ({record.command},"
        f" {format_time(record)}){format_again(delivery, options)}"
    )


def _fingerprint(delivery: Delivery, warehouse: Ledger) -> str:
    """Empty where it cannot be told; a relation that cannot be read fails its delivery, with a receipt."""
    try:
        place = open_place(warehouse, delivery.relation.database)
        return place.fingerprint(delivery.relation.name) if isinstance(place, FingerprintsRows) else ""
    except BridgeError:
        return ""
