"""selectors.yml, as it stands: dbt's manifest keeps the selectors of the parse before where nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.reading.project_file import read_yaml
from dbt_bridge.project.reading.rendering import NotRendered, Renderer


def read_selectors(options: DbtOptions, profile: str, target: str) -> dict[str, Mapping[str, Any]]:
    """The entries of selectors.yml by name, with `definition` and `default`; none where there is no such file.

    Args:
        profile, target: their names, for templates.
    """
    content = read_yaml(options.project_dir / "selectors.yml")
    if not isinstance(content, Mapping):  # no such file, or an empty one
        return {}
    renderer = Renderer(options.vars, context={"target": {"name": target, "profile_name": profile}})
    found: dict[str, Mapping[str, Any]] = {}
    for raw in content.get("selectors") or ():
        if isinstance(raw, Mapping):
            found[str(raw.get("name"))] = _render(raw, renderer)
    return found


def _render(raw: Mapping[str, Any], renderer: Renderer) -> Mapping[str, Any]:
    """Where dbt alone can render it, the entry as it is written: what may be the default is asked for."""
    try:
        rendered: Mapping[str, Any] = renderer.render(dict(raw))
    except NotRendered:
        return raw
    return {**rendered, "default": str(rendered.get("default", False)).lower() == "true"}
