"""What dbt's `--select` and `--exclude` mean for the bridge: dbt decides, over its own manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import Any

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.graph import BUILT, TESTS, Graph
from dbt_bridge.nouns.project import DbtOptions, LandingSource
from dbt_bridge.nouns.selector import format_fqn, format_selector
from dbt_bridge.project.arguments import format_selection
from dbt_bridge.project.reading.project_file import read_dbt_variable
from dbt_bridge.project.selecting.criteria import Criterion, Selection, parse_definition, parse_texts, spell_texts
from dbt_bridge.project.selecting.undeclared import list_undeclared


@dataclass(frozen=True, slots=True)
class SelectedNodes:
    """What a selection names: as in `Project`, selected, needed, needed_undeclared and not_needed_undeclared."""

    nodes: frozenset[str] | None
    needed: frozenset[str] | None
    undeclared: tuple[str, ...]
    not_undeclared: tuple[str, ...]


ListSelected = Callable[[DbtOptions], frozenset[str]]
"""Asks dbt (`dbt ls`) for the unique_ids that options select."""

_OF_ANOTHER_RUN = frozenset({"state", "result", "source_status"})
"""Methods that may well name nothing: nothing has changed, nothing has failed."""


def select_nodes(
    options: DbtOptions,
    graph: Graph,
    sources: Sequence[LandingSource],
    list_selected: ListSelected,
    selectors: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> SelectedNodes:
    """The selection's nodes, and the sources that they read.

    A source is needed when it is selected itself, or when a selected node reads it, directly or through ephemeral
    models: what is further upstream is somebody else's selection, as in dbt. What the exclusion names is never
    touched, whoever reads it.

    Args:
        selectors: the entries of selectors.yml, by name.

    Raises:
        UsageError: the selection names nothing.
    """
    selection = _find_selection(options, selectors)
    kinds, not_kinds = _list_types(options, "resource_type"), _list_types(options, "exclude_resource_type")
    if selection is None and not kinds and not not_kinds:
        return SelectedNodes(None, None, (), ())
    selection = selection or Selection()
    selected = list_selected(options)
    declared = frozenset(table.unique_id for table in graph.list_nodes("source"))
    # A unit test reads nothing but what is written in it.
    read = (graph.list_read(node) for node in selected if not node.startswith("unit_test."))
    needed = selected.union(*read) & declared
    if "source" in not_kinds:
        needed = frozenset()
    elif selection.excluded and needed - selected:
        needed -= list_selected(_select_excluded(options, selection)) - selected
    wanted: tuple[str, ...] = ()
    if "source" not in not_kinds and (not kinds or kinds & {"source", "all", "default"}):
        wanted = ("*",) if selection.included is None else list_undeclared(selection.included, graph, sources)
    not_wanted = list_undeclared(selection.excluded, graph, sources)
    if not selected and not any(_is_left(glob, not_wanted, sources) for glob in wanted):
        _refuse_nothing(options, selection, graph)
    return SelectedNodes(selected, needed, wanted, not_wanted)


def _find_selection(options: DbtOptions, selectors: Mapping[str, Mapping[str, Any]]) -> Selection | None:
    """What the options, or else the default of selectors.yml, select; None for everything, as dbt decides it."""
    if named := options.flags.get("selector"):
        return parse_definition(str(named), selectors)  # dbt refuses one that is not there, by name
    if options.select or options.exclude:
        included = parse_texts(options.select) if options.select else None
        return Selection(included, parse_texts(options.exclude))
    default = next((name for name, one in selectors.items() if one.get("default")), None)
    return None if default is None else parse_definition(default, selectors)


def _list_types(options: DbtOptions, key: str) -> frozenset[str]:
    """dbt's resource types of a flag, or of its variable in the environment."""
    given = options.flags.get(key) or read_dbt_variable(f"{key.upper()}S") or ""
    parts = re.split(r"[\s,]+", given) if isinstance(given, str) else given if isinstance(given, tuple) else ()
    return frozenset(part for part in parts if part)


def _select_excluded(options: DbtOptions, selection: Selection) -> DbtOptions:
    """Options that select the sources which the selection excludes."""
    other = ("selector", "exclude_resource_type", "warn_error", "warn_error_options")  # it may well name no source
    kept = {key: value for key, value in options.flags.items() if key not in other}
    flags = {**kept, "resource_type": ("source",)}
    return replace(options, select=spell_texts(selection.excluded), exclude=(), flags=flags)


def _is_left(glob: str, but: Sequence[str], sources: Sequence[LandingSource]) -> bool:
    """Whether any table that dbt does not know may meet a glob, and none of the others."""
    prefixes = [source.defaults.node for source in sources if source.every_table]
    met = prefixes if glob == "*" else [prefix for prefix in prefixes if glob.startswith(prefix)]
    return any(f"{prefix}*" not in but for prefix in met) and glob not in but


