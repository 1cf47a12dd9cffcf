"""What a connection to Postgres relies on, whatever settings its database or role has: in this one place.

Values travel as text here and there, statements hold literals, and copies take longer than queries: each connection
sets what these depend on. `lc_monetary` alone is left as it is, for it says what a stored amount of money means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbt_bridge.connectors.postgres.wire.watch import find_keepalives, name_keepalives

Settings = tuple[tuple[str, str], ...]

_FORMS: Settings = (
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    ("lc_messages", "C"),  # a superuser's alone: what is told of an error is looked up by its words here and there
)
# The limits of a role are for queries, not for copies.
_UNLIMITED: Settings = (
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),  # since PostgreSQL 14
    ("transaction_timeout", "0"),  # since PostgreSQL 17
)
# A server whose peer is gone without a word notices within a minute, and gives back locks, snapshots and slots. Not
# tcp_user_timeout: it ends a connection whose peer takes its time to read on, too.
_NOTICING: Settings = (
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
)
_PLAIN: Settings = (
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
)

READ_SETTINGS: Settings = (
    *_FORMS,
    *_UNLIMITED,
    *_NOTICING,
    ("search_path", "pg_catalog"),
    ("row_security", "off"),  # rows that a policy would hide from us are an error, as for pg_dump
    ("lock_timeout", "60s"),  # a table that is being rewritten must not stop a sync for ever
)
"""Of a transaction that reads: set for it alone, so that a pooler which shares sessions (PgBouncer) keeps none."""

CONTROL_SETTINGS: Settings = (*READ_SETTINGS[:-1], ("lock_timeout", "0"), *_PLAIN)
"""Of a session that controls a log, or receives it. It may be idle for long, and waits for whom it must wait."""

_SESSION: Settings = (
    *_FORMS,
    *_UNLIMITED,
    *_NOTICING,
    *_PLAIN,
    ("row_security", "off"),  # rows that a policy hides from us would be written again beside themselves
)
# The catalog's names come first; what the user's own path finds is still found.
_CATALOG_FIRST = """
SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', 'pg_catalog', nullif(s.setting, '')), false),
       pg_catalog.set_config('synchronous_commit', CASE WHEN c.setting OPERATOR(pg_catalog.=) 'off' THEN 'local'
                                                        ELSE c.setting END, false)
FROM pg_catalog.pg_settings s
CROSS JOIN pg_catalog.pg_settings c
WHERE s.name OPERATOR(pg_catalog.=) 'search_path' AND c.name OPERATOR(pg_catalog.=) 'synchronous_commit'
"""

# Names have their schema, because a role's own search path may put other things before the catalog. A setting that
# this version does not have, or this role may not set, is passed over.
_SET = """
SELECT pg_catalog.set_config(wanted.name, wanted.value, {}), pg_catalog.pg_backend_pid()
FROM (VALUES {}) AS wanted (name, value)
JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) pg_catalog.lower(wanted.name)
WHERE s.context OPERATOR(pg_catalog.=) 'user'
   OR (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user)
"""

# ADBC's driver (1.13) asks a server as soon as it is connected, before anything can be set: `SELECT version()`, and the
# types, by functions and operators without their schema. It knows each type by the name of its function as Postgres
# writes it, without quotes or a schema (postgres_type.h, InsertType).
START_UP = """
SELECT pg_catalog.current_setting('quote_all_identifiers') OPERATOR(pg_catalog.=) 'on'
    OR q.reset_val OPERATOR(pg_catalog.=) 'on'
    OR EXISTS (
        SELECT 1
        FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.typreceive
        JOIN pg_catalog.pg_proc o ON o.proname OPERATOR(pg_catalog.=) p.proname
            AND o.pronamespace OPERATOR(pg_catalog.<>) p.pronamespace
        WHERE t.typnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
    ), own.reset_val, pg_catalog.current_setting('search_path'), pg_catalog.pg_backend_pid()
