"""From a folder with a `dbt_project.yml` to the Project: dbt parses, each file of this room reads its part, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dbt_bridge.nouns.project import DbtOptions, Project


def load_project(options: DbtOptions) -> Project:
    """Read a dbt project: its warehouse, its sources that live elsewhere, its deliveries, and the selection.

    Runs `dbt parse` (and `dbt ls` when something is selected) in this process; opens no connection.

    Raises:
        UsageError: no project is there, a `bridge` block is wrong, or dbt cannot parse the project or its profile.
    """
    # Not at the top: dbt takes more than a second, and `nearest_project` needs nothing of it.
    from dbt_bridge.project import invoke, profile, selection
    from dbt_bridge.project.exposures import list_deliveries
    from dbt_bridge.project.reconciliations import list_reconciliations
    from dbt_bridge.project.sources import list_sources

    root = options.project_dir.resolve()
    places = (Path.cwd(), Path.home() / ".dbt")
    if options.profiles_dir is None and not any((place / "profiles.yml").exists() for place in places):
        options = replace(options, profiles_dir=root)  # where dbt itself would give up
    manifest = invoke.parse(options)
    config = profile.read_runtime_config(options)
    sources = list_sources(manifest, config)
    selected = selection.select_nodes(options, manifest, sources)
    return Project(
        root=root,
        name=config.project_name,
        warehouse=profile.read_warehouse_profile(config),
        sources=sources,
        deliveries=list_deliveries(manifest),
        reconciliations=list_reconciliations(manifest),
        needed=selected.needed,
        selected=selected.nodes,
        needed_undeclared=selected.undeclared,
        not_needed_undeclared=selected.not_undeclared,
        options=options,
        manifest=manifest,
    )


def nearest_project(folder: Path) -> Path:
    """The folder, or the one nearest above it, that holds a `dbt_project.yml`; the folder itself without any."""
    folder = folder.resolve()
    return next((f for f in (folder, *folder.parents) if (f / "dbt_project.yml").is_file()), folder)
