"""dlt's settings, read without dlt where nothing else than the environment and its TOML files can hold any.

dlt takes most of a second to import, and a native move needs of it nothing but what `.dlt/secrets.toml` says. The rules
are those of dlt 1.31: variables of the environment (and files in /run/secrets) first, then secrets.toml, then
config.toml, each of the project before those of the user.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from dbt_bridge.system.environment import find_home

_DLT = "dlt"


class SettingsProvider(Protocol):
    """One place of settings."""

    def find(self, key: str, *sections: str) -> Any:
        """The value under exactly these sections; None where there is none."""


def read_providers(root: Path) -> list[SettingsProvider] | None:
    """The places in dlt's order, as if dlt had been started in this folder; None where dlt itself must be asked.

    It must where a vault, another package or a notebook may hold settings, where somebody in this process uses dlt
    already, and where a file cannot be read: dlt says best what is wrong.
    """
    if _DLT in sys.modules or "DLT_CONFIG_FOLDER" in os.environ:
        return None
    if any(name in sys.modules for name in ("google.colab", "streamlit")) or find_spec("airflow") is not None:
        return None
    if any(name.upper().startswith("PROVIDERS__") for name in os.environ):
        return None
    if any(point.dist is None or point.dist.name != _DLT for point in entry_points(group=_DLT)):
        return None
    folders = (_find_user_folder(), Path(os.environ.get("DLT_PROJECT_DIR") or root) / ".dlt")
    try:
        documents = [_read(folders, name) for name in ("secrets.toml", "config.toml")]
    except (OSError, ValueError):
        return None
    if any("providers" in document for document in documents):
        return None
    return [_Environment(), *map(_Document, documents)]


class _Environment:
    def find(self, key: str, *sections: str) -> Any:
        name = "__".join((*filter(None, sections), key)).upper()
        secret = _SECRETS / name.lower().replace("_", "-")
        try:
            return (secret / secret.name if secret.is_dir() else secret).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return os.environ.get(name)


class _Document:
    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def find(self, key: str, *sections: str) -> Any:
        node: Any = self._content
        for part in (*filter(None, sections), key):
            if not isinstance(node, Mapping) or part not in node:
                return None
            node = node[part]
        return node


def _find_user_folder() -> Path:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/dlt")
    home = find_home()
    if not os.access(home, os.W_OK):
        return Path(tempfile.gettempdir()) / "dlt"
    given = os.environ.get("XDG_DATA_HOME")
    return Path(given) / "dlt" if given and not (home / ".dlt").is_dir() else home / ".dlt"


def _read(folders: tuple[Path, ...], name: str) -> dict[str, Any]:
    """The content of the files of this name, those of later folders over those of earlier ones."""
    merged: dict[str, Any] = {}
    for folder in folders:
        if (folder / name).is_file():
            _merge(merged, tomllib.loads((folder / name).read_text(encoding="utf-8")))
    return merged


def _merge(into: dict[str, Any], given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


_SECRETS = Path("/run/secrets")


@dataclass(frozen=True, slots=True)
class DestinationSection:
    """`[destination.NAME]` of the environment and the TOML files."""

    name: str
    providers: Sequence[SettingsProvider]

    @property
    def destination_type(self) -> str:
        """The setting of this name, or NAME itself, as it may be that of a type."""
        return self.find("destination_type") or self.name

    @property
    def is_configured(self) -> bool:
        """Whether anything is set under this name; the environment's variables are in upper case."""
        prefix = f"DESTINATION__{self.name}__".upper()
        return any(isinstance(provider.find(self.name, "destination"), Mapping) for provider in self.providers) or any(
            variable.startswith(prefix) for variable in os.environ
        )

    def find(self, key: str) -> str | None:
        """The text of a setting; the first place that has it wins."""
        value = self._value(key)
        return None if value is None else str(value)

    def find_alone(self, key: str) -> str | None:
        """The text of a setting where nothing else has a say in what dlt makes of it.

        Parts of credentials may stand under names of their own (`[destination.NAME.credentials]`, and shorter ones down
        to CREDENTIALS__PASSWORD), and are laid over a connection string that lacks them.
        """
        value = self._value(key)
        return value if isinstance(value, str) and not self._has_parts_of_credentials() else None

    def _value(self, key: str) -> Any:
        found = (provider.find(key, "destination", self.name) for provider in self.providers)
        return next((value for value in found if value is not None), None)

    def _has_parts_of_credentials(self) -> bool:
        sections = [(), ("destination",), ("destination", self.name), ("destination", self.destination_type)]
        return (
            any(
                isinstance(provider.find("credentials", *section), Mapping)
                for provider in self.providers
                for section in sections
            )
            or any("CREDENTIALS__" in name and not name.startswith("SOURCES__") for name in map(str.upper, os.environ))
            or any("credentials--" in file.name for file in _SECRETS.glob("*"))
        )


_PLAIN = r"(?:[A-Za-z0-9_.~-]|%[0-9A-F]{2})*"
_URL = re.compile(
    rf"(?P<driver>[a-z0-9]+(?:\+[a-z0-9_]+)?)://(?:(?P<user>{_PLAIN})(?::(?P<password>{_PLAIN}))?@)?"
    r"(?P<host>[A-Za-z0-9_.-]*)(?::[1-9][0-9]*)?(?:/[A-Za-z0-9_.~/-]*)?(?:\?(?P<query>[A-Za-z0-9_.~/=&-]*))?"
)


def is_plain_url(url: str) -> bool:
    """Whether dlt, or SQLAlchemy behind it, would write this URL of a database exactly as it stands here."""
    found = _URL.fullmatch(url)
    if found is None or (found["host"] == "" and (found["user"] is not None or ":///" not in url)):
        return False
    for escaped in re.findall(r"%[0-9A-F]{2}", (found["user"] or "") + (found["password"] or "")):
        if re.fullmatch(r"[A-Za-z0-9_.~ +-]", unquote(escaped)) or not unquote(escaped).isascii():
            return False  # would be written without its escape, or is a part of a longer character
    pairs = [pair.split("=") for pair in found["query"].split("&")] if found["query"] else []
    keys = [pair[0] for pair in pairs]
    return found["query"] != "" and all(len(pair) == 2 and all(pair) for pair in pairs) and keys == sorted(set(keys))
