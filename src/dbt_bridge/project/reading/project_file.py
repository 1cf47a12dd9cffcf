"""dbt_project.yml, and the folders that it names, without dbt."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.project.reading.rendering import NotRendered, Renderer

_PATHS = {
    "model-paths": ("models", "source-paths"),
    "seed-paths": ("seeds", "data-paths"),
    "snapshot-paths": ("snapshots", ""),
    "test-paths": ("tests", ""),
    "analysis-paths": ("analyses", ""),
    "macro-paths": ("macros", ""),
    "function-paths": ("functions", ""),
}
"""The keys whose folders dbt reads, the folder by default, and the key's name of before."""


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A dbt_project.yml, of the project itself or of an installed package.

    Attributes:
        folder: that holds it.
        content: as it is written, unrendered.
    """

    folder: Path
    content: Mapping[str, Any] = field(repr=False)
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The project's name.

        Raises:
            NotRendered: only dbt can tell.
        """
        return str(self._render("name", ""))

    @property
    def profile(self) -> str:
        """The name of its profile, as it stands here; empty without one. Raises as `name`."""
        return str(self._render("profile", "") or "")

    @property
    def target_path(self) -> str:
        """`target-path`, as it stands here. Raises as `name`."""
        return str(self._render("target-path", "") or "target")

    def list_folders(self) -> Iterator[Path]:
        """The folders in which dbt looks for files of this project, there or not. Raises as `name`."""
        for key, (usual, before) in _PATHS.items():
            named = self._render(key, None) or (self._render(before, None) if before else None) or [usual]
            yield from (self.folder / str(path) for path in _as_list(named))
        for key in ("docs-paths", "asset-paths"):
            yield from (self.folder / str(path) for path in _as_list(self._render(key, None) or []))

    @property
    def packages_folder(self) -> Path:
        """Where its packages are installed, there or not. Raises as `name`."""
        return self.folder / str(self._render("packages-install-path", None) or "dbt_packages")

    def list_packages(self) -> Iterator[ProjectFile]:
        """The packages that are installed in it, as dbt finds them. Raises as `name`."""
        folder = self.packages_folder
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() and not path.name.startswith("__"):
                yield read_project_file(path, self.variables)

    def find_var(self, name: str, package: str) -> Any:
        """A variable that this file gives to a package: that of the package before that of all.

        Raises:
            KeyError: it gives none.
        """
        given = self.content.get("vars") or {}
        own = given.get(package)
        if isinstance(own, Mapping) and name in own:
            return own[name]
        return given[name]

    def _render(self, key: str, otherwise: Any) -> Any:
        return Renderer(self.variables).render(self.content.get(key, otherwise))


def read_project_file(folder: Path, variables: Mapping[str, Any]) -> ProjectFile:
    """The dbt_project.yml of a folder.

    Raises:
        NotRendered: there is none, or it is not YAML: dbt says so itself.
    """
    content = read_yaml(folder / "dbt_project.yml")
    if not isinstance(content, Mapping):
        raise NotRendered("dbt_project.yml")
    return ProjectFile(folder, content, variables)


def read_yaml(file: Path) -> Any:
    """The content of a YAML file, as dbt's loader reads it; None without a file.

    Raises:
        NotRendered: it cannot be read.
    """
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise NotRendered(file.name) from None
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        raise NotRendered(file.name) from None


def find_target_folder(options: DbtOptions) -> Path:
    """Where dbt writes its artifacts: `--target-path`, DBT_TARGET_PATH, `target-path:` of dbt_project.yml, `target`."""
    given = options.flags.get("target_path") or read_dbt_variable("TARGET_PATH")
    if not given:
        try:
            given = read_project_file(options.project_dir, options.vars).target_path
        except NotRendered:
            given = "target"
    return options.project_dir.resolve() / str(given)


def parses_whole(options: DbtOptions) -> bool:
    """Whether dbt is told to parse everything each time (`--no-partial-parse`): then nothing that it said is kept."""
    given = options.flags.get("partial_parse", read_dbt_variable("PARTIAL_PARSE"))
    if given is None:
        try:
            flags = read_project_file(options.project_dir, options.vars).content.get("flags")
        except NotRendered:
            return True
        given = flags.get("partial_parse") if isinstance(flags, Mapping) else None
    return str(given).lower() in ("false", "0", "f", "n", "no", "off")


def read_dbt_variable(name: str) -> str | None:
    """One of dbt's own settings in the environment: `DBT_ENGINE_NAME`, or `DBT_NAME`."""
    return os.environ.get(f"DBT_ENGINE_{name}") or os.environ.get(f"DBT_{name}")


def _as_list(named: Any) -> list[Any]:
    return named if isinstance(named, list) else [named]
