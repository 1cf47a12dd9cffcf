"""From an origin's name in the dbt YAML to the open origin: dlt's `[sources.NAME] credentials`, then the connector
that opens it.

dlt's own configuration providers are asked (environment, `.dlt/secrets.toml`, `.dlt/config.toml`, vaults that the
project has enabled), with `.dlt` looked for in the dbt project's root, or in `DLT_PROJECT_DIR` when it is set, as in
dlt. Only the exact path `sources.NAME.credentials` counts: dlt's resolver also falls back to shorter paths, down to
the bare variables `HOST`, `PORT` and `PASSWORD` of the shell, and a database that was found by accident is worse
than an error.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.contracts.change_source import ChangeSource
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.queries import Queries
from dbt_bridge.contracts.settings import ChangeSourceSettings, OriginSettings
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import LandingSource
from dbt_bridge.project.connectors import CHANGE_SOURCES, ORIGINS, QUERIES, registry
from dbt_bridge.project.reading.dlt_settings import SettingsProvider, is_plain_url, read_providers

if TYPE_CHECKING:
    from dlt.common.configuration.providers.provider import ConfigProvider

# dlt keeps one stack of run contexts for all threads.
_switching = threading.Lock()

_FIELDS = ("drivername", "host", "port", "username", "password", "database", "query")


def open_origin(name: str, *, project_root: Path | None) -> Origin:
    """The origin of this name, ready for use as a context manager; it connects when it is first asked.

    Args:
        name: as in `origin: NAME` of the dbt YAML.
        project_root: the folder of `dbt_project.yml`; the working directory when None.

    Raises:
        UsageError: no such origin is configured, or its credentials cannot be read.
        MissingExtra: the postgres or the sqlalchemy extra is not installed.
    """
    settings = origin_settings(name, project_root=project_root)
    return registry().open(ORIGINS, settings.scheme, settings, f"the {{}} origin {name!r}")


def open_queries(settings: OriginSettings) -> Queries:
    """The same database, to answer queries in its own SQL; it connects when it is first asked.

    Raises:
        MissingExtra: its driver is not installed.
    """
    return registry().open(QUERIES, settings.scheme, settings, f"the origin {settings.name!r}")


def open_change_source(
    source: LandingSource, *, project_root: Path | None, tell: Callable[[str], None] = lambda _: None
) -> ChangeSource:
    """The log of a cdc source's origin, ready for use as a context manager; it connects when it is first asked.

    Args:
        tell: takes sentences for a person.

    Raises:
        UsageError: the origin is not configured, or it has no log that can be followed.
        MissingExtra: its driver is not installed.
    """
    changes = find_change_source(source, project_root=project_root, tell=tell)
    if changes is None:
        raise UsageError(f"source {source.name}: {format_log_need()}, and {source.origin!r} is none", mend=WITHOUT_LOG)
    return changes


WITHOUT_LOG = "replication: incremental with a cursor, or replication: initial_copy"
"""What a source can do whose origin has no log that can be followed."""


def format_log_need() -> str:
    """`replication: cdc needs a Postgres origin`, with all that have a log among the connectors."""
    return f"replication: cdc needs a {' or '.join(registry().list_titles(CHANGE_SOURCES))} origin"


def find_change_source(
    source: LandingSource, *, project_root: Path | None, tell: Callable[[str], None] = lambda _: None
) -> ChangeSource | None:
    """As `open_change_source`; None where the origin has no log that can be followed."""
    origin = origin_settings(source.origin, project_root=project_root)
    if not registry().can_open(CHANGE_SOURCES, origin.scheme):
        return None
    settings = ChangeSourceSettings(origin, source.name, source.slot, source.max_wal, source.owner, tell)
    return registry().open(CHANGE_SOURCES, origin.scheme, settings, f"the {{}} origin {source.origin!r}")


def find_log(origin: str, *, project_root: Path | None, slot: str = "") -> ChangeSource | None:
    """An origin's log that no source is followed through; None where it has none that can be followed.

    Raises:
        UsageError: no such origin is configured, or its credentials cannot be read.
    """
    settings = origin_settings(origin, project_root=project_root)
    if not registry().can_open(CHANGE_SOURCES, settings.scheme):
        return None
    opened: ChangeSource = registry().open(
        CHANGE_SOURCES, settings.scheme, ChangeSourceSettings(settings, "", slot), f"the {{}} origin {origin!r}"
    )
    return opened


def list_origins(*, project_root: Path | None) -> list[str]:
    """The names under `[sources]` that have credentials, sorted; those of the environment in lower case."""
    return _list_configured(_providers((project_root or Path.cwd()).resolve()))


def origin_settings(name: str, *, project_root: Path | None) -> OriginSettings:
    """The credentials of an origin.

    Raises:
        UsageError: no such origin is configured, or its credentials cannot be read.
    """
    root = (project_root or Path.cwd()).resolve()
    providers = _providers(root)
    native, fields = _settings(name, providers)
    if native is None and not fields:
        raise _not_configured(name, root, _list_configured(providers))
    if native is not None and not fields and is_plain_url(native.strip()):
        return OriginSettings(name, native.strip(), native.strip().partition("://")[0], root)
    from dlt.common.configuration.specs import ConnectionStringCredentials

    credentials = ConnectionStringCredentials()
    try:
        if native is not None:
            credentials.parse_native_representation(native.strip())
        credentials.update(fields)
    except Exception:  # dlt's message quotes the URL, with its password
        raise UsageError(
            f"the credentials of the origin {name!r} are not a URL like driver://user:password@host:port/database",
            mend=f"correct [sources.{_toml_key(name)}] credentials; escape @ / : in a password as %40 %2F %3A",
        ) from None
    if not credentials.drivername:
        raise UsageError(
            f"the credentials of the origin {name!r} have no drivername",
            mend=f'add drivername = "postgresql" (or another) to [sources.{_toml_key(name)}.credentials]',
        )
    return OriginSettings(name, credentials.to_native_representation(), credentials.drivername, root)


def _settings(name: str, providers: list[SettingsProvider]) -> tuple[str | None, dict[str, Any]]:
    """The URL, where one is given, and the single fields that are given; the first provider wins, as in dlt."""
    native: str | None = None
    fields: dict[str, Any] = {}
    for provider in providers:
        value = provider.find("credentials", "sources", name)
        found: dict[str, Any] = {}
        if isinstance(value, str) and value.lstrip().startswith("{"):
            found = _json_fields(name, value)
        elif isinstance(value, str) and native is None:
            native = value
        for field in _FIELDS:
            single = provider.find(field, "sources", name, "credentials")
            if single is not None:
                found[field] = single
        for field, single in found.items():
            fields.setdefault(field, single)
    if isinstance(fields.get("query"), str):
        fields["query"] = _json_fields(name, fields["query"])
    if "port" in fields:
        fields["port"] = _port(name, fields["port"])
    return native, fields


def _json_fields(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(
            f"the credentials of the origin {name!r} start like JSON but are not a JSON object",
            mend='write {"drivername": ..., "host": ..., "username": ..., "password": ..., "database": ...}, or a URL',
        )
    return {key: field for key, field in value.items() if field is not None}


def _port(name: str, port: object) -> int:
    try:
        return int(str(port))
    except ValueError:
        raise UsageError(
            f"the port of the origin {name!r} is not a number",
            mend=f"correct port in [sources.{_toml_key(name)}.credentials]",
        ) from None


class _OfDlt:
    """A configuration provider of dlt."""

    def __init__(self, provider: ConfigProvider) -> None:
        self._provider = provider

    def find(self, key: str, *sections: str) -> Any:
        from dlt.common.typing import TSecretStrValue

        hint: Any = TSecretStrValue if sections else dict
        return self._provider.get_value(key, hint, None, *sections)[0]


def _providers(root: Path) -> list[SettingsProvider]:
    """dlt's configuration providers as if dlt had been started in the project's root."""
    if (plain := read_providers(root)) is not None:
        return plain
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # resolving a setting initialises dlt's runtime
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.providers.toml import TomlProviderReadException
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
    from dlt.common.runtime.run_context import RunContext, switched_run_context

    try:
        with _switching, switched_run_context(RunContext(str(root))):
            return [_OfDlt(provider) for provider in Container()[PluggableRunContext].providers.providers]
    except TomlProviderReadException as unreadable:
        # tomlkit's message quotes a line of a file of secrets only by position, but its cause may quote text.
        place = re.search(r"line \d+ col \d+", str(unreadable))
        raise UsageError(
            f"{unreadable.file_name} is not valid TOML" + (f" at {place.group()}" if place else ""),
            mend=f"correct {root / '.dlt' / unreadable.file_name}",
        ) from None


def _list_configured(providers: list[SettingsProvider]) -> list[str]:
    names: set[str] = set()
    for provider in providers:
        sources = provider.find("sources")
        if isinstance(sources, dict):
            names |= {str(key) for key, value in sources.items() if isinstance(value, dict) and "credentials" in value}
    for variable in os.environ:
        if found := re.fullmatch(r"SOURCES__(.+?)__CREDENTIALS(__.+)?", variable):
            names.add(found.group(1).lower())
    return sorted(names)


def _not_configured(name: str, root: Path, configured: list[str]) -> UsageError:
    what = f"the origin {name!r} is not configured"
    if near := difflib.get_close_matches(name, configured, n=1):
        what += f"; did you mean {near[0]!r}?"
    elif configured:
        what += f"; configured are {', '.join(configured)}"
    folder = Path(os.environ.get("DLT_PROJECT_DIR", str(root))) / ".dlt"
    return UsageError(
        what,
        mend=f"add to {folder / 'secrets.toml'}:\n"
        f"     [sources.{_toml_key(name)}]\n"
        '     credentials = "postgresql://user:password@host:5432/database"\n'
        f"     or set SOURCES__{name.upper()}__CREDENTIALS to that URL",
    )


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
