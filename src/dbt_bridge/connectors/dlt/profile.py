"""The dlt destination of a dbt profile, for warehouses without a loader of their own.

A `[destination.ADAPTER]` of dlt's settings comes first. Otherwise the profile's own credentials are handed to dlt,
which names them differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.connectors.dlt.name_rules import NAME_RULES
from dbt_bridge.contracts.settings import WarehouseSettings
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.names import UNKNOWN

if TYPE_CHECKING:
    from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
    from dbt_bridge.nouns.project import WarehouseProfile

# dbt's name of a credential -> dlt's.
_CREDENTIALS: Mapping[str, Mapping[str, str]] = {
    "snowflake": {
        "account": "host", "user": "username", "password": "password", "database": "database",
        "warehouse": "warehouse", "role": "role", "authenticator": "authenticator", "token": "token",
        "private_key": "private_key", "private_key_path": "private_key_path",
        "private_key_passphrase": "private_key_passphrase",
    },
    "redshift": {
        "host": "host", "port": "port", "user": "username", "password": "password", "pass": "password",
        "dbname": "database", "database": "database",
    },
    "databricks": {
        "host": "server_hostname", "http_path": "http_path", "token": "access_token", "catalog": "catalog",
        "database": "catalog", "client_id": "client_id", "client_secret": "client_secret",
    },
    "bigquery": {},
}  # fmt: skip
# Of a private link, a proxy or an emulator: dlt passes what is in `query` to Snowflake's connector as it is.
_SNOWFLAKE_ADDRESS = ("host", "port", "protocol", "proxy_host", "proxy_port", "insecure_mode")


def open_dlt_warehouse(settings: WarehouseSettings) -> DltWarehouse:
    """The warehouse of a profile, loaded by dlt.

    Raises:
        UsageError: dlt has no destination of this kind, or its settings are missing; names the lines to add.
        MissingExtra: its driver is not installed.
    """
    adapter, configured = settings.profile.adapter, settings.destination()
    from dbt_bridge.connectors.dlt.warehouse import DltWarehouse

    if configured.is_configured():
        destination = configured.dlt_destination()
        _refuse_other_database(destination, settings.profile)
        return DltWarehouse(adapter, destination)
    if adapter not in _CREDENTIALS:
        raise UsageError(
            f"the credentials of a dbt profile of type {adapter!r} are not known to dlt",
            mend=f"name them for dlt too, in .dlt/secrets.toml: [destination.{adapter}] with a"
            " `destination_type` (https://dlthub.com/docs/dlt-ecosystem/destinations) and its credentials",
        )
    destination = configured.dlt_destination()
    made: Any = type(destination)(credentials=dlt_credentials(settings.profile), destination_name=adapter)
    return DltWarehouse(adapter, made)


def _refuse_other_database(destination: Any, profile: WarehouseProfile) -> None:
    """Raises UsageError: what dlt loads into is not what dbt reads."""
    from dbt_bridge.connectors.dlt.databases import find_database

    rules, loaded = NAME_RULES.get(profile.adapter, UNKNOWN), find_database(destination)
    if loaded and profile.database and rules.key(loaded) != rules.key(profile.database):
        raise UsageError(
            f"[destination.{profile.adapter}] loads into the database {loaded!r}, and dbt reads {profile.database!r}",
            mend=f"name {profile.database!r} in both, and say `database:` for sources that land in another one",
        )


def dlt_credentials(profile: WarehouseProfile) -> dict[str, Any]:
    """The profile's credentials under dlt's names; what dlt has no name for is left out."""
    given = profile.credentials
    if profile.adapter == "bigquery":
        return _bigquery(given)
    names = _CREDENTIALS[profile.adapter]
    found: dict[str, Any] = {names[k]: value for k, value in given.items() if k in names and value not in (None, "")}
    if profile.adapter == "snowflake" and (address := {k: given[k] for k in _SNOWFLAKE_ADDRESS if given.get(k)}):
        found["query"] = address
    return found


def _bigquery(given: Mapping[str, Any]) -> dict[str, Any]:
    """A service account's key; without one, dlt takes Google's default credentials, as dbt's `oauth` does."""
    key: Mapping[str, Any] = given.get("keyfile_json") or {}
    if not key and given.get("keyfile"):
        key = json.loads(Path(str(given["keyfile"])).expanduser().read_text(encoding="utf-8"))
    project = given.get("project") or given.get("database") or key.get("project_id")
    return {
        **{name: key[name] for name in ("private_key", "client_email", "token_uri") if name in key},
        **({"project_id": project} if project else {}),
    }
