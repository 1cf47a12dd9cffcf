"""Tables that dbt does not know (`tables: "*"`): which of them a selection would name, had they been declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from dbt_bridge.nouns.graph import Graph
from dbt_bridge.nouns.project import LandingSource
from dbt_bridge.project.selecting.criteria import Criterion, Together, list_meeting


@dataclass(frozen=True, slots=True)
class _Unseen:
    """The tables of one source that dbt does not know.

    Attributes:
        prefix: of their unique_ids: `source.package.shop.`.
        tags, configs: what all declared tables of the source share; nothing where it declares none.
    """

    prefix: str
    package: str
    source: str
    path: str
    tags: frozenset[str]
    configs: tuple[Mapping[str, Any], ...]


def list_undeclared(
    alternatives: Sequence[Together], graph: Graph, sources: Sequence[LandingSource]
) -> tuple[str, ...]:
    """Globs of the unique_ids of undeclared tables that meet any of the alternatives.

    `source:`, `package:`, `path:`, `file:`, `tag:`, `config.` and `resource_type:source` reach them, as they would a
    declared table of their source; what is said of other nodes (`state:`, a model's name, ...) never does, and a `+`
    leads nowhere from them.
    """
    unseen = tuple(_list_unseen(graph, sources))
    return list_meeting(alternatives, lambda criterion: tuple(_list_globs(criterion, unseen)), _intersect)


def _list_unseen(graph: Graph, sources: Sequence[LandingSource]) -> Iterator[_Unseen]:
    for source in sources:
        if source.every_table:
            prefix = source.defaults.node
            _, package, name, _ = prefix.split(".", 3)
            declared = [graph.nodes[table.node] for table in source.tables if table.node in graph.nodes]
            paths = [node.path for node in declared] + [
                bare.path for bare in graph.bare_sources if (bare.package, bare.name) == (package, name)
            ]
            tags = frozenset.intersection(*(frozenset(node.tags) for node in declared)) if declared else frozenset()
            configs = tuple(node.config for node in declared)
            yield _Unseen(prefix, package, name, paths[0] if paths else "", tags, configs)


def _list_globs(criterion: Criterion, unseen: Sequence[_Unseen]) -> Iterator[str]:
    method, _, key = criterion.method.partition(".")
    if method == "source":
        parts = criterion.value.split(".")
        package, source, table = {1: ["*", *parts, "*"], 2: ["*", *parts], 3: parts}.get(len(parts), ["", "", ""])
        for one in unseen:
            if fnmatchcase(one.package, package) and fnmatchcase(one.source, source):
                yield f"{one.prefix}{table}"
        return
    meets = _METHODS.get(method)
    if meets is not None:
        yield from (f"{one.prefix}*" for one in unseen if meets(one, criterion.value, key))


def _is_at(one: _Unseen, value: str, _: str) -> bool:
    path = PurePosixPath(one.path)
    return any(fnmatchcase(str(place), value.rstrip("/")) for place in (path, *path.parents))


def _is_configured(one: _Unseen, value: str, key: str) -> bool:
    def find(config: Any) -> Any:
        for part in key.split("."):
            config = config.get(part) if isinstance(config, Mapping) else None
        return config

    found = [find(config) for config in one.configs]
    texts = [[str(item).lower() for item in (each if isinstance(each, list) else [each])] for each in found]
    return bool(texts) and all(value.lower() in text for text in texts)


_METHODS: Mapping[str, Callable[[_Unseen, str, str], bool]] = {
    "package": lambda one, value, _: fnmatchcase(one.package, value),
    "resource_type": lambda one, value, _: value == "source",
    "tag": lambda one, value, _: any(fnmatchcase(tag, value) for tag in one.tags),
    "path": _is_at,
    "file": lambda one, value, _: fnmatchcase(PurePosixPath(one.path).name, value),
    "config": _is_configured,
}


def _intersect(one: str, other: str) -> str | None:
    """What two globs have in common, where one of them holds the other."""
    if fnmatchcase(one, other):
        return one
    return other if fnmatchcase(other, one) else None
