"""What a dbt-duckdb profile asks of a connection, and the file that an origin's settings name.

https://github.com/duckdb/dbt-duckdb#configuring-your-profile. Secrets and attached databases come as dbt-duckdb's own
SQL (`project/profile.py`); `settings` and `config_options` go into the connection itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbt_bridge.contracts.settings import OriginSettings
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import quote_literal

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def list_extension_statements(credentials: Mapping[str, Any]) -> list[str]:
    """What installs and loads the extensions, to be run on the new connection before anything else.

    Raises:
        UsageError: a name that DuckDB does not take.
    """
    return [statement for extension in credentials.get("extensions") or () for statement in _extension(extension)]


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
