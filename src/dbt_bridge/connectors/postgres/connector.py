"""PostgreSQL: an origin whose changes can be followed, a destination and a warehouse, all without dlt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dbt_bridge.contracts.connector import Connector
from dbt_bridge.contracts.settings import ChangeSourceSettings, DestinationSettings, OriginSettings, WarehouseSettings
from dbt_bridge.errors import require_extra
from dbt_bridge.nouns.names import POSTGRES as POSTGRES_NAMES

if TYPE_CHECKING:
    from dbt_bridge.connectors.postgres.changes.source import PostgresChangeSource
    from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
    from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
    from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries
    from dbt_bridge.contracts.settings import ProfileOutput
    from dbt_bridge.nouns.project import WarehouseProfile

_EXTRA = "postgres-driver"

# dbt-postgres's names of libpq's parameters.
_PROFILE = {
    "host": "host", "port": "port", "user": "user", "username": "user", "password": "password", "pass": "password",
    "dbname": "dbname", "database": "dbname", "sslmode": "sslmode", "sslcert": "sslcert", "sslkey": "sslkey",
    "sslrootcert": "sslrootcert", "connect_timeout": "connect_timeout", "keepalives_idle": "keepalives_idle",
    "application_name": "application_name",
}  # fmt: skip


def libpq_url(settings: OriginSettings) -> str:
    """The URL as libpq takes it, whatever driver it names."""
    return settings.with_drivername("postgresql")


def _open_origin(settings: OriginSettings) -> PostgresOrigin:
    from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin

    return PostgresOrigin(settings.name, libpq_url(settings))


def _open_queries(settings: OriginSettings) -> PostgresQueries:
    from dbt_bridge.connectors.postgres.origin.queries import PostgresQueries

    return PostgresQueries(settings.name, libpq_url(settings))


def _open_change_source(settings: ChangeSourceSettings) -> PostgresChangeSource:
    from dbt_bridge.connectors.postgres.changes.source import PostgresChangeSource

    return PostgresChangeSource(settings.origin.name, libpq_url(settings.origin), settings)


def _open_destination(settings: DestinationSettings) -> PostgresWarehouse:
    return _warehouse(settings.name, _destination_parameters(settings))


def _open_warehouse(settings: WarehouseSettings) -> PostgresWarehouse:
    return _warehouse("postgres", _profile_parameters(settings.profile))


def _warehouse(name: str, parameters: Mapping[str, Any]) -> PostgresWarehouse:
    with require_extra(_EXTRA, f"the Postgres destination {name!r}"):
        import adbc_driver_postgresql  # noqa: F401
        from psycopg.conninfo import make_conninfo
    from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse

    # The key=value form carries any password; in a URL, dlt leaves spaces and % as they are.
    return PostgresWarehouse(name, make_conninfo("", **{k: v for k, v in parameters.items() if v is not None}))


def _destination_parameters(settings: DestinationSettings) -> dict[str, Any]:
    from dbt_bridge.connectors.postgres.plain_url import split_url

    if plain := split_url(settings.find_alone("credentials") or ""):
        return plain
    return _parameters(settings.dlt_configuration().credentials)


def _parameters(credentials: Any) -> dict[str, Any]:
    """libpq's parameters from dlt's PostgresCredentials."""
    return {
        **credentials.get_query(),
        "host": credentials.host,
        "port": credentials.port,
        "user": credentials.username,
        "password": credentials.password or None,
        "dbname": credentials.database,
    }


def _profile_parameters(profile: WarehouseProfile) -> dict[str, Any]:
    given = profile.credentials
    parameters = {libpq: given[ours] for ours, libpq in _PROFILE.items() if given.get(ours) not in (None, "", 0)}
    parameters.setdefault("dbname", profile.database)
    # dbt runs SET ROLE and SET search_path; startup options do the same for every connection.
    settings = [("role", given.get("role")), ("search_path", given.get("search_path"))]
    options = " ".join(f"-c {key}={_escape_option(str(value))}" for key, value in settings if value)
    return {**parameters, "options": options} if options else parameters


def _identify(parameters: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """A database by its address."""
    host = str(parameters.get("host") or "localhost").lower()
    port, name = str(parameters.get("port") or 5432), str(parameters.get("dbname") or "")
    return "postgres", "localhost" if host in ("127.0.0.1", "::1") else host, port, name


def _escape_option(value: str) -> str:
    r"""For libpq's `options`: spaces and backslashes take a backslash (PostgreSQL manual, 34.1.2)."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _compose_warehouse(output: ProfileOutput) -> WarehouseProfile | None:
    from dbt_bridge.connectors.postgres.dbt_output import compose_warehouse

    return compose_warehouse(output)


POSTGRES = Connector(
    name="postgres",
    title="Postgres",
    drivernames=frozenset({"postgres", "postgresql"}),
    adapters=frozenset({"postgres"}),
    destination_types=frozenset({"postgres"}),
    extra=_EXTRA,
    names={"postgres": POSTGRES_NAMES},
    open_origin=_open_origin,
    open_queries=_open_queries,
    open_change_source=_open_change_source,
    open_destination=_open_destination,
    open_warehouse=_open_warehouse,
    compose_warehouse=_compose_warehouse,
    identify_destination=lambda settings: _identify(_destination_parameters(settings)),
    identify_warehouse=lambda profile: _identify(_profile_parameters(profile)),
)
