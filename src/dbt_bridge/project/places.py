"""Where a run of dbt built, of runs that the bridge has not started: dbt's own artifacts name no warehouse.

dbt's plugin of this package (`python_models/plugins.py`) writes beside `run_results.json`, for each of dbt's last runs,
a digest of the place that dbt had found in the profile. Without it (dbt of another environment, dbt 2) a run's place is
known where nothing in the profile can lead elsewhere the next time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import DbtOptions, WarehouseProfile
from dbt_bridge.project.connectors import WAREHOUSES, registry
from dbt_bridge.project.reading.output import find_profiles_file
from dbt_bridge.project.reading.project_file import read_yaml

PLACES = "dbt_bridge_places.json"
_REMEMBERED = 50
_TEMPLATE = re.compile(r"\{[{%]")
_LEADS = ("schema", "database", "dbname", "path", "host", "port", "account", "project", "dataset", "catalog", "attach")
"""What of an output says where rows are; who asks for them, and how, makes no other place."""


def digest_place(profile: str, target: str, warehouse: WarehouseProfile) -> str:
    """What tells a warehouse, and the schema in it, from others of the same names; nothing in it is secret."""
    try:
        found = registry().find(WAREHOUSES, warehouse.adapter).identify_warehouse(warehouse)
    except UsageError:  # no connector: its credentials tell
        found = None
    given = warehouse.credentials
    identity = found or [(key, str(given.get(key) or "")) for key in _LEADS if key != "attach"]
    attached = [(str(one.get("alias")), _locate(one.get("path"))) for one in given.get("attach") or ()]
    said = (profile, target, warehouse.adapter, warehouse.database, warehouse.schema, identity, attached)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:32]


def remember_place(folder: Path, invocation_id: str, digest: str) -> None:
    """Keep where a run builds, beside those before it."""
    places = {**_read_places(folder), invocation_id: digest}
    kept = dict(list(places.items())[-_REMEMBERED:])
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{PLACES}.{os.getpid()}"
    beside.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    beside.replace(folder / PLACES)


def recall_place(folder: Path, invocation_id: str) -> str | None:
    """Where a run built; None where nobody wrote it down."""
    return _read_places(folder).get(invocation_id)


def _read_places(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / PLACES).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none yet, or somebody else's
        return {}
    return found if isinstance(found, dict) else {}


def may_lead_elsewhere(options: DbtOptions, profile: str, target: str) -> bool:
    """Whether the same names of profile and target may mean another warehouse in another environment or folder."""
    profiles = read_yaml(find_profiles_file(options))
    raw = profiles.get(profile) if isinstance(profiles, Mapping) else None
    output = (raw.get("outputs") or {}).get(target) if isinstance(raw, Mapping) else None
    if not isinstance(output, Mapping):  # under a name that is a template itself
        return isinstance(raw, Mapping)
    paths = [output.get("path"), *(one.get("path") for one in output.get("attach") or () if isinstance(one, Mapping))]
    return any(map(_is_relative, paths)) or any(_TEMPLATE.search(str(output.get(key, ""))) for key in _LEADS)


def _locate(path: Any) -> str:
    return os.path.realpath(str(path)) if _is_relative(path) else str(path)


def _is_relative(path: Any) -> bool:
    """A file that is looked for where dbt was started."""
    text = str(path or "")
    return bool(text) and re.match(r"\w\w+:|:memory:", text) is None and not Path(text).expanduser().is_absolute()
