"""What dbt's `--select` and `--exclude` mean for the bridge: dbt decides, over its own manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter

from dbt_bridge.nouns.graph import BUILT, TESTS, Graph
from dbt_bridge.nouns.project import DbtOptions, LandingSource
from dbt_bridge.nouns.selector import format_selector


@dataclass(frozen=True, slots=True)
class SelectedNodes:
    """What a selection names: as in `Project`, selected, needed, needed_undeclared and not_needed_undeclared."""

    nodes: frozenset[str] | None
    needed: frozenset[str] | None
    undeclared: tuple[str, ...]
    not_undeclared: tuple[str, ...]


def select_nodes(
    options: DbtOptions, graph: Graph, sources: Sequence[LandingSource], list_selected: Callable[[], frozenset[str]]
) -> SelectedNodes:
    """The selection's nodes, and the sources that they read.

    Args:
        list_selected: asks dbt (`dbt ls`) for the unique_ids of the selection; called only where there is one.

    A source is needed when it is selected itself, or when a selected node reads it directly: what is further
    upstream is somebody else's selection, as in dbt.
    """
    # `selectors.yml` may hold a default selection, which dbt applies by itself.
    default = (options.project_dir / "selectors.yml").exists()
    if not options.select and not options.exclude and not default:
        return SelectedNodes(None, None, (), ())
    selected = list_selected()
    declared = {table.unique_id for table in graph.list_nodes("source")}
    # A unit test reads nothing but what is written in it.
    readers = [node for node in selected if not node.startswith("unit_test.")]
    parents = {parent for node in readers for parent in graph.list_parents(node)}
    needed = frozenset(node for node in selected | parents if node in declared)
    wanted = _list_globs(options.select, sources) if options.select or default else ("*",)
    return SelectedNodes(selected, needed, wanted, _list_globs(options.exclude, sources))


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
    names = tuple(f"{node.name}" for node in below if node.is_built)
    flags = {key: value for key, value in options.flags.items() if key != "selector"}
    return replace(options, select=names, exclude=(), flags=flags, full_refresh=False) if names else None


def _list_globs(selectors: Sequence[str], sources: Sequence[LandingSource]) -> tuple[str, ...]:
    """Which unique_ids of undeclared tables dbt's `source:` method would name, had they been declared.

    dbt cannot know these tables, so of its syntax only `source:shop`, `source:shop.orders` and
    `source:package.shop.orders` (with globs, and with `+`, which leads nowhere from them) reach them.
    """
    globs: list[str] = []
    for one in (part for selector in selectors for part in selector.split()):
        method, _, value = re.sub(r"^@|^\d*\+|\+\d*$", "", one).partition(":")
        if method != "source" or not value or "," in value:
            continue
        parts = value.split(".")
        if len(parts) > 3:
            continue
        package_glob, source_glob, table_glob = {
            1: ["*", parts[0], "*"],
            2: ["*", *parts],
            3: parts,
        }[len(parts)]
        for source in sources:
            prefix = source.defaults.node
            _, package, name, _ = prefix.split(".", 3)
            if fnmatchcase(package, package_glob) and fnmatchcase(name, source_glob):
                globs.append(f"{prefix}{table_glob}")
    return tuple(dict.fromkeys(globs))
