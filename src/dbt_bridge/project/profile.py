"""dbt's profile, rendered by dbt itself: where models are built and rows land."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dbt.config.runtime import RuntimeConfig, load_profile, load_project
from dbt.flags import get_flags
from dbt_common.exceptions import DbtRuntimeError

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions, WarehouseProfile


def read_runtime_config(options: DbtOptions) -> RuntimeConfig:
    """dbt's configuration of the project. Call it after `invoke.parse`, which sets dbt's global flags.

    Raises:
        UsageError: the profile or the project cannot be loaded.
    """
    root, given = str(options.project_dir.resolve()), dict(options.vars)
    try:
        profile = load_profile(root, given, options.profile, options.target, options.threads)
        return RuntimeConfig.from_parts(load_project(root, False, profile, given), profile, get_flags())  # type: ignore[no-untyped-call]
    except DbtRuntimeError as error:
        raise UsageError(f"dbt cannot load its profile: {error}", mend="dbt debug") from error


def read_warehouse_profile(config: RuntimeConfig) -> WarehouseProfile:
    """The output that dbt would use now.

    For DuckDB a relative `path` is made absolute from the working directory, as dbt-duckdb opens it.
    """
    adapter = config.credentials.type
    credentials: dict[str, Any] = {**config.credentials.to_dict(omit_none=True), "type": adapter}
    prepare: tuple[str, ...] = ()
    if adapter == "duckdb":
        credentials["path"] = _make_absolute(str(credentials.get("path", ":memory:")))
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


def _make_absolute(path: str) -> str:
    if path.startswith((":memory:", "md:", "motherduck:", "ducklake:")) or "://" in path:
        return path
    return str(Path(path).absolute())
