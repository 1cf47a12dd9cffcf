"""Which database dlt loads into: the profile's own, or the one of a relation."""

from __future__ import annotations

import dlt
import pytest

from dbt_bridge.connectors.dlt.databases import find_database
from dbt_bridge.connectors.dlt.profile import open_dlt_warehouse
from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.contracts.settings import DestinationSettings, WarehouseSettings
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import WarehouseProfile
from dbt_bridge.project.destinations import open_place

SNOWFLAKE = {"host": "account", "username": "u", "password": "p", "warehouse": "w", "database": "analytics"}
BIGQUERY = {"project_id": "analytics", "private_key": "k", "client_email": "e@x"}
DATABRICKS = {"server_hostname": "h", "http_path": "/sql", "access_token": "t", "catalog": "analytics"}


@pytest.mark.parametrize(
    ("name", "credentials"), [("snowflake", SNOWFLAKE), ("bigquery", BIGQUERY), ("databricks", DATABRICKS)]
)
def test_a_relation_of_another_database_is_loaded_there(name: str, credentials: dict[str, str]) -> None:
    warehouse = DltWarehouse(name, getattr(dlt.destinations, name)(credentials=credentials, destination_name=name))
    raw = open_place(warehouse, "raw", to_write=True)
    assert isinstance(raw, DltWarehouse)
    assert (find_database(raw.session.destination), find_database(warehouse.session.destination)) == (
        "raw",
        "analytics",
    )
    assert raw.session.destination.destination_name == name
    assert open_place(warehouse, "") is warehouse


def test_what_dlt_cannot_reach_is_refused() -> None:
    redshift = DltWarehouse("redshift", dlt.destinations.postgres("postgresql://u:p@localhost/dev"))
    with pytest.raises(UsageError, match="one database of postgres, and a relation is in another: 'raw'"):
        open_place(redshift, "raw")


@pytest.mark.parametrize(("profile", "refused"), [("analytics", False), ("ANALYTICS", False), ("marts", True)])
def test_settings_that_load_elsewhere_than_dbt_reads_are_refused(profile: str, refused: bool) -> None:
    loaded = dlt.destinations.snowflake(credentials=SNOWFLAKE, destination_name="snowflake")
    configured = DestinationSettings(
        "snowflake", "snowflake", None, lambda: True, lambda _: None, lambda: loaded, lambda: None
    )
    declared = WarehouseProfile("snowflake", profile, "main", 1, {"type": "snowflake", "database": profile})
    settings = WarehouseSettings(declared, None, lambda: configured)
    if not refused:
        assert find_database(open_dlt_warehouse(settings).session.destination) == "analytics"
        return
    with pytest.raises(UsageError, match="loads into the database 'analytics', and dbt reads 'marts'"):
        open_dlt_warehouse(settings)
