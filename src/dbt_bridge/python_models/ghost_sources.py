"""Ghost sources: tables of another database that a Python model names with `dbt.source()` before their rows landed.

dbt-duckdb raises at once for a source table that the warehouse does not have, and an empty stub would build green
with 0 rows. So a source that has not landed gets, for the time of the run, a view that can be bound and that raises
when a row is read. dbt's own plugin interface (`dbt.plugins.manager.dbtPlugin`) hands every installed `dbt_*` module
the parsed manifest; this plugin adds one on-run-start and one on-run-end operation to it in memory, as dbt would have
read them from `dbt_project.yml`. docs/ghost-sources.md has the alternatives that were rejected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from dbt.artifacts.resources.base import FileHash
from dbt.artifacts.resources.types import NodeType
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import HookNode, ModelNode, SourceDefinition
from dbt.plugins.contracts import PluginArtifacts
from dbt.plugins.manager import dbt_hook, dbtPlugin

from dbt_bridge.nouns.graph import GHOSTS
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.nouns.table import GHOST_MARK, quote_identifier, quote_literal
from dbt_bridge.python_models.session import project_root


class GhostSources(dbtPlugin):
    """Adds the operations to manifests that need them, and to no other."""

    @dbt_hook  # type: ignore[untyped-decorator]
    def get_manifest_artifacts(self, manifest: Manifest) -> PluginArtifacts:
        _lead_dlt_to_the_project(manifest)
        ghosts = [_ghost(source) for source in ghost_sources(manifest)]
        if ghosts:
            for node in (_operation(self.project_name, *kind, ghosts) for kind in _OPERATIONS):
                manifest.nodes[node.unique_id] = node
        return {}


def _lead_dlt_to_the_project(manifest: Manifest) -> None:
    """Let dlt find `.dlt/` beside dbt_project.yml, wherever dbt was started: it looks in the working folder.

    A model may ask dlt for a secret before it calls `transfer`, so this is done before the first model runs.
    """
    if any("dlt" in model.raw_code or "dbt_bridge" in model.raw_code for model in _python_models(manifest)):
        os.environ.setdefault("DLT_PROJECT_DIR", str(project_root()))


def ghost_sources(manifest: Manifest) -> Iterator[SourceDefinition]:
    """The sources that a Python model reads and that may not be in the warehouse, by unique_id."""
    if manifest.metadata.adapter_type != "duckdb":  # other adapters run Python models elsewhere, or not at all
        return
    readers: dict[str, list[ModelNode]] = {}
    for model in _python_models(manifest):
        for parent in model.depends_on.nodes:
            readers.setdefault(parent, []).append(model)
    for unique_id, source in sorted(manifest.sources.items()):
        if unique_id in readers and not _read_by_dbt_duckdb(source):
            uses_bridge = any("dbt_bridge" in node.raw_code for node in readers[unique_id])
            if uses_bridge or "bridge" in _meta(source):
                yield source


def _python_models(manifest: Manifest) -> Iterator[ModelNode]:
    return (n for n in manifest.nodes.values() if isinstance(n, ModelNode) and n.language == "python")


def _meta(source: SourceDefinition) -> Mapping[str, Any]:
    return {**source.source_meta, **source.meta, **(source.config.meta or {})}


def _read_by_dbt_duckdb(source: SourceDefinition) -> bool:
    """dbt-duckdb itself reads these sources from a file or through one of its plugins."""
    meta = _meta(source)
    return bool(source.external) or "external_location" in meta or "plugin" in meta


def _ghost(source: SourceDefinition) -> dict[str, Any]:
    """The statements for one source, in its own database."""
    within = f"{quote_identifier(source.database)}." if source.database else ""
    schema = f"{within}{quote_identifier(source.schema)}"
    view = f"{schema}.{quote_identifier(source.identifier)}"
    database = quote_literal(source.database) if source.database else "current_database()"
    name, place = f"{source.source_name}.{source.name}", f"{source.schema}.{source.identifier}"
    says = (
        f"the source {name} has not landed in {place}:"
        f" run dbt-bridge sync --select {format_shell_selector(source.unique_id)}"
    )
    columns = ",\n  ".join(
        f"CAST(NULL AS VARCHAR) AS {quote_identifier(column)}" for column in source.columns or ["not_landed"]
    )
    # IF NOT EXISTS leaves a table, or another view, of that name as it is. error() in a WHERE clause is evaluated for
    # every read, count(*) too, and by no binding.
    create = (
        f"CREATE VIEW IF NOT EXISTS {view} AS\n"
        f"SELECT\n  {columns}\n"
        f"FROM (SELECT 1) AS {GHOST_MARK}\n"
        f"WHERE error({quote_literal(says)})"
    )
    find = (
        "SELECT 1 FROM duckdb_views()\n"  # noqa: S608
        f"WHERE lower(database_name) = lower({database})\n"
        f"  AND lower(schema_name) = lower({quote_literal(source.schema)})\n"
        f"  AND lower(view_name) = lower({quote_literal(source.identifier)})\n"
        f"  AND contains(sql, {quote_literal(GHOST_MARK)})"
    )
    writable = (
        "SELECT 1 FROM duckdb_databases()\n"  # noqa: S608
        f"WHERE lower(database_name) = lower({database}) AND NOT readonly AND type IN ('duckdb', 'motherduck')"
    )
    return {
        "database": source.database or "",
        "writable": writable,
        "create": [f"CREATE SCHEMA IF NOT EXISTS {schema}", create],
        "find": find,
        "drop": f"DROP VIEW IF EXISTS {view}",
    }


# Jinja that dbt renders when a run starts and ends; `ghosts` is JSON in ASCII, which is a Jinja literal too. What
# cannot be written to (an attached database, read-only or of another kind) is somebody else's to fill.
_START = """{% set ghosts = %s %}
{% if execute %}
{% for ghost in ghosts if ghost.database in ('', target.database) or run_query(ghost.writable) | length %}
{% for statement in ghost.create %}{% do run_query(statement) %}{% endfor %}
{% endfor %}
{% endif %}"""

_END = """{% set ghosts = %s %}
{% if execute %}
{% for ghost in ghosts if ghost.database in ('', target.database) or run_query(ghost.writable) | length %}
{% set found = run_query(ghost.find) %}
{% if found | length %}{% do run_query(ghost.drop) %}{% endif %}
{% endfor %}
{% endif %}"""

_OPERATIONS = (("on-run-start", _START), ("on-run-end", _END))


def _operation(project: str, kind: str, jinja: str, ghosts: list[dict[str, Any]]) -> HookNode:
    name = f"dbt_bridge-{kind}{GHOSTS}"
    code = jinja.replace("%s", json.dumps(ghosts, ensure_ascii=True), 1)
    return HookNode(
        resource_type=NodeType.Operation,
        unique_id=f"operation.{project}.{name}",
        package_name=project,
        name=name,
        alias=name,
        fqn=[project, "hooks", name],
        path=f"hooks/{name}.sql",
        original_file_path="dbt_project.yml",
        checksum=FileHash.from_contents(code),
        database="",
        schema="",
        tags=[kind],
        raw_code=code,
        language="sql",
        index=-1 if kind == "on-run-start" else 1_000_000,  # the first to begin, the last to end
    )
