"""From a name in the dbt YAML, a dlt destination or dbt's profile to an open destination.

What `[destination.NAME]` of `.dlt/` and the environment say is read through dlt. dlt looks for `.dlt/` where the
process was started; a dbt project's is beside `dbt_project.yml`. dlt's run context is one per process, so it is moved
once to the project and stays there.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import threading
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.contracts.capabilities import HoldsDatabases
from dbt_bridge.contracts.connector import Connector
from dbt_bridge.contracts.destination import Destination, Ledger
from dbt_bridge.contracts.settings import DestinationSettings, WarehouseSettings
from dbt_bridge.errors import MissingExtra, UsageError
from dbt_bridge.project.connectors import DESTINATIONS, WAREHOUSES, registry
from dbt_bridge.project.reading.dlt_settings import DestinationSection, read_providers

if TYPE_CHECKING:
    from dlt.common.configuration.specs import BaseConfiguration
    from dlt.common.destination.reference import Destination as DltsDestination

    from dbt_bridge.nouns.project import WarehouseProfile


def open_destination(destination: Any, *, project_root: Path | None) -> Destination:
    """The destination of a name, or of a dlt destination object, ready to load.

    Args:
        destination: `NAME` of `[destination.NAME]`, or what `dlt.destinations.postgres(...)` and its like return.
        project_root: the folder of `dbt_project.yml`; dlt's own working folder when None.

    Raises:
        UsageError: not configured, or not a destination.
        MissingExtra: its driver is not installed.
    """
    return open_settings(destination_settings(destination, project_root=project_root))


def open_settings(settings: DestinationSettings) -> Destination:
    """As `open_destination`, of settings that were looked up before."""
    needed_for = f"the {{}} destination {settings.name!r}"
    return registry().open(DESTINATIONS, settings.destination_type, settings, needed_for)


def open_warehouse(profile: WarehouseProfile, *, project_root: Path | None = None) -> Ledger:
    """The warehouse of dbt's profile: by the connector of its adapter, or else through dlt.

    Raises:
        UsageError: dlt has no destination of this kind, or its settings are missing.
        MissingExtra: its driver is not installed.
    """
    settings = WarehouseSettings(
        profile, project_root, lambda: destination_settings(profile.adapter, project_root=project_root)
    )
    return registry().open(WAREHOUSES, profile.adapter, settings, "the {} warehouse")


def open_place(warehouse: Ledger, database: str, *, to_write: bool = False) -> Ledger:
    """The warehouse as it holds one of its databases. Closing it closes nothing.

    Args:
        database: empty for that of dbt's profile, which is the warehouse itself.

    Raises:
        UsageError: it does not reach that database, or cannot write there.
    """
    if not database:
        return warehouse
    if not isinstance(warehouse, HoldsDatabases):
        raise UsageError(
            f"a relation is in the database {database!r}, and the warehouse {warehouse.name!r} reaches its own alone",
            mend="take `database:` out of it, or let the dbt profile name that database",
        )
    return warehouse.open_database(database, to_write=to_write)


def wait_for_warehouse(profile: WarehouseProfile, *, project_root: Path | None = None) -> None:
    """Wait until dbt can open a warehouse that belongs to one process at a time; see `system/lock_wait.py`.

    Raises:
        ConnectionFailed: another process held it all the time.
    """
    if find_warehouse_connector(profile).is_one_process:
        open_warehouse(profile, project_root=project_root).close()


def find_warehouse_connector(profile: WarehouseProfile) -> Connector:
    """The connector of dbt's warehouse, for what it declares of it; nothing is opened.

    Raises:
        UsageError: no connector opens it.
    """
    return registry().find(WAREHOUSES, profile.adapter)


def destination_settings(destination: Any, *, project_root: Path | None) -> DestinationSettings:
    """What a name, a dlt destination object or its factory says of a destination.

    Raises:
        UsageError: it is none of them.
    """
    if isinstance(destination, str) and (section := _read_section(destination, project_root)) is not None:
        return _make_settings(destination, section.destination_type, project_root, section=section)
    use_project(project_root)
    from dlt.common.destination.reference import Destination as DltsDestination

    if callable(destination) and not isinstance(destination, DltsDestination):
        destination = destination()
    if isinstance(destination, str):
        return _make_settings(destination, find_setting(destination, "destination_type") or destination, project_root)
    if isinstance(destination, DltsDestination):
        given = destination
        return _make_settings(given.destination_name, given.destination_type, project_root, lambda: given)
    raise UsageError(
        f"{type(destination).__name__} is not a destination",
        mend="give the NAME of [destination.NAME], or a dlt destination such as dlt.destinations.duckdb(...)",
    )


def _read_section(name: str, root: Path | None) -> DestinationSection | None:
    """What is set for a destination, where that can be told without dlt."""
    providers = None if root is None else read_providers(root)
    return None if providers is None else DestinationSection(name, providers)


def _make_settings(
    name: str,
    type_: str,
    root: Path | None,
    given: Callable[[], DltsDestination[Any, Any]] | None = None,
    section: DestinationSection | None = None,
) -> DestinationSettings:
    """The settings of a destination; dlt is imported when one is asked for that only it can tell."""

    def in_dlt() -> DltsDestination[Any, Any]:
        use_project(root)
        return resolve_destination(name, root) if given is None else given()

    def is_configured() -> bool:
        if section is not None:
            return section.is_configured
        use_project(root)
        return name in list_destinations()

    def find(key: str) -> str | None:
        if section is not None:
            return section.find(key)
        use_project(root)
        return find_setting(name, key)

    return DestinationSettings(
        name,
        type_.rsplit(".", 1)[-1],
        root,
        is_configured,
        find,
        in_dlt,
        lambda: resolve_configuration(in_dlt(), root),
        lambda key: None if section is None else section.find_alone(key),
    )


_moving = threading.Lock()


def use_project(root: Path | None) -> None:
    """Make dlt read its settings from this folder's `.dlt/`, without telemetry. None leaves the folder as it is."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # read by dlt when its run context starts
    import dlt  # noqa: F401 - whole, and first: dbt's threads may be importing it, and its parts do not wait for that
    from dlt.common.configuration.providers.toml import TomlProviderReadException
    from dlt.common.runtime.run_context import active, switch_context

    if root is None:
        return
    with _moving:
        if Path(active().run_dir).resolve() == root.resolve() and not _settings_are_newer(root):
            return
        try:
            switch_context(str(root.resolve()))
        except TomlProviderReadException as unreadable:
            # The message may quote a line of a file of secrets: only its place is told.
            place = re.search(r"line \d+ col \d+", str(unreadable))
            raise UsageError(
                f"{unreadable.file_name} is not valid TOML" + (f" at {place.group()}" if place else ""),
                mend=f"correct {settings_folder(root) / unreadable.file_name}",
            ) from None


