"""Errors of a database's driver, translated to the bridge's own: what happened, where, and the next command."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from dbt_bridge.errors import BridgeError, ConnectionFailed, MissingExtra, OriginError, UsageError, scrubbed

# Error numbers of MySQL and MariaDB (server: mariadb.com/kb/en/mariadb-error-codes, client: 2000 and above).
_LOGIN = {1044, 1045, 1698, 1524}
_NO_DATABASE = {1049}
_UNREACHABLE = {2002, 2003, 2005, 1040, 1130}
_DENIED = {1142, 1143, 1370}
_GONE = {2006, 2013, 2014, 2055, 1053, 1927, 1317, 4031}
_ALTERED = {1412}
_MISSING = {1146, 1054}


def translate_connect_error(error: Exception, name: str, url: sa.URL) -> BridgeError:
    """The error of a failed connection; the URL's password is not in it."""
    if isinstance(error, BridgeError):
        return error
    place = url._replace(query=sa.util.EMPTY_DICT).render_as_string(hide_password=True)
    number, text = _error_number(error), _error_text(error, url)
    if number in _LOGIN:
        return ConnectionFailed(
            f"the origin {name!r} ({place}) refused the user or the password ({text})",
            mend=f"correct username and password in [sources.{name}.credentials], or grant the user access",
        )
    if number in _NO_DATABASE:
        return ConnectionFailed(
            f"the origin {name!r} ({place}) has no database {url.database!r}",
            mend=f"correct the database in [sources.{name}.credentials]",
        )
    return ConnectionFailed(
        f"the origin {name!r} ({place}) cannot be reached: {text}",
        mend=f"check that the server runs, and host and port in [sources.{name}.credentials]",
    )


def translate_missing_driver(error: Exception, name: str, url: sa.URL) -> BridgeError:
    """The error of a driver whose Python package is not installed, or of a database that SQLAlchemy does not know."""
    if isinstance(error, NoSuchModuleError):
        return UsageError(
            f"the origin {name!r}: no SQLAlchemy dialect is installed for {url.drivername!r}",
            mend=f"install the package that brings it (its documentation says `{url.drivername}://`), "
            "or correct the drivername",
        )
    module = getattr(error, "name", None) or url.drivername
    if module == "pymysql":
        return MissingExtra("mysql", f"the origin {name!r}")
    package = {"MySQLdb": "mysqlclient", "psycopg2": "psycopg2-binary", "mysql": "mysql-connector-python"}.get(
        module, module
    )
    return UsageError(f"the origin {name!r} needs the driver {module!r}", mend=f"pip install {package}")


def translate_error(error: SQLAlchemyError | Exception, name: str, place: str, url: sa.URL) -> OriginError:
    """The error of a statement.

    Args:
        place: the table, for the message.
    """
    number, text = _error_number(error), _error_text(error, url)
    if number in _DENIED:
        return OriginError(
            f"the user {url.username!r} of the origin {name!r} may not read {place}: {text}",
            mend=f"GRANT SELECT ON {place} TO that user",
        )
    if number in _ALTERED:
        return OriginError(f"{place} was altered at the origin {name!r} while it was read", mend="run it again")
    if number in _MISSING:
        return OriginError(f"{place} at the origin {name!r}: {text}", mend="correct the name in the dbt YAML")
    if number in _GONE or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return OriginError(
            f"the origin {name!r} broke off while {place} was read: {text}",
            mend="run it again; nothing of this table was shown",
        )
    if isinstance(error, OperationalError) and "locked" in text:
        return OriginError(
            f"the origin {name!r} is locked by a writer: {text}",
            mend="run it again, or switch the SQLite file to WAL: PRAGMA journal_mode = WAL",
        )
    return OriginError(
        f"{place} cannot be read at the origin {name!r}: {text}",
        mend="see the database's message",
        is_unexplained=True,
    )


def _error_number(error: Exception) -> int | None:
    original = getattr(error, "orig", None) or error
    first = original.args[0] if getattr(original, "args", ()) else None
    return first if isinstance(first, int) else None


def _error_text(error: Exception, url: sa.URL) -> str:
    """The driver's own words, in one line, without the statement and without the password."""
    original = getattr(error, "orig", None) or error
    args: tuple[object, ...] = getattr(original, "args", ())
    words = str(args[1]) if len(args) > 1 and isinstance(args[0], int) else str(original)
    if url.password:
        words = words.replace(str(url.password), "***")
    return scrubbed(re.sub(r"\s+", " ", words).strip())
