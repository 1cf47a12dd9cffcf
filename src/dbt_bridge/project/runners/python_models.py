"""Which Python models a dbt can run: dbt 2 has none where dbt 1 runs them in its own process."""

from __future__ import annotations

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import Project
from dbt_bridge.project.connectors import SESSIONS, registry


def refuse_python_models(project: Project) -> None:
    """Refuse a selection that has Python models of dbt-duckdb and its like, before anything moves, where dbt is dbt 2.

    Raises:
        UsageError: names them, and what to use instead.
    """
    graph = project.graph
    if graph is None or not graph.dbt_version.startswith("2.") or not registry().can_open(SESSIONS, graph.adapter):
        return
    chosen = project.selected
    found = [node.name for node in graph.list_nodes("model") if node.language == "python"
             and (chosen is None or node.unique_id in chosen)]  # fmt: skip
    if found:
        raise UsageError(
            f"dbt {graph.dbt_version} runs no Python models on {graph.adapter}, and so no dbt_bridge.transfer, "
            f"api_to_df or ghost source: {', '.join(sorted(found))}",
            mend="land such rows as a source (`bridge` in its config.meta) and write the model in SQL; "
            "or build with dbt 1: --dbt /path/to/dbt1; or leave it out: --exclude " + " ".join(sorted(found)),
        )