_read: dict[Path, tuple[float, ...]] = {}


def _settings_are_newer(root: Path) -> bool:
    """Whether a file of settings changed since dlt read it: a long-lived process must see a corrected password."""
    files = [settings_folder(root) / name for name in ("secrets.toml", "config.toml")]
    stamps = tuple(f.stat().st_mtime if f.exists() else 0.0 for f in files)
    changed = _read.get(root.resolve()) != stamps
    _read[root.resolve()] = stamps
    return changed


def settings_folder(root: Path | None) -> Path:
    """Where dlt looks for secrets.toml and config.toml."""
    return Path(os.environ.get("DLT_PROJECT_DIR") or root or Path.cwd()) / ".dlt"


def resolve_destination(name: str, root: Path | None) -> DltsDestination[Any, Any]:
    """dlt's destination of a configured name, or of a destination type that needs no settings.

    Raises:
        UsageError: the name is not configured; names the nearest one and the lines to add.
        MissingExtra: the destination's driver is not installed.
    """
    from dlt.common.destination.exceptions import InvalidDestinationReference, UnknownDestinationModule
    from dlt.common.destination.reference import Destination as DltsDestination

    try:
        type_ = find_setting(name, "destination_type") or name
        reference = str(type_) if "." in str(type_) else f"dlt.destinations.{type_}"
        found = DltsDestination.from_reference(reference, destination_name=name)
        if found is None:
            raise _not_configured(name, root)
        found.client_class  # noqa: B018 - imports the driver
    except (UnknownDestinationModule, InvalidDestinationReference):
        raise _not_configured(name, root) from None
    except ImportError as missing:
        raise _missing(str(type_), name) from missing
    return found


