"""The database that a warehouse of dlt's loads into: Snowflake's database, BigQuery's project, Databricks' catalog."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dbt_bridge.errors import UsageError

# dlt's destination -> which of its credentials names the database. BigQuery's project is a setting beside them.
_CREDENTIALS: Mapping[str, str] = {"snowflake": "database", "databricks": "catalog"}
_BIGQUERY = "bigquery"


def find_database(destination: Any) -> str | None:
    """What dlt loads into; None where a warehouse of this kind has one database alone, or dlt does not tell."""
    type_, configuration = _type_of(destination), None
    if type_ == _BIGQUERY or type_ in _CREDENTIALS:
        configuration = _resolve(destination)
    if configuration is None:
        return None
    if type_ == _BIGQUERY:
        return configuration.project_id or configuration.credentials.project_id or None
    return getattr(configuration.credentials, _CREDENTIALS[type_]) or None


def in_database(destination: Any, database: str) -> Any:
    """The same destination of dlt's, which loads into another database.

    Raises:
        UsageError: dlt cannot, for a warehouse of this kind.
    """
    type_ = _type_of(destination)
    given = {**destination.config_params, **destination.caps_params, "destination_name": destination.destination_name}
    if type_ == _BIGQUERY:
        return type(destination)(**{**given, "project_id": database})
    if type_ not in _CREDENTIALS:
        raise UsageError(
            f"dlt reaches one database of {type_}, and a relation is in another: {database!r}",
            mend="take its `database:` out, or land there by a `destination:` whose credentials name it",
        )
    credentials = copy.copy(_resolve(destination).credentials)
    setattr(credentials, _CREDENTIALS[type_], database)
    return type(destination)(**{**given, "credentials": credentials})


def _type_of(destination: Any) -> str:
    return str(destination.destination_type).rsplit(".", 1)[-1]


def _resolve(destination: Any) -> Any:
    """dlt's configuration, from what was given, the environment and `.dlt/`."""
    initial = destination.spec()
    if hasattr(initial, "_bind_dataset_name"):
        initial._bind_dataset_name("dbt_bridge")
    return destination.configuration(initial)