FROM pg_catalog.pg_settings q
CROSS JOIN pg_catalog.pg_settings own
WHERE q.name OPERATOR(pg_catalog.=) 'quote_all_identifiers' AND own.name OPERATOR(pg_catalog.=) 'search_path'
"""
_OPTIONS = "-c quote_all_identifiers=off -c search_path=pg_catalog"


@dataclass(frozen=True, slots=True)
class StartUp:
    """What a session knows of how the next one of the same user begins.

    Attributes:
        conflicts: names of the database keep ADBC's driver from knowing the types.
        own_path: the `search_path` with which it begins.
        path: that of the session that was asked.
        is_lent: by a pooler, which greets its clients with a process number of its own.
        options: with which the session that was asked began: its own, of a service or of PGOPTIONS.
    """

    conflicts: bool
    own_path: str
    path: str
    is_lent: bool
    options: str

    @classmethod
    def ask(cls, connection: psycopg.Connection[Any]) -> StartUp:
        ((conflicts, own_path, path, pid),) = connection.execute(START_UP.encode()).fetchall()
        options = next((o.val for o in connection.pgconn.info if o.keyword == b"options"), None) or b""
        return cls(conflicts, own_path or "", path, pid != connection.info.backend_pid, options.decode())

    @property
    def needs_options(self) -> bool:
        """Whether the next session is to begin with a path of the catalog alone.

        Not behind a pooler, which may refuse start-up options, as long as nothing comes before the catalog.
        """
        names = [name.strip().strip('"') for name in self.own_path.split(",")]
        return self.conflicts or not self.is_lent or "pg_catalog" in names[1:]


def build_settings_sql(wanted: Iterable[tuple[str, str]], *, for_transaction: bool) -> str:
    """SQL that sets those of the settings that the server's version has and the role may set.

    Each of its rows ends with the number of the server's process: see `Watch.pid`.

    Args:
        wanted: (name, value) pairs. They stand in the SQL as they are, so none may come from a user.
        for_transaction: else for the session.
    """
    return _SET.format("true" if for_transaction else "false", ", ".join(f"('{n}', '{v}')" for n, v in wanted))


def prepare_session(query: Callable[[str], Sequence[Any]]) -> int:
    """Set what a session of a destination relies on; answers the number of the server's process.

    Its commits are on disk: an origin is told that it need not keep what was committed here.

    Args:
        query: of the session, outside of any transaction; answers a row.
    """
    pid = query(build_settings_sql(_SESSION, for_transaction=False))[-1]
    query(_CATALOG_FIRST)
    return int(pid)


def with_encoding(conninfo: str, *, writes: bool = False) -> str:
    """A connection in UTF-8 from its first message on (names of any script come before a setting can), and one whose
    waits have a bound, where the user sets none; see `watch`.

    Args:
        writes: rows. Then a server may take its time to read on, for which `tcp_user_timeout` would end it.
    """
    keepalives = find_keepalives(conninfo)
    bounds = {"connect_timeout": "15", **name_keepalives(keepalives)}
    if not writes:
        bounds["tcp_user_timeout"] = f"{keepalives.bound * 1000:.0f}"
    known = {**bounds, **conninfo_to_dict(conninfo), "client_encoding": "UTF8"}
    return make_conninfo(**known)  # type: ignore[arg-type]


def driver_conninfo(conninfo: str, start: StartUp, *, writes: bool = False) -> str:
    """With what ADBC's driver connects: by options of the start-up nothing of the database's owner is run by what it
    asks first.

    Args:
        writes: see `with_encoding`.
    """
    known = conninfo_to_dict(with_encoding(conninfo, writes=writes))
    if start.needs_options:
        known["options"] = f"{start.options} {_OPTIONS}".strip()
    return make_conninfo(**known)  # type: ignore[arg-type]


_BROKEN = re.compile(
    "terminating connection|shutting down|starting up|in recovery mode|closed the connection|no connection"
    "|connection (is |was )?(lost|closed|reset|bad)|connection not open|SSL SYSCALL|could not receive data",
    re.IGNORECASE,
)


def is_broken(sqlstate: str, said: str) -> bool:
    """Whether an error is that of a connection which was lost, or of a server that goes down.

    Args:
        sqlstate: empty where the driver has none, as in the middle of a read.
    """
    return sqlstate.startswith(("08", "57P")) or _BROKEN.search(said) is not None
