"""From an output of dbt's profile to the warehouse, without dbt."""

from __future__ import annotations

from dbt_bridge.contracts.settings import ProfileOutput
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import WarehouseProfile
from dbt_bridge.project.connectors import WAREHOUSES, registry


def compose_warehouse(output: ProfileOutput) -> WarehouseProfile | None:
    """The warehouse of an output, as its adapter would have it; None where only the adapter can tell."""
    try:
        connector = registry().find(WAREHOUSES, output.adapter)
    except UsageError:
        return None
    return connector.compose_warehouse(output)


def compose_named(output: ProfileOutput) -> WarehouseProfile | None:
    """As `compose_warehouse`; of other adapters, by their names for a database and a schema."""
    if composed := compose_warehouse(output):
        return composed
    values = dict(output.values)
    if "path" in values:  # a file: what its adapter makes of that is more than names
        return None
    database = next((values[key] for key in ("database", "dbname", "project", "catalog") if values.get(key)), "")
    schema = next((values[key] for key in ("schema", "dataset") if values.get(key)), None)
    if schema is None:
        return None
    credentials = {"database": database, "schema": schema, **values, "type": output.adapter}
    return WarehouseProfile(output.adapter, str(database), str(schema), output.threads, credentials)