def resolve_configuration(destination: DltsDestination[Any, Any], root: Path | None) -> Any:
    """The destination's configuration with its credentials, from explicit values, the environment and `.dlt/`.

    Raises:
        UsageError: a setting is missing; names the lines to add.
    """
    from dlt.common.configuration.exceptions import ConfigurationException
    from dlt.common.exceptions import MissingDependencyException

    initial: BaseConfiguration = destination.spec()
    if hasattr(initial, "_bind_dataset_name"):
        initial._bind_dataset_name("dbt_bridge")
    if hasattr(initial, "_bind_local_files"):
        initial._bind_local_files(str(root or Path.cwd()))
    elif hasattr(initial, "local_dir"):
        initial.local_dir = str((root or Path.cwd()).resolve())
    if _type_of(destination) == "postgres":
        _let_libpq_find_the_password(initial)
    name = destination.destination_name
    try:
        return destination.configuration(initial)
    except ConfigurationException as missing:
        fields = getattr(missing, "fields", ())
        raise UsageError(
            f"the destination {name!r} has no {', '.join(fields)}" if fields else _first_line(missing, name),
            mend=_lines(name, _type_of(destination), root),
        ) from None
    except (ImportError, MissingDependencyException) as absent:
        raise _missing(_type_of(destination), name) from absent


def _let_libpq_find_the_password(initial: Any) -> None:
    """dlt asks for a password; Postgres needs none with .pgpass, a certificate, peer or trust authentication."""
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials

    initial.credentials = PostgresCredentials()
    initial.credentials.password = ""  # a default: what is configured replaces it


def find_setting(name: str, key: str) -> str | None:
    """A setting of `[destination.NAME]` that is ours and not dlt's, such as `table_format`."""
    import dlt

    value: Any = dlt.config.get(f"destination.{name}.{key}")
    return None if value is None else str(value)


def list_destinations() -> list[str]:
    """The names under `[destination]`, sorted; those of the environment in lower case."""
    import dlt

    section: Any = dlt.config.get("destination")
    names = (
        {str(key) for key, value in section.items() if isinstance(value, dict)} if isinstance(section, dict) else set()
    )
    for variable in os.environ:
        if found := re.fullmatch(r"DESTINATION__(.+?)__.+", variable):
            names.add(found.group(1).lower())
    return sorted(names)


def _type_of(destination: DltsDestination[Any, Any]) -> str:
    return destination.destination_type.rsplit(".", 1)[-1]


def _first_line(error: Exception, name: str) -> str:
    # dlt quotes a connection string that it cannot read, with its password: such a message is not passed on.
    return f"the settings of the destination {name!r} cannot be read ({type(error).__name__})"


def _not_configured(name: str, root: Path | None) -> UsageError:
    configured = list_destinations()
    what = f"the destination {name!r} is not configured"
    if near := difflib.get_close_matches(name, configured, n=1):
        what += f"; did you mean {near[0]!r}?"
    elif configured:
        what += f"; configured are {', '.join(configured)}"
    return UsageError(what, mend=_lines(name, "postgres", root))


_EXAMPLES = {
    "postgres": 'credentials = "postgresql://user:password@host:5432/database"',
    "duckdb": 'credentials = "path/to/file.duckdb"',
    "filesystem": 'bucket_url = "s3://bucket/folder"  # or a local folder\n     table_format = "delta"  # or "parquet"',
}


def _lines(name: str, type_: str, root: Path | None) -> str:
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
    example = _EXAMPLES.get(type_, f"# see https://dlthub.com/docs/dlt-ecosystem/destinations/{type_}")
    return (
        f"add to {settings_folder(root) / 'secrets.toml'}:\n"
        f"     [destination.{key}]\n"
        f'     destination_type = "{type_}"\n'
        f"     {example}"
    )


_EXTRAS = {
    "duckdb": "duckdb-driver",
    "motherduck": "duckdb-driver",
    "ducklake": "duckdb-driver",
    "postgres": "postgres-driver",
    "sqlalchemy": "all",
}


def _missing(type_: str, name: str) -> MissingExtra:
    short = type_.rsplit(".", 1)[-1]
    extra = _EXTRAS.get(short, short)
    if extra in metadata("dbt-bridge").get_all("Provides-Extra", []):
        return MissingExtra(extra, f"the destination {name!r} ({short})")
    return MissingExtra(short, f"the destination {name!r} ({short})", of="dlt")