def _refuse_nothing(options: DbtOptions, selection: Selection, graph: Graph) -> None:
    """Raises UsageError: nothing is selected, and names the nearest. That nothing has changed is no mistake."""
    if any(criterion.method in _OF_ANOTHER_RUN for criterion in selection.list_criteria()):
        return
    given = format_selection(options) or "the default selector of selectors.yml"
    hint = next((near for one in selection.list_criteria() if (near := _find_nearest(one, graph))), None)
    raise UsageError(
        f"{given} selects nothing",
        mend=f"did you mean {hint}?"
        if hint
        else "select models by their name, tables as source:NAME.TABLE, deliveries as exposure:NAME: dbt-bridge plan",
    )


def _find_nearest(criterion: Criterion, graph: Graph) -> str | None:
    """The nearest of what one criterion could have been; None where nothing is near, or it is there."""
    names: dict[str, str] = {}
    for node in graph.nodes.values():
        name = f"{node.source_name}.{node.name}" if node.kind == "source" else node.name
        method = {"source": "source:", "exposure": "exposure:", "metric": "metric:"}.get(node.kind, "")
        if criterion.method in ("", "fqn") or f"{criterion.method}:" == method:
            names[f"{method}{name}"] = method + name
            names.setdefault(node.name, method + name)
            if node.kind == "source":
                names[f"source:{node.source_name}"] = f"source:{node.source_name}"
        elif criterion.method == "tag":
            names |= {f"tag:{tag}": f"tag:{tag}" for tag in node.tags}
    bare = replace(criterion, before="", after="")
    text = bare.value if bare.method == "fqn" else str(bare)
    found = get_close_matches(text, names, n=1)
    return None if not found else f"{criterion.before}{names[found[0]]}{criterion.after}"


@dataclass(frozen=True, slots=True)
class BuildNode:
    """A node that `dbt build` makes, and the tests that it runs on it."""

    unique_id: str
    kind: str
    name: str
    materialized: str
    tests: tuple[str, ...]


def list_build_order(graph: Graph, selected: frozenset[str] | None) -> tuple[BuildNode, ...]:
    """The seeds, snapshots and models of a selection, parents first, as `dbt build` runs them.

    A test belongs to the last node that it reads; tests on sources alone come first, as nodes of their own.
    """
    built = {node.unique_id: node for node in graph.list_nodes(*BUILT)}
    above = {unique_id: set(graph.list_parents(unique_id)) for unique_id in sorted(built)}
    order = [unique_id for unique_id in TopologicalSorter(above).static_order() if unique_id in built]
    last = {unique_id: place for place, unique_id in enumerate(order)}
    tests: dict[str, list[str]] = {}
    for test in graph.list_nodes(*TESTS):
        if selected is None or test.unique_id in selected:
            tested = [parent for parent in test.depends_on if parent in last]
            tests.setdefault(max(tested, key=last.__getitem__, default=""), []).append(test.unique_id)
    on_sources = (BuildNode(t, "test", t.split(".")[2], "test", ()) for t in sorted(tests.get("", ())))
    return *on_sources, *(
        BuildNode(
            unique_id,
            built[unique_id].kind,
            built[unique_id].name,
            built[unique_id].materialized,
            tuple(sorted(tests.get(unique_id, ()))),
        )
        for unique_id in order
        if selected is None or unique_id in selected
    )


def select_downstream(
    options: DbtOptions, graph: Graph, changed: Collection[str], selected: frozenset[str] | None = None
) -> DbtOptions | None:
    """The options of a `dbt build` of what reads these source tables, within the selection that is there already.

    Args:
        selected: what the options select now, which a selector of selectors.yml leaves no trace of in them.

    None when dbt knows none of the tables (`tables: "*"`), or nothing of the selection reads them.
    """
    known = [node for node in sorted(changed) if node in graph.nodes]
    if not known:
        return None
    sources = [f"{format_selector(node)}+" for node in known]
    if options.select and "selector" not in options.flags:
        within = [part for selector in options.select for part in selector.split()]
        select = [f"{source},{part}" for source in sources for part in within]
        return replace(options, select=tuple(select), full_refresh=False)
    if selected is None:
        return replace(options, select=tuple(sources), full_refresh=False)
    below = [graph.nodes[node] for node in sorted(graph.list_descendants(*known) & selected)]
    names = tuple(format_fqn(node.fqn) for node in below if node.is_built)
    flags = {key: value for key, value in options.flags.items() if key != "selector"}
    return replace(options, select=names, exclude=(), flags=flags, full_refresh=False) if names else None
