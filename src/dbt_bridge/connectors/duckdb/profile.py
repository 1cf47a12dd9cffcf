"""What a dbt-duckdb profile asks of a connection, as SQL: extensions, secrets and attached databases; and origins.

https://github.com/duckdb/dbt-duckdb#configuring-your-profile; `settings` and `config_options` go into the connection
itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbt_bridge.contracts.connector import OriginSettings
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import quote_identifier, quote_literal

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def statements(credentials: Mapping[str, Any]) -> list[str]:
    """To be run in this order on the new connection.

    Raises:
        UsageError: an entry that dbt-duckdb would not take either.
    """
    return [
        *(s for extension in credentials.get("extensions") or () for s in _extension(extension)),
        *(_secret(number, secret) for number, secret in enumerate(credentials.get("secrets") or (), 1)),
        *(_attach(database) for database in credentials.get("attach") or ()),
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


def _secret(number: int, secret: Mapping[str, Any]) -> str:
    name = str(secret.get("name") or f"_dbt_secret_{number}")
    parts = [f"TYPE {_word(str(secret['type']))}"]
    for key, value in secret.items():
        if key in ("name", "type", "persistent") or value is None:
            continue
        parts.append(f"{_word(key)} {_value(value)}")
    return f"CREATE OR REPLACE SECRET {quote_identifier(name)} ({', '.join(parts)})"


def _attach(database: Mapping[str, Any]) -> str:
    options = {**(database.get("options") or {})}
    for key in ("type", "secret", "read_only"):
        if database.get(key):
            options[key] = database[key]
    parts = []
    for key, value in options.items():
        if value is True:
            parts.append(_word(key).upper())
        elif value is not False and value is not None:
            plain = key in ("type", "secret") and _WORD.fullmatch(str(value))
            parts.append(f"{_word(key).upper()} {value if plain else _value(value)}")
    alias = f" AS {quote_identifier(str(database['alias']))}" if database.get("alias") else ""
    return f"ATTACH IF NOT EXISTS {quote_literal(str(database['path']))}{alias}" + (
        f" ({', '.join(parts)})" if parts else ""
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "MAP {" + ", ".join(f"{quote_literal(str(k))}: {quote_literal(str(v))}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(quote_literal(str(v)) for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else quote_literal(str(value))


def _word(name: str) -> str:
    if not _WORD.fullmatch(name):
        raise UsageError(f"{name!r} is no name that DuckDB takes", mend="correct the duckdb profile")
    return name
