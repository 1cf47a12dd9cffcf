"""The log of a source that follows no table now: nobody needs it, and it would fill the origin's disk."""

from __future__ import annotations

from dbt_bridge.cdc.checkpoints import any_stands
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.origins import find_change_source
from dbt_bridge.sync.ends import Ends


def release_idle_log(project: Project, source: LandingSource, ends: Ends, progress: Progress) -> None:
    """Let go of it up to where it ends, unless a table goes on from where it stands.

    Raises:
        ConnectionFailed, OriginError: the origin cannot be asked.
    """
    changes = find_change_source(source, project_root=project.root, tell=progress.message)
    if changes is None:
        return
    with changes:
        if changes.check_health("").exists and not any_stands(ends.ledger, changes.read_identity()):
            changes.release_log(changes.find_end())
