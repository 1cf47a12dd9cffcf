"""SQLAlchemy: origins that no other connector names. MySQL, MariaDB and SQLite are known well, others by dialect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dbt_bridge.contracts.connector import ANY, Connector
from dbt_bridge.contracts.settings import OriginSettings

if TYPE_CHECKING:
    from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
    from dbt_bridge.connectors.sqlalchemy.queries import SqlQueries

# A URL that names no driver gets the one that is pure Python and installs everywhere.
_DRIVERS = {"mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}


def _open_origin(settings: OriginSettings) -> SqlOrigin:
    from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin

    return SqlOrigin(settings.name, _url(settings))


def _open_queries(settings: OriginSettings) -> SqlQueries:
    from dbt_bridge.connectors.sqlalchemy.queries import SqlQueries

    return SqlQueries(settings.name, _url(settings))


def _url(settings: OriginSettings) -> str:
    """With a driver, and with an absolute path: a relative one starts at the project, not where the command started."""
    from sqlalchemy import make_url

    url = make_url(settings.url).set(drivername=_DRIVERS.get(settings.drivername, settings.drivername))
    if settings.scheme == "sqlite" and not _is_special(url.database):
        url = url.set(database=str(settings.project_root / Path(str(url.database)).expanduser()))
    return url.render_as_string(hide_password=False)


def _is_special(database: str | None) -> bool:
    """SQLite's words that name no file."""
    return not database or database == ":memory:" or database.startswith("file:")


SQLALCHEMY = Connector(
    name="sqlalchemy",
    drivernames=frozenset({ANY}),
    extra="sqlalchemy",
    open_origin=_open_origin,
    open_queries=_open_queries,
)
