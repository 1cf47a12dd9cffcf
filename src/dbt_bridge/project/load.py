"""From a folder with a `dbt_project.yml` to the Project: dbt parses, each file of this room reads its part, once.

Where nothing has changed that dbt looks at, what it said the last time is taken, and dbt is not even imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.graph import Graph
from dbt_bridge.nouns.project import DbtOptions, Project, WarehouseProfile
from dbt_bridge.project import invoke, selection
from dbt_bridge.project.claims import find_aliases, list_claims, make_rules_of, refuse_shared_tables
from dbt_bridge.project.exposures import list_deliveries
from dbt_bridge.project.reading import cache
from dbt_bridge.project.reading.output import list_other_targets, read_output
from dbt_bridge.project.reading.project_file import find_target_folder, read_dbt_variable
from dbt_bridge.project.reading.rendering import NotRendered
from dbt_bridge.project.reading.warehouse import compose_named, compose_warehouse
from dbt_bridge.project.reconciliations import list_reconciliations
from dbt_bridge.project.relations import RelationReader
from dbt_bridge.project.runners.contract import Parsed, Runner
from dbt_bridge.project.selecting.selectors_file import read_selectors
from dbt_bridge.project.sources import list_sources
from dbt_bridge.system.environment import find_home


def load_project(options: DbtOptions) -> Project:
    """Read a dbt project: its warehouse, its sources that live elsewhere, its deliveries, and the selection.

    Has dbt parse the project (and list what is selected) where anything has changed; opens no connection, and leaves
    dbt's artifacts as they are.

    Raises:
        UsageError: no project is there, a `bridge` block is wrong, or dbt cannot parse the project or its profile.
    """
    root = options.project_dir.resolve()
    if not (root / "dbt_project.yml").is_file():
        raise UsageError(
            f"there is no dbt_project.yml in {root}",
            mend="go into a dbt project, name it with --project-dir, or write a new one: dbt-bridge init NAME",
        )
    places = (Path.cwd(), find_home() / ".dbt")
    named = options.profiles_dir or read_dbt_variable("PROFILES_DIR")
    if not named and not any((place / "profiles.yml").exists() for place in places):
        options = replace(options, profiles_dir=root)  # where dbt itself would give up
    runner = invoke.choose_runner(options)
    read = _recall(options, runner) or _parse(options, runner)
    graph = read.graph
    reader = RelationReader.of_profile(read.warehouse)
    sources = list_sources(graph, reader, read.target)
    aliases = find_aliases(sources, graph, reader)
    deliveries = tuple(
        replace(one, ancestors=_with_aliases(one.ancestors, aliases)) for one in list_deliveries(graph, reader)
    )
    selectors = read_selectors(options, read.profile, read.target)
    selected = selection.select_nodes(
        options, graph, sources, lambda given: _list_selected(given, runner, read), selectors
    )
    project = Project(
        root=root,
        name=graph.project,
        warehouse=read.warehouse,
        sources=sources,
        deliveries=deliveries,
        reconciliations=list_reconciliations(graph, reader),
        needed=None if selected.needed is None else _with_aliases(selected.needed, aliases),
        selected=selected.nodes,
        needed_undeclared=selected.undeclared,
        not_needed_undeclared=selected.not_undeclared,
        options=options,
        profile=read.profile,
        target=read.target,
        target_path=find_target_folder(options),
        graph=graph,
        other_targets=list_other_targets(options, read.profile, read.target),
    )
    rules_of = make_rules_of(project)
    refuse_shared_tables(list_claims(sources, deliveries, graph, reader, rules_of), rules_of)
    return project


def _with_aliases(nodes: frozenset[str], aliases: Mapping[str, str]) -> frozenset[str]:
    """With what lands under another name of one of them."""
    return nodes | {landing for alias, landing in aliases.items() if alias in nodes}


def nearest_project(folder: Path) -> Path:
    """The folder, or the one nearest above it, that holds a `dbt_project.yml`; the folder itself without any."""
    folder = folder.resolve()
    return next((f for f in (folder, *folder.parents) if (f / "dbt_project.yml").is_file()), folder)


@dataclass(frozen=True, slots=True)
class _Read:
    """A project as dbt read it, now or before.

    Attributes:
        fingerprint: of what dbt looked at; None where that cannot be told.
    """

    graph: Graph
    profile: str
    target: str
    warehouse: WarehouseProfile = field(repr=False)
    fingerprint: str | None


def _recall(options: DbtOptions, runner: Runner) -> _Read | None:
    known = cache.recall(options, runner.identity)
    if known is None or not known.is_composable:
        return None
    try:
        output = read_output(options)
    except NotRendered:
        return None
    warehouse = compose_warehouse(output)
    if warehouse is None or (output.profile, output.target) != (known.profile, known.target):
        return None
    return _Read(known.graph, known.profile, known.target, warehouse, known.fingerprint)


def _parse(options: DbtOptions, runner: Runner) -> _Read:
    recorder = cache.Recorder(options, runner.identity)
    parsed = runner.parse(options)
    composed = _compose(options, parsed)
    warehouse = parsed.warehouse or composed
    if warehouse is None:
        raise UsageError(
            f"the profile's output {parsed.target!r} needs dbt's adapter {parsed.graph.adapter} to be read, and that "
            "is not installed beside dbt-bridge",
            mend=f"pip install dbt-{parsed.graph.adapter}, or write it without secrets, plugins and databases of "
            "special kinds",
        )
    seen = None
    if parsed.is_repeatable:
        is_composable = composed is not None and warehouse == composed
        seen = recorder.remember(parsed.graph, parsed.profile, parsed.target, is_composable=is_composable)
    return _Read(parsed.graph, parsed.profile, parsed.target, warehouse, seen)


def _compose(options: DbtOptions, parsed: Parsed) -> WarehouseProfile | None:
    try:
        output = read_output(options)
    except NotRendered:
        return None
    return compose_warehouse(output) if parsed.warehouse is not None else compose_named(output)


def _list_selected(options: DbtOptions, runner: Runner, read: _Read) -> frozenset[str]:
    selected = cache.recall_selected(options, read.fingerprint)
    if selected is None:
        selected = runner.list_selected(options)
        cache.remember_selected(options, read.fingerprint, selected)
    return selected
