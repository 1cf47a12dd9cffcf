"""From a name in the dbt YAML, a dlt destination or dbt's profile to an open destination.

DuckDB, Postgres, and Delta and Parquet on a filesystem or object store have loaders of their own. Every other
destination is loaded by dlt.

    [destination.lake]
    destination_type = "filesystem"
    bucket_url = "s3://bucket/folder"
    table_format = "delta"              # the default, as transactions are; or "parquet"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.connectors.dlt.settings import (
    named_destination,
    setting,
    settled,
    use_project,
)
from dbt_bridge.contracts.destination import Destination, Ledger, Warehouse
from dbt_bridge.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from dbt_bridge.nouns.project import WarehouseProfile


def open_destination(destination: Any, *, project_root: Path | None) -> Destination:
    """The destination of a name, or of a dlt destination object, ready to load.

    Args:
        destination: `NAME` of `[destination.NAME]`, or what `dlt.destinations.postgres(...)` and its like return.
        project_root: the folder of `dbt_project.yml`; dlt's own working folder when None.

    Raises:
        UsageError: not configured, or not a destination.
        MissingExtra: its driver is not installed.
    """
    use_project(project_root)
    from dlt.common.destination.reference import Destination as DltDestination

    if callable(destination) and not isinstance(destination, DltDestination):
        destination = destination()
    if isinstance(destination, str):
        destination = named_destination(destination, project_root)
    if not isinstance(destination, DltDestination):
        raise UsageError(
            f"{type(destination).__name__} is not a destination",
            mend="give the NAME of [destination.NAME], or a dlt destination such as dlt.destinations.duckdb(...)",
        )
    name = destination.destination_name
    match destination.destination_type.rsplit(".", 1)[-1]:
        case "postgres":
            return _postgres(name, _postgres_parameters(settled(destination, project_root).credentials))
        case "duckdb":
            return _duckdb(name, settled(destination, project_root).credentials)
        case "filesystem":
            return _filesystem(name, settled(destination, project_root))
    from dbt_bridge.connectors.dlt.destination import DltDestination as ThroughDlt

    settled(destination, project_root)  # a missing setting is told now, not after the rows were read
    return ThroughDlt(name, destination)


def open_warehouse(profile: WarehouseProfile, *, project_root: Path | None = None) -> Ledger:
    """The warehouse of dbt's profile: DuckDB and Postgres natively, every other one through dlt.

    Raises:
        UsageError: dlt has no destination of this kind, or its settings are missing.
        MissingExtra: its driver is not installed.
    """
    match profile.adapter:
        case "duckdb":
            return _duckdb_profile(profile)
        case "postgres":
            return _postgres("postgres", _profile_parameters(profile))
    from dbt_bridge.connectors.dlt.profile import open_dlt_warehouse

    return open_dlt_warehouse(profile, project_root)


def _postgres(name: str, parameters: Mapping[str, Any]) -> Warehouse:
    try:
        import adbc_driver_postgresql  # noqa: F401
        from psycopg.conninfo import make_conninfo
    except ImportError as missing:
        raise MissingExtra("postgres", f"the Postgres destination {name!r}") from missing
    from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse

    # The key=value form carries any password; in a URL, dlt leaves spaces and % as they are.
    return PostgresWarehouse(name, make_conninfo("", **{k: v for k, v in parameters.items() if v is not None}))


def _postgres_parameters(credentials: Any) -> dict[str, Any]:
    """libpq's parameters from dlt's PostgresCredentials."""
    return {
        **credentials.get_query(),
        "host": credentials.host,
        "port": credentials.port,
        "user": credentials.username,
        "password": credentials.password or None,
        "dbname": credentials.database,
    }


# dbt-postgres's names of libpq's parameters.
_PROFILE = {
    "host": "host", "port": "port", "user": "user", "username": "user", "password": "password", "pass": "password",
    "dbname": "dbname", "database": "dbname", "sslmode": "sslmode", "sslcert": "sslcert", "sslkey": "sslkey",
    "sslrootcert": "sslrootcert", "connect_timeout": "connect_timeout", "keepalives_idle": "keepalives_idle",
    "application_name": "application_name",
}  # fmt: skip


def _profile_parameters(profile: WarehouseProfile) -> dict[str, Any]:
    given = profile.credentials
    parameters = {libpq: given[ours] for ours, libpq in _PROFILE.items() if given.get(ours) not in (None, "", 0)}
    parameters.setdefault("dbname", profile.database)
    # dbt runs SET ROLE and SET search_path; startup options do the same for every connection.
    settings = [("role", given.get("role")), ("search_path", given.get("search_path"))]
    options = " ".join(f"-c {key}={_escaped(str(value))}" for key, value in settings if value)
    return {**parameters, "options": options} if options else parameters


def _escaped(value: str) -> str:
    r"""For libpq's `options`: spaces and backslashes take a backslash (PostgreSQL manual, 34.1.2)."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _duckdb(name: str, credentials: Any) -> Warehouse:
    try:
        from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
    except ImportError as missing:
        raise MissingExtra("duckdb", f"the DuckDB destination {name!r}") from missing

    if (connection := credentials.external_conn()) is not None:  # dlt.destinations.duckdb(session.cursor())
        return DuckDBWarehouse.over(connection, name=name)
    return DuckDBWarehouse.open(credentials.database, config=dict(credentials.global_config or {}), name=name)


def _duckdb_profile(profile: WarehouseProfile) -> Warehouse:
    try:
        from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
    except ImportError as missing:
        raise MissingExtra("duckdb", "the DuckDB warehouse") from missing
    from dbt_bridge.connectors.duckdb import profile as duckdb_profile

    given = profile.credentials
    # dbt-duckdb's `settings` are SET on each connection; duckdb takes the same names when it connects.
    config = {**(given.get("config_options") or {}), **(given.get("settings") or {})}
    return DuckDBWarehouse.open(
        given.get("path") or ":memory:",
        config=config,
        prepare=duckdb_profile.statements(given),
        catalog=duckdb_profile.catalog(given, profile.database),
    )


def _filesystem(name: str, configuration: Any) -> Destination:
    table_format = setting(name, "table_format") or "delta"
    if table_format not in ("delta", "parquet"):
        raise UsageError(
            f"the destination {name!r} has table_format = {table_format!r}",
            mend='write table_format = "delta" or "parquet"',
        )
    if table_format == "parquet":
        from dbt_bridge.connectors.lake.parquet import ParquetDestination

        return ParquetDestination.of(name, configuration)
    try:
        import deltalake  # noqa: F401
    except ImportError as missing:
        raise MissingExtra("filesystem", f"the Delta destination {name!r}") from missing
    from dbt_bridge.connectors.lake.delta.destination import DeltaDestination

    return DeltaDestination.of(name, configuration)
