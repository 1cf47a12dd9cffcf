"""What no manifest holds of a project's YAML: sources without any table, and `bridge` blocks before rendering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dbt_bridge.contracts.settings import ProfileOutput
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.graph import BUILT, BareSource
from dbt_bridge.project.reading.output import list_public
from dbt_bridge.project.reading.project_file import ProjectFile, read_yaml
from dbt_bridge.project.reading.rendering import NotRendered, Renderer

_UNRENDERED = ("description", "loaded_at_query", "tests", "data_tests")


class YamlFiles:
    """The YAML files of a project and of its packages, as dbt finds them beside its models.

    Args:
        output: of the profile, which templates know as `target`.
    """

    def __init__(self, project: ProjectFile, output: ProfileOutput) -> None:
        self._project, self._output = project, output
        self._files = {
            f"{package.name}://{file.relative_to(package.folder)}": (package, file, read_yaml(file))
            for package in (project, *project.list_packages())
            for file in _list_yaml(package)
        }

    def list_bare_sources(self) -> Iterator[BareSource]:
        """The enabled sources with a `bridge` block and without any table.

        Raises:
            UsageError: such a source needs more of dbt's templates than is known here.
        """
        for package, file, content in self._files.values():
            for raw in list_entries(content, "sources"):
                if not is_bare(raw):
                    continue
                try:
                    source = self._read_source(raw, package, file)
                except NotRendered as why:
                    raise _refuse_template(raw, package, file, why) from None
                if source is not None:
                    yield source

    def list_raw_blocks(self, manifest: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """The `bridge` blocks that stand in YAML beside models, seeds and snapshots, unrendered, by unique_id."""
        found: dict[str, tuple[Any, ...]] = {}
        for unique_id, node in (manifest.get("nodes") or {}).items():
            place = self._files.get(node.get("patch_path") or "")
            content = place[2] if place else None
            blocks = tuple(list_blocks(node["resource_type"], node["name"], content))
            if node["resource_type"] in BUILT and blocks:
                found[unique_id] = blocks
        return found

    def complete_sources(self, manifest: dict[str, Any]) -> None:
        """Give the manifest of dbt 2 what dbt 1's has of each source table: `source_meta` and `quoting`.

        Raises:
            UsageError: these need more of dbt's templates than is known here.
        """
        declared = {
            (package.name, raw.get("name")): (raw, package, file)
            for package, file, content in self._files.values()
            for raw in list_entries(content, "sources")
        }
        for table in (manifest.get("sources") or {}).values():
            found = declared.get((table["package_name"], table["source_name"]))
            if "source_meta" in table or found is None:
                continue
            raw, package, file = found
            own = next((one for one in list_entries(raw, "tables") if one.get("name") == table["name"]), {})
            wanted = {"meta": {**_meta(raw), **_meta(raw.get("config"))}, "quoting": raw.get("quoting") or {}}
            try:
                source = self._renderer(package).render({**wanted, "own": own.get("quoting") or {}})
            except NotRendered as why:
                raise _refuse_template(raw, package, file, why) from None
            table["source_meta"] = source["meta"]
            table["quoting"] = {**source["quoting"], **source["own"]}

    def _read_source(self, raw: Mapping[str, Any], package: ProjectFile, file: Path) -> BareSource | None:
        entry = self._renderer(package).render({key: raw[key] for key in raw if key not in _UNRENDERED})
        return make_bare_source(entry, package.name, str(file.relative_to(package.folder)))

    def _renderer(self, package: ProjectFile) -> Renderer:
        def find_var(name: str) -> Any:
            try:
                return self._project.find_var(name, package.name)
            except KeyError:
                return package.find_var(name, package.name)

        return Renderer(self._project.variables, context={"target": list_public(self._output)}, find_var=find_var)


def _refuse_template(raw: Mapping[str, Any], package: ProjectFile, file: Path, why: NotRendered) -> UsageError:
    return UsageError(
        f"source {raw.get('name')} ({file.relative_to(package.folder)}): only dbt's own module can render it ({why})",
        mend="write the values of the source without templates, or with env_var and var alone",
    )


def is_bare(raw: Mapping[str, Any]) -> bool:
    """Whether an entry of `sources:` has a `bridge` block, and no table of which dbt would have a node."""
    has_block = "bridge" in {**_meta(raw), **_meta(raw.get("config"))}
    return has_block and not raw.get("tables") and "overrides" not in raw


def make_bare_source(entry: Mapping[str, Any], package: str, path: str) -> BareSource | None:
    """Of a rendered entry; None where it is not enabled."""
    settings = entry.get("config") or {}
    if not settings.get("enabled", True):
        return None
    name = str(entry.get("name"))
    meta = {**_meta(entry), **_meta(settings)}
    schema, database = entry.get("schema") or name, entry.get("database") or None
    return BareSource(package, name, path, schema, database, meta, entry.get("quoting") or {})


def list_blocks(kind: str, name: str, content: Any) -> Iterator[Any]:
    """The `bridge` blocks of one node in the YAML file that describes it."""
    for entry in list_entries(content, f"{kind}s"):
        if entry.get("name") == name:
            for meta in (_meta(entry), _meta(entry.get("config"))):
                if "bridge" in meta:
                    yield meta["bridge"]


def _list_yaml(package: ProjectFile) -> Iterator[Path]:
    for folder in dict.fromkeys(package.list_folders()):
        yield from sorted(file for file in folder.rglob("*") if file.suffix in (".yml", ".yaml") and file.is_file())


def list_entries(content: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """What stands under a key of a YAML file, as far as it has the form that dbt wants."""
    entries = content.get(key) if isinstance(content, Mapping) else None
    return (entry for entry in entries or () if isinstance(entry, Mapping))


def _meta(holder: Any) -> Mapping[str, Any]:
    meta = holder.get("meta") if isinstance(holder, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}
