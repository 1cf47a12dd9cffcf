"""dbt's profile, rendered by dbt itself: where models are built and rows land."""

from __future__ import annotations

from typing import Any

from dbt.config.runtime import RuntimeConfig
from dbt_common.exceptions import DbtRuntimeError

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import WarehouseProfile
from dbt_bridge.system.local_file import make_absolute


def read_warehouse_profile(config: RuntimeConfig) -> WarehouseProfile:
    """The output that dbt would use now.

    For DuckDB a relative `path` is made absolute from the working directory, as dbt-duckdb opens it.
    """
    adapter = config.credentials.type
    credentials: dict[str, Any] = {**config.credentials.to_dict(omit_none=True), "type": adapter}
    prepare: tuple[str, ...] = ()
    if adapter == "duckdb":
        credentials["path"] = make_absolute(str(credentials.get("path", ":memory:")))
        prepare = list_duckdb_statements(config.credentials)
    database, schema = config.credentials.database, config.credentials.schema
    return WarehouseProfile(adapter, database, schema, config.threads, credentials, prepare)


def list_duckdb_statements(credentials: Any) -> tuple[str, ...]:
    """The secrets and attached databases of a dbt-duckdb profile, in dbt-duckdb's own SQL.

    Args:
        credentials: `dbt.adapters.duckdb.credentials.DuckDBCredentials`.

    Raises:
        UsageError: an entry that dbt-duckdb does not take either.
    """
    try:
        return (*credentials.secrets_sql(), *(database.to_sql() for database in credentials.attach or ()))
    except DbtRuntimeError as error:
        raise UsageError(f"the duckdb profile is wrong: {error}", mend="correct the duckdb profile") from error
