"""The origin as of the consistent point of a slot, in the snapshot that its creation exported."""

from __future__ import annotations

from collections.abc import Sequence

from dbt_bridge.connectors.postgres.changes.lsn import position_of
from dbt_bridge.connectors.postgres.changes.past.witness import Past
from dbt_bridge.connectors.postgres.changes.slot import ExportedSlot
from dbt_bridge.connectors.postgres.changes.table_census import describe_version, resolve_name
from dbt_bridge.connectors.postgres.origin import shape as shapes
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.contracts.change_feed import DeclaredTable, TableVersion
from dbt_bridge.errors import OriginError
from dbt_bridge.nouns.position import Position

_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


class SlotSnapshot:
    """The `Snapshot` of a new slot; can be read while the context of `Replication.create_slot` is open.

    Args:
        past: of the slot's consistent point.
    """

    def __init__(self, name: str, url: str, exported: ExportedSlot, publications: Sequence[str], past: Past) -> None:
        self._past = past
        self._name = name
        self._url = url
        self._exported = exported
        self._publications = tuple(publications)
        self._catalog = Connections(name, url, exported.snapshot)

    @property
    def position(self) -> Position:
        return position_of(self._exported.consistent_point, self._past.as_text())

    def read_clock(self) -> int:
        ((at,),) = self._catalog.query(_NOW)
        return int(at)

    def open_origin(self) -> PostgresOrigin:
        return PostgresOrigin(self._name, self._url, self._exported.snapshot, for_changes=True)

    def describe(self, table: DeclaredTable) -> TableVersion:
        name = resolve_name(self._catalog, table)
        oid = shapes.find_oid(self._catalog, name)
        shape = None if oid is None else shapes.describe_shape(self._catalog, oid, self._publications)
        if shape is None:
            raise OriginError(f"{name} is not in the snapshot that was copied", mend="run the same command again")
        return describe_version(self._catalog, table, shape)

    def close(self) -> None:
        self._catalog.close()
