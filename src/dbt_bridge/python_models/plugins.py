"""What dbt finds of this package when it starts: its plugins (`dbt.plugins.manager`)."""

from __future__ import annotations

from typing import Any

from dbt.contracts.graph.manifest import Manifest
from dbt.plugins.contracts import PluginArtifacts
from dbt.plugins.manager import dbt_hook, dbtPlugin

from dbt_bridge.errors import BridgeError
from dbt_bridge.python_models.ghost_sources import GhostSources


class BuildPlaces(dbtPlugin):
    """Writes where each run of dbt builds, for the gate of deliveries; in projects that deliver something."""

    @dbt_hook  # type: ignore[untyped-decorator]
    def get_manifest_artifacts(self, manifest: Manifest) -> PluginArtifacts:
        config = _find_config()
        if config is not None and any("bridge" in _meta(exposure) for exposure in manifest.exposures.values()):
            _remember(config)
        return {}


plugins = [GhostSources, BuildPlaces]


def _find_config() -> Any:
    """dbt's configuration of this run, which its commands keep in click's context."""
    import click

    context = click.get_current_context(silent=True)
    return None if context is None or not context.obj else context.obj.get("runtime_config")


def _meta(exposure: Any) -> dict[str, Any]:
    return {**(exposure.meta or {}), **(exposure.config.meta or {})}


def _remember(config: Any) -> None:
    from pathlib import Path

    from dbt_common.invocation import get_invocation_id

    from dbt_bridge.project.places import digest_place, remember_place
    from dbt_bridge.project.profile import read_warehouse_profile

    try:
        warehouse = read_warehouse_profile(config)
    except BridgeError:  # dbt itself is about to refuse this profile
        return
    digest = digest_place(config.profile_name, config.target_name, warehouse)
    remember_place(Path(config.project_root) / config.target_path, get_invocation_id(), digest)
