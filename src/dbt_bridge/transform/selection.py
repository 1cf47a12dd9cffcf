"""What dbt's `--select` and `--exclude` mean for the bridge: dbt decides, over its own manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbt.contracts.graph.manifest import Manifest

from dbt_bridge.project import DbtOptions, LandingSource
from dbt_bridge.transform import invoke


@dataclass(frozen=True, slots=True)
class Picked:
    """As in `Project`: selected, needed, needed_undeclared, not_needed_undeclared."""

    selected: frozenset[str] | None
    needed: frozenset[str] | None
    undeclared: tuple[str, ...]
    not_undeclared: tuple[str, ...]


def pick(options: DbtOptions, manifest: Manifest, sources: Sequence[LandingSource]) -> Picked:
    """The selection's nodes, and the sources that they read.

    A source is needed when it is selected itself, or when a selected node reads it directly: what is further
    upstream is somebody else's selection, as in dbt.
    """
    # `selectors.yml` may hold a default selection, which dbt applies by itself.
    default = (options.project_dir / "selectors.yml").exists()
    if not options.select and not options.exclude and not default:
        return Picked(None, None, ("*",), ())
    selected = invoke.selected(options, manifest)
    parents = {parent for node in selected for parent in _parents(node, manifest)}
    needed = frozenset(node for node in selected | parents if node in manifest.sources)
    wanted = _globs(options.select, sources) if options.select or default else ("*",)
    return Picked(selected, needed, wanted, _globs(options.exclude, sources))


def _parents(node: str, manifest: Manifest) -> list[str]:
    for group in (manifest.nodes, manifest.exposures, manifest.unit_tests):
        if node in group:
            return list(group[node].depends_on.nodes)
    return []


def _globs(selectors: Sequence[str], sources: Sequence[LandingSource]) -> tuple[str, ...]:
    """Which unique_ids of undeclared tables dbt's `source:` method would name, had they been declared.

    dbt cannot know these tables, so of its syntax only `source:shop`, `source:shop.orders` and
    `source:package.shop.orders` (with globs, and with `+`, which leads nowhere from them) reach them.
    """
    globs: list[str] = []
    for one in (part for selector in selectors for part in selector.split()):
        method, _, value = one.strip("+@").partition(":")
        if method != "source" or not value or "," in value:
            continue
        parts = value.rstrip("+0123456789").split(".") if value.endswith("+") else value.split(".")
        for source in sources:
            prefix = source.defaults.node
            package = prefix.split(".")[1]
            if len(parts) == 1:
                globs += _matching(prefix, package, ("*", parts[0], "*"))
            elif len(parts) == 2:
                globs += _matching(prefix, package, ("*", *parts))
            elif len(parts) == 3:
                globs += _matching(prefix, package, (parts[0], parts[1], parts[2]))
    return tuple(dict.fromkeys(globs))


def _matching(prefix: str, package: str, wanted: tuple[str, str, str]) -> list[str]:
    from fnmatch import fnmatchcase

    _, _, source, _ = prefix.split(".", 3)
    fits = fnmatchcase(package, wanted[0]) and fnmatchcase(source, wanted[1])
    return [f"{prefix}{wanted[2]}"] if fits else []
