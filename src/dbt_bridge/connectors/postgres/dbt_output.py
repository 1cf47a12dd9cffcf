"""What dbt-postgres 1.11 makes of an output of a profile, without it."""

from __future__ import annotations

from dbt_bridge.contracts.settings import ProfileOutput
from dbt_bridge.nouns.project import WarehouseProfile

_DEFAULTS = {"connect_timeout": 10, "keepalives_idle": 0, "application_name": "dbt", "autocommit": False, "retries": 1}
_ALIASES = {"dbname": "database", "pass": "password"}


def compose_warehouse(output: ProfileOutput) -> WarehouseProfile | None:
    """See `Connector.compose_warehouse`."""
    values = {_ALIASES.get(key, key): value for key, value in output.values.items()}
    if not all(isinstance(values.get(key), str) for key in ("database", "schema", "host", "user", "password")):
        return None
    both = {alias: values[name] for alias, name in _ALIASES.items()}
    credentials = {**_DEFAULTS, **values, **both, "type": output.adapter}
    return WarehouseProfile(output.adapter, values["database"], values["schema"], output.threads, credentials)
