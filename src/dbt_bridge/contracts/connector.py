"""What a connector is: one technology, the words that name it in settings and profiles, and what it can open.

A package registers its connector as an entry point, ours as any other:

    [project.entry-points."dbt_bridge.connectors"]
    jsonl = "dbt_bridge_jsonl.connector:JSONL"

The module that holds the `Connector` is imported whenever a connector is looked for, also for another technology: it
imports nothing but the standard library and this module at its top, and drivers inside the functions that open.
`dbt_bridge.testing` has the tests that an implementation must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from dbt_bridge.nouns.names import NameRules

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_bridge.contracts.change_source import ChangeSource
    from dbt_bridge.contracts.destination import Destination, Ledger
    from dbt_bridge.contracts.model_session import ModelSession
    from dbt_bridge.contracts.origin import Origin
    from dbt_bridge.contracts.queries import Queries
    from dbt_bridge.contracts.settings import (
        ChangeSourceSettings,
        DestinationSettings,
        OriginSettings,
        ProfileOutput,
        SessionSettings,
        WarehouseSettings,
    )
    from dbt_bridge.nouns.project import WarehouseProfile

GROUP = "dbt_bridge.connectors"
ANY = "*"
"""A fall-back's word: it opens what no other connector names."""


@dataclass(frozen=True, slots=True)
class DeliveryKind:
    """What an exposure asks of its destination.

    Attributes:
        find_setting: as in `DestinationSettings`.
    """

    write_disposition: str
    deletes: str
    find_setting: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Connector:
    """One technology.

    Attributes:
        name: of the connector.
        title: for people: `Postgres`; empty for one that stands for several technologies.
        drivernames: schemes of origins' URLs, without a driver.
        adapters: types of dbt profiles.
        destination_types: values of `destination_type` in `[destination.NAME]`.
        names: how the databases of its adapters and destination types read names; what is not named here is taken to
            confuse upper and lower case.
        extra: of the package that registers it, named where a driver is not installed.
        open_origin: rows to land. Constructing an origin does no I/O; neither does one of the following.
        open_queries: the same database, to answer queries in its own SQL.
        open_change_source: the same database, whose log is followed (`replication: cdc`).
        open_destination: where rows are delivered or landed.
        open_warehouse: dbt's warehouse, which keeps the audit tables too.
        open_session: the same over the connection of a Python model that dbt runs.
        identify_destination: what tells the database of these settings from others; None where that is not known.
        identify_warehouse: the same of a profile, in the same form.
        holds_databases: its warehouses are `HoldsDatabases`: relations of other databases than the profile's can
            be reached.
        is_one_process: the warehouse is a file that one process at a time has open, whatever it reads or writes there.
        find_missing_file: the warehouse's file, where it has one that is not there yet; opening would make it.
        compose_warehouse: what dbt's adapter makes of an output of a profile, told without it, so that dbt need not be
            imported; None where only the adapter can tell. Believed only where the adapter has once said the same.
        find_refusal: why its destinations take no delivery of a kind, told before anything is opened; empty where they
            do.
    """

    name: str
    title: str = ""
    drivernames: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()
    destination_types: frozenset[str] = frozenset()
    names: Mapping[str, NameRules] = field(default_factory=dict)
    extra: str = ""
    open_origin: Callable[[OriginSettings], Origin] | None = None
    open_queries: Callable[[OriginSettings], Queries] | None = None
    open_change_source: Callable[[ChangeSourceSettings], ChangeSource] | None = None
    open_destination: Callable[[DestinationSettings], Destination] | None = None
    open_warehouse: Callable[[WarehouseSettings], Ledger] | None = None
    open_session: Callable[[SessionSettings], ModelSession] | None = None
    identify_destination: Callable[[DestinationSettings], Hashable | None] = lambda _: None
    identify_warehouse: Callable[[WarehouseProfile], Hashable | None] = lambda _: None
    holds_databases: bool = False
    is_one_process: bool = False
    find_missing_file: Callable[[WarehouseProfile], Path | None] = lambda _: None
    compose_warehouse: Callable[[ProfileOutput], WarehouseProfile | None] = lambda _: None
    find_refusal: Callable[[DeliveryKind], str] = lambda _: ""


def has_plugins() -> bool:
    """Whether another package than ours brings a connector."""
    package = __name__.partition(".")[0]
    return any(point.module.partition(".")[0] != package for point in entry_points(group=GROUP))
