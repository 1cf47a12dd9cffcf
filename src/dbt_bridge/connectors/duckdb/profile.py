"""What a dbt-duckdb profile asks of a connection, the databases that it attaches, and the file of an origin's settings.

https://github.com/duckdb/dbt-duckdb#configuring-your-profile. Secrets and attached databases come as dbt-duckdb's own
SQL (`project/profile.py`); `settings` and `config_options` go into the connection itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbt_bridge.connectors.duckdb.relation import fold_case
from dbt_bridge.contracts.settings import OriginSettings, ProfileOutput
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import WarehouseProfile
from dbt_bridge.nouns.table import quote_literal
from dbt_bridge.system.local_file import make_absolute

_DEFAULTS = {"schema": "main", "path": ":memory:", "settings": {}, "secrets": [], "external_root": ".",
             "disable_transactions": False, "keep_open": True}  # fmt: skip
_ONLY_DBT = ("secrets", "use_credential_provider", "motherduck_token", "remote", "plugins", "is_ducklake", "flights")
_WRITTEN = ("duckdb", "motherduck")
"""Kinds whose tables DuckDB itself keeps: another one's keep other types."""
_ROOM = ("memory_limit", "max_memory", "threads", "worker_threads", "temp_directory", "max_temp_directory_size")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def list_extension_statements(credentials: Mapping[str, Any]) -> list[str]:
    """What installs and loads the extensions, to be run on the new connection before anything else.

    Raises:
        UsageError: a name that DuckDB does not take.
    """
    return [statement for extension in credentials.get("extensions") or () for statement in _extension(extension)]


def find_room(credentials: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the profile's `settings` that say how much of the machine DuckDB may use, from its first moment on."""
    return {name: value for name, value in (credentials.get("settings") or {}).items() if name.lower() in _ROOM}


def list_setting_statements(credentials: Mapping[str, Any]) -> list[str]:
    """The profile's other `settings`, as dbt-duckdb sets them: as texts, after extensions were loaded.

    It sets them on each of its cursors, and here GLOBAL is for every cursor.
    """
    given = (credentials.get("settings") or {}).items()
    return [
        f"SET GLOBAL {_word(str(name))} = {quote_literal(str(value))}"
        for name, value in given
        if name.lower() not in _ROOM
    ]


def catalog(credentials: Mapping[str, Any], database: str) -> str | None:
    """The attached database in which dbt builds; None for the file of `path`."""
    aliases = {entry.get("alias") for entry in credentials.get("attach") or () if isinstance(entry, Mapping)}
    return database if database in aliases else None


def file_of(settings: OriginSettings) -> Path:
    """The file of an origin `duckdb:///path`; a relative one is relative to the project."""
    return settings.project_root / Path(settings.url.partition("///")[2].partition("?")[0]).expanduser()


def _extension(extension: Any) -> list[str]:
    if isinstance(extension, Mapping):
        name, repository = str(extension["name"]), str(extension["repo"])
        origin = repository if _WORD.fullmatch(repository) else quote_literal(repository)
        return [f"INSTALL {_word(name)} FROM {origin}", f"LOAD {_word(name)}"]
    return [f"INSTALL {_word(str(extension))}", f"LOAD {_word(str(extension))}"]


def _word(name: str) -> str:
    if not _WORD.fullmatch(name):
        raise UsageError(f"{name!r} is no name that DuckDB takes", mend="correct the duckdb profile")
    return name


def compose_warehouse(output: ProfileOutput) -> WarehouseProfile | None:
    """What dbt-duckdb 1.11 makes of an output, without it; where that needs more than its defaults, nothing."""
    values, path = dict(output.values), output.values.get("path", ":memory:")
    is_file = isinstance(path, str) and (path == ":memory:" or ":" not in path)
    attached = values.get("attach") or []
    prepare = [_format_attachment(entry) for entry in attached]
    if not is_file or None in prepare or any(values.get(key) for key in _ONLY_DBT):
        return None
    name = "memory" if path == ":memory:" else path.rsplit("/", 1)[-1].lstrip(".").split(".")[0]
    database = values.get("database", name)
    if database != name and database not in [entry.get("alias") for entry in attached]:
        return None  # dbt-duckdb refuses it
    credentials = {**_DEFAULTS, **values, "database": database, "type": output.adapter, "path": make_absolute(path)}
    if attached:
        credentials["attach"] = [{"read_only": False, **entry} for entry in attached]
    statements = tuple(statement for statement in prepare if statement is not None)
    schema = str(credentials["schema"])
    return WarehouseProfile(output.adapter, str(database), schema, output.threads, credentials, statements)


def _format_attachment(entry: Any) -> str | None:
    """dbt-duckdb's own statement."""
    known = {"path", "alias", "type", "read_only"}
    if not isinstance(entry, Mapping) or not set(entry) <= known or ":" in str(entry.get("path", ":")):
        return None
    options = [f"TYPE {entry['type']}"] if entry.get("type") else []
    options += ["READ_ONLY"] if entry.get("read_only") else []
    alias = f" AS {entry['alias']}" if entry.get("alias") else ""
    return f"ATTACH IF NOT EXISTS {quote_literal(str(entry['path']))}{alias}" + (
        f" ({', '.join(options)})" if options else ""
    )


@dataclass(frozen=True, slots=True)
class Database:
    """An attached database.

    Attributes:
        name: as DuckDB spells it.
        kind: `duckdb`, or the extension's that reads it, such as `postgres` or `sqlite`.
    """

    name: str
    kind: str
    is_read_only: bool


def find_database(cur: Any, name: str) -> Database:
    """The database of this name, in whatever case.

    Raises:
        UsageError: the profile attaches none of it.
    """
    rows = cur.execute("SELECT database_name, type, readonly FROM duckdb_databases() WHERE NOT internal").fetchall()
    every = [Database(*row) for row in rows]
    found = next((one for one in every if fold_case(one.name) == fold_case(name)), None)
    if found is None:
        raise UsageError(
            f"the duckdb profile has no database {name!r}; it has {', '.join(one.name for one in every)}",
            mend=f"add it to the profile: attach: [{{path: ..., alias: {name}}}], or correct `database:`",
        )
    return found


def require_writable(database: Database) -> None:
    """Raises UsageError: no rows can land in this database, and why."""
    if database.is_read_only:
        raise UsageError(
            f"the database {database.name!r} is attached read-only, so no rows can land there",
            mend="take `read_only: true` from its entry of `attach:` in the profile, or land in another `database:`",
        )
    if database.kind not in _WRITTEN:
        raise UsageError(
            f"the database {database.name!r} is attached as {database.kind}, and rows land only in DuckDB's own files",
            mend="land there by a `destination:` of its kind, or in another `database:`",
        )
