"""Errors of the drivers (psycopg, ADBC), translated to the bridge's own: what happened, where, and the next command."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dbt_bridge.connectors.postgres.wire.session import is_broken
from dbt_bridge.errors import BridgeError, ConnectionFailed, OriginError, TypeRefused, scrubbed
from dbt_bridge.nouns.table import TableName, quote_table_name

ROLE = "origin"  # begins the message of an error that starts with the database's name


@dataclass(frozen=True, slots=True)
class DriverOrigin:
    """What an error's message needs of the origin.

    Attributes:
        url: whose password must not be in a message.
    """

    name: str
    url: str


def translate_error(error: Exception, origin: DriverOrigin, table: TableName | None = None) -> BridgeError:
    """The error of the bridge's tree that a driver's error stands for; one of the tree stays as it is."""
    if isinstance(error, BridgeError):
        return error
    state = getattr(error, "sqlstate", None) or ""  # the driver has none for an error in the middle of a read
    text = format_error(error, origin)
    place = f"{origin.name!r}" + (f", table {table}" if table else "")
    refuse = partial(OriginError, role=ROLE, sqlstate=state)
    if "row-level security" in text:
        return refuse(
            f"{place}: a row-level security policy hides rows from the origin's user ({text})",
            mend="ALTER ROLE <the origin's user> BYPASSRLS; or land a view that shows the rows you mean",
        )
    if state == "42501" or "permission denied" in text:
        mend = "grant the privilege"
        if table:
            mend = f"GRANT SELECT ON {quote_table_name(table)} TO <the origin's user>;"
        return refuse(f"{place}: {text}", mend=mend)
    if state == "55P03":
        return refuse(
            f"{place}: another session has locked it for longer than a minute",
            mend="run again when that session has ended; SELECT * FROM pg_locks WHERE mode = 'AccessExclusiveLock'",
        )
    if state == "57014":  # by `Connections.close`, by a timeout, or by an administrator
        return refuse(f"{place}: reading was broken off: {text}", mend="run the same command again")
    if is_broken(state, text):
        again = "run the same command again when the server is up"
        return refuse(f"{place} broke off: {text}", mend=again, broke_off=True)
    if state.startswith("22") or "overflow" in text or "invalid input syntax" in text:
        mend = "add `types: {<column>: text}` to the table's bridge"
        return TypeRefused(f"{place}: {text}", mend=mend, role=ROLE, needs_override=True)
    return refuse(f"{place}: {text}", mend="see the message of the origin's server, and its log", is_unexplained=True)


def translate_connect_error(error: Exception, origin: DriverOrigin, conninfo: str) -> ConnectionFailed:
    """The error of a failed connection.

    Args:
        conninfo: what libpq connected with.
    """
    target = conninfo_to_dict(conninfo)
    at = f"{target.get('host', 'the local socket')}:{target.get('port', 5432)}/{target.get('dbname', '')}"
    text = format_error(error, origin)
    mend = f"check [sources.{origin.name}] credentials in .dlt/secrets.toml"
    if re.search("refused|timeout|timed out|host|unreachable", text):
        mend = f"check that the server listens on {at} and that a firewall lets you through"
    return ConnectionFailed(f"{origin.name!r} at {at}: {text}", mend=mend, role=ROLE)


def format_error(error: Exception, origin: DriverOrigin) -> str:
    """The driver's message on one line, without the password."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    with contextlib.suppress(psycopg.ProgrammingError):
        password = conninfo_to_dict(origin.url).get("password")
        if password and len(str(password)) > 2:
            text = text.replace(str(password), "***")
    return scrubbed(text)
