"""The output of dbt's profile that is meant now, rendered without dbt where that is exact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbt_bridge.contracts.settings import ProfileOutput
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.reading.project_file import read_dbt_variable, read_project_file, read_yaml
from dbt_bridge.project.reading.rendering import NotRendered, Renderer
from dbt_bridge.system.environment import find_home

_PUBLIC = ("schema", "database", "dbname", "path", "host", "port", "user", "role", "account", "warehouse", "project",
           "dataset", "catalog")  # fmt: skip
"""What of an output a template may see here."""


def list_public(output: ProfileOutput) -> dict[str, Any]:
    """What templates know as `target`, of which nothing is secret."""
    shown = {key: output.values[key] for key in _PUBLIC if key in output.values}
    names = {"name": output.target, "target_name": output.target, "profile_name": output.profile}
    return {**shown, **names, "type": output.adapter, "threads": output.threads}


def find_profiles_file(options: DbtOptions) -> Path:
    """Where dbt looks for profiles.yml; it need not be there."""
    given = options.profiles_dir or read_dbt_variable("PROFILES_DIR")
    here = Path.cwd()
    folder = Path(given) if given else here if (here / "profiles.yml").exists() else find_home() / ".dbt"
    return folder.absolute() / "profiles.yml"


def read_output(options: DbtOptions) -> ProfileOutput:
    """The output that dbt would use now.

    Raises:
        NotRendered: only dbt can tell, or it would refuse.
    """
    project = read_project_file(options.project_dir.resolve(), options.vars)
    profile = options.profile or read_dbt_variable("PROFILE") or project.profile
    profiles = read_yaml(find_profiles_file(options))
    raw = profiles.get(profile) if isinstance(profiles, Mapping) else None
    if not isinstance(raw, Mapping):
        raise NotRendered("the profile")
    renderer = Renderer(options.vars, may_read_secrets=True)
    target = options.target or read_dbt_variable("TARGET") or renderer.render(raw.get("target", "default"))
    output = (raw.get("outputs") or {}).get(target)
    if not isinstance(output, Mapping) or "type" not in output:
        raise NotRendered("the output of the profile")
    values = renderer.render(dict(output))
    threads = values.pop("threads", 1) if options.threads is None else options.threads
    values.pop("threads", None)
    if not isinstance(threads, int):
        raise NotRendered("threads")
    return ProfileOutput(profile, str(target), str(values.pop("type")), threads, values)


def list_other_targets(options: DbtOptions, profile: str, target: str) -> tuple[str, ...]:
    """The names of the profile's outputs beside one; none where the file cannot be read here."""
    try:
        profiles = read_yaml(find_profiles_file(options))
    except NotRendered:
        return ()
    raw = profiles.get(profile) if isinstance(profiles, Mapping) else None
    outputs = raw.get("outputs") if isinstance(raw, Mapping) else None
    return tuple(sorted(str(name) for name in outputs or () if name != target)) if isinstance(outputs, Mapping) else ()
