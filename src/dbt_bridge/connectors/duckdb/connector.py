"""DuckDB: a destination, a warehouse, and a file of a legacy system that answers queries; origins go through others."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dbt_bridge.contracts.connector import Connector
from dbt_bridge.contracts.settings import DestinationSettings, OriginSettings, SessionSettings, WarehouseSettings
from dbt_bridge.errors import ConnectionFailed
from dbt_bridge.nouns.names import DUCKDB as DUCKDB_NAMES

if TYPE_CHECKING:
    from dbt_bridge.connectors.duckdb.model_session import DuckDBModelSession
    from dbt_bridge.connectors.duckdb.queries import DuckDBQueries
    from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
    from dbt_bridge.contracts.settings import ProfileOutput
    from dbt_bridge.nouns.project import WarehouseProfile

_PLAIN_PATH = re.compile(r"/?(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(?:duckdb|db)")


def _open_queries(settings: OriginSettings) -> DuckDBQueries:
    from dbt_bridge.connectors.duckdb.profile import file_of
    from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse

    file = file_of(settings)
    if not file.exists():
        raise ConnectionFailed(
            f"there is no DuckDB file {file}",
            mend="correct the path in the origin's credentials; a relative one starts at the project's root",
        )
    legacy = DuckDBWarehouse.open(file, config={"access_mode": "READ_ONLY"}, name=settings.name)
    return legacy.queries(release=legacy.close)


def _find_plain_file(settings: DestinationSettings) -> str | None:
    """The file that the credentials name, where they are a path of plain letters; else dlt is asked."""
    path = settings.find_alone("credentials")
    if path is None or settings.project_root is None or not _PLAIN_PATH.fullmatch(path):
        return None
    return str(settings.project_root.resolve() / path)


def _open_destination(settings: DestinationSettings) -> DuckDBWarehouse:
    from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse

    if (plain := _find_plain_file(settings)) is not None:
        return DuckDBWarehouse.open(plain, name=settings.name)
    credentials = settings.dlt_configuration().credentials
    if (connection := credentials.external_conn()) is not None:  # dlt.destinations.duckdb(session.cursor())
        return DuckDBWarehouse.over(connection, name=settings.name)
    config = dict(credentials.global_config or {})
    return DuckDBWarehouse.open(credentials.database, config=config, name=settings.name)


def _open_warehouse(settings: WarehouseSettings) -> DuckDBWarehouse:
    from dbt_bridge.connectors.duckdb import profile
    from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse

    given = settings.profile.credentials
    config = {**(given.get("config_options") or {}), **profile.find_room(given)}
    return DuckDBWarehouse.open(
        given.get("path") or ":memory:",
        config=config,
        prepare=(
            *profile.list_extension_statements(given),
            *profile.list_setting_statements(given),
            *settings.profile.prepare,
        ),
        catalog=profile.catalog(given, settings.profile.database),
    )


def _open_session(settings: SessionSettings) -> DuckDBModelSession:
    from dbt_bridge.connectors.duckdb.model_session import DuckDBModelSession

    return DuckDBModelSession(settings.connection, settings.name)


def _identify_destination(settings: DestinationSettings) -> tuple[str, str] | None:
    if (plain := _find_plain_file(settings)) is not None:
        return _identify_file(plain)
    credentials = settings.dlt_configuration().credentials
    return None if credentials.external_conn() is not None else _identify_file(str(credentials.database))


def _identify_file(path: str) -> tuple[str, str]:
    return "duckdb", path if re.match(r"\w\w+:|:memory:", path) else os.path.realpath(path)


def _find_missing_file(profile: WarehouseProfile) -> Path | None:
    path = str(profile.credentials.get("path", ""))
    is_local = not re.match(r"\w\w+:", path)  # md:, s3://; one letter is a drive
    return Path(path) if is_local and not Path(path).exists() else None


def _compose_warehouse(output: ProfileOutput) -> WarehouseProfile | None:
    from dbt_bridge.connectors.duckdb.profile import compose_warehouse

    return compose_warehouse(output)


DUCKDB = Connector(
    name="duckdb",
    title="DuckDB",
    drivernames=frozenset({"duckdb"}),
    adapters=frozenset({"duckdb"}),
    destination_types=frozenset({"duckdb"}),
    extra="duckdb-driver",
    names={"duckdb": DUCKDB_NAMES},
    open_queries=_open_queries,
    open_destination=_open_destination,
    open_warehouse=_open_warehouse,
    open_session=_open_session,
    identify_destination=_identify_destination,
    identify_warehouse=lambda profile: _identify_file(str(profile.credentials.get("path", ":memory:"))),
    holds_databases=True,
    is_one_process=True,
    find_missing_file=_find_missing_file,
    compose_warehouse=_compose_warehouse,
)
