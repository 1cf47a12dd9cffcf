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
    from dbt_bridge.project.graph import make_graph
    from dbt_bridge.project.reconciliations import list_reconciliations
    from dbt_bridge.project.relations import RelationReader
    from dbt_bridge.project.sources import list_sources
    from dbt_bridge.project.yaml_blocks import list_bare_sources, list_raw_blocks

    root = options.project_dir.resolve()
    places = (Path.cwd(), Path.home() / ".dbt")
    if options.profiles_dir is None and not any((place / "profiles.yml").exists() for place in places):
        options = replace(options, profiles_dir=root)  # where dbt itself would give up
    manifest = invoke.parse(options)
    config = profile.read_runtime_config(options)
    graph = make_graph(
        manifest.writable_manifest().to_dict(omit_none=False),
        list_bare_sources(manifest, config),
        list_raw_blocks(manifest),
    )
    warehouse = profile.read_warehouse_profile(config)
    reader = RelationReader.of_profile(warehouse)
    sources = list_sources(graph, reader, config.target_name)
    selected = selection.select_nodes(options, graph, sources, lambda: invoke.list_selected(options, manifest))
    return Project(
        root=root,
        name=config.project_name,
        warehouse=warehouse,
        sources=sources,
        deliveries=list_deliveries(graph, reader),
        reconciliations=list_reconciliations(graph),
        needed=selected.needed,
        selected=selected.nodes,
        needed_undeclared=selected.undeclared,
        not_needed_undeclared=selected.not_undeclared,
        options=options,
        graph=graph,
        manifest=manifest,
    )


def nearest_project(folder: Path) -> Path:
    """The folder, or the one nearest above it, that holds a `dbt_project.yml`; the folder itself without any."""
    folder = folder.resolve()
    return next((f for f in (folder, *folder.parents) if (f / "dbt_project.yml").is_file()), folder)
