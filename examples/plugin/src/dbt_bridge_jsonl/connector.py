"""Folders of JSON lines.

[sources.NAME]
credentials = "jsonl:///exports"      # a folder beside dbt_project.yml; jsonl:////data/exports is an absolute one

[destination.NAME]
destination_type = "jsonl"
folder = "deliveries"                 # likewise
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dbt_bridge.contracts.connector import Connector
from dbt_bridge.contracts.settings import DestinationSettings, OriginSettings
from dbt_bridge.errors import UsageError

if TYPE_CHECKING:
    from dbt_bridge_jsonl.destination import JsonlDestination
    from dbt_bridge_jsonl.origin import JsonlOrigin

_SCHEME = "jsonl"
_BEFORE_FOLDER = f"{_SCHEME}:///"


def _open_origin(settings: OriginSettings) -> JsonlOrigin:
    from dbt_bridge_jsonl.origin import JsonlOrigin

    folder = settings.url.removeprefix(_BEFORE_FOLDER)
    if folder in ("", settings.url):
        raise UsageError(
            f"the credentials of the origin {settings.name!r} name no folder",
            mend=f'write credentials = "{_BEFORE_FOLDER}folder", or {_BEFORE_FOLDER}/folder for an absolute path',
        )
    return JsonlOrigin(settings.name, settings.project_root / Path(folder).expanduser())


def _open_destination(settings: DestinationSettings) -> JsonlDestination:
    from dbt_bridge_jsonl.destination import JsonlDestination

    folder = settings.find_setting("folder")
    if not folder:
        raise UsageError(
            f"the destination {settings.name!r} has no folder",
            mend=f'add folder = "..." to [destination.{settings.name}] in .dlt/config.toml',
        )
    return JsonlDestination(settings.name, (settings.project_root or Path.cwd()) / Path(folder).expanduser())


JSONL = Connector(
    name="jsonl",
    title="JSON lines",
    drivernames=frozenset({_SCHEME}),
    destination_types=frozenset({_SCHEME}),
    open_origin=_open_origin,
    open_destination=_open_destination,
)
